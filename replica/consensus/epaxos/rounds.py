"""Rounds: an instance that this replica carries to its decision, as its leader or in recovering it.

A leader first gathers pre-acceptances. A fast quorum of them, its own included, that add nothing to the dependencies
which it proposed decides at once. Otherwise the union of what a quorum answered goes through a round of votes, at the
first ballot. A recovery that has found out what is to be decided needs that round of votes alone, at its own ballot.

A round of votes goes on when somebody else takes the instance over: the votes on their way may be a quorum, and what a
quorum has voted for at one ballot is decided, whatever has been promised since, by this replica too. Nobody is asked
anew, though. A fast decision needs that the leader has promised nothing: a round of pre-acceptances ends there.

Rounds are not on disk. A replica that starts again takes up those of its own instances that nobody else has begun to
recover: whatever it had told others of them is durable, so asking once more is all that it takes.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from replica.consensus.ballots import Ballot
from replica.consensus.intake import Intake
from replica.consensus.interface import Command, Reason, Reject, ReplicaId
from replica.consensus.values import encode_batch

from .execution import Execution
from .instance import Instance
from .instances import Instances
from .messages import Accept, Accepted, Commit, Dependencies, InstanceId, Phase, PreAccept, PreAccepted, Refused
from .state import Core

REPEATED_BYTES_MAX: Final = 4 << 20
"""Bytes of values repeated in one turn, or one value more: what a link would drop is not worth its encoding."""


class Stage(Enum):
    """What a round gathers."""

    PREACCEPTING = "pre-accepting"
    ACCEPTING = "accepting"


class Round:
    """One instance on its way."""

    __slots__ = ("instance", "ballot", "stage", "answers", "holders", "taken", "sent_at")

    def __init__(self, instance: Instance, ballot: Ballot, stage: Stage, holders: set[ReplicaId], now: float) -> None:
        self.instance = instance
        self.ballot = ballot
        self.stage = stage
        self.answers: dict[ReplicaId, Dependencies] = {}
        """Who has answered in this stage, and what."""
        self.holders = holders
        """Who is known to hold the value."""
        self.taken = False
        """Somebody else has taken the instance over."""
        self.sent_at = now


class Rounds:
    """The rounds of this replica."""

    def __init__(self, core: Core, instances: Instances, execution: Execution) -> None:
        self._core = core
        self._instances = instances
        self._execution = execution
        self.intake = Intake(core, core.options)
        self.rounds: dict[InstanceId, Round] = {}
        self._space = instances.by_member[core.replica]

    @property
    def in_flight(self) -> int:
        """Instances of this replica's own space that it knows and that are not executed."""
        return len(self._space.live)

    # ------------------------------------------------------------------------------------------------------- proposing

    def on_proposed(self, commands: tuple[Command, ...]) -> None:
        """Clients ask for these."""
        self.intake.offer(commands)

    def settle(self) -> None:
        """The turn ends: propose as much as the window takes."""
        if not self._core.voting:
            return
        while self.intake and len(self._space.live) < self._core.options.window_instances:
            self._propose(self.intake.take())

    def _propose(self, commands: tuple[Command, ...]) -> None:
        core, instances, space = self._core, self._instances, self._space
        number = max(space.highest, space.executed) + 1
        instance = instances.obtain(core.replica, number)
        value = encode_batch(commands)
        instances.prepare(instance, value, commands)
        initial = instances.dependencies(instance, instances.reached)
        instances.learn(instance, value, initial)
        instance.phase = Phase.PREACCEPTED
        instance.dependencies = initial
        instance.own = True
        core.save(instance)
        core.counters["led"] += 1
        self._preaccept(instance)

    def _preaccept(self, instance: Instance) -> None:
        core = self._core
        assert instance.value is not None
        assert instance.initial is not None
        round_ = Round(instance, core.first_ballot, Stage.PREACCEPTING, {core.replica}, core.now)
        self.rounds[instance.id] = round_
        message = PreAccept(instance.space, instance.number, instance.value, instance.initial)
        if "instance minted twice" in core.bugs:
            core.broadcast(message)
        else:
            core.tell_all(message)
        core.tell(core.replica, PreAccepted(instance.space, instance.number, ()))

    def on_preaccepted(self, sender: ReplicaId, message: PreAccepted) -> None:
        """An answer to a proposal of this replica."""
        round_ = self.rounds.get((message.space, message.number))
        if round_ is None or round_.stage is not Stage.PREACCEPTING or not self._stands(round_):
            return
        initial = round_.instance.initial
        assert initial is not None
        round_.answers[sender] = message.dependencies or initial
        round_.holders.add(sender)
        self._weigh(round_)

    def _weigh(self, round_: Round, *, patient: bool = True) -> None:
        """Decide on the fast path, or go on to the slow one; a patient leader waits for a fast quorum to answer, if so
        many are there at all."""
        core, quorums = self._core, self._core.quorums
        instance, answers = round_.instance, round_.answers
        if core.replica not in answers or not quorums.phase2(answers.keys()):
            return
        same = sum(dependencies == instance.initial for dependencies in answers.values())
        if same >= quorums.fast_size:
            core.counters["fast"] += 1
            assert instance.initial is not None
            self.decide(instance, False, instance.initial)
        elif len(answers) >= quorums.fast_size or not patient or core.present < quorums.fast_size:
            core.counters["slow"] += 1
            union = tuple(max(column) for column in zip(*answers.values(), strict=True))
            self.accept(instance, core.first_ballot, False, union, holders=round_.holders)

    # ---------------------------------------------------------------------------------------------------------- voting

    def accept(
        self,
        instance: Instance,
        ballot: Ballot,
        noop: bool,
        dependencies: Dependencies,
        *,
        holders: set[ReplicaId],
    ) -> None:
        """Have this voted for at ``ballot``, which this replica owns and has promised, by this replica first of all."""
        core = self._core
        assert instance.ballot == ballot
        instance.voted = ballot
        instance.phase = Phase.ACCEPTED
        instance.noop = noop
        instance.dependencies = dependencies
        core.save(instance)
        self._vote(instance, holders)

    def _vote(self, instance: Instance, holders: set[ReplicaId]) -> None:
        core = self._core
        round_ = Round(instance, instance.ballot, Stage.ACCEPTING, holders, core.now)
        self.rounds[instance.id] = round_
        self._ask(round_, core.others)
        core.tell(core.replica, Accepted(instance.ballot, instance.space, instance.number))

    def _ask(self, round_: Round, to: tuple[ReplicaId, ...]) -> None:
        core, instance = self._core, round_.instance
        for full in (False, True):
            some = [member for member in to if (member not in round_.holders and not instance.noop) is full]
            message = Accept(
                round_.ballot,
                instance.space,
                instance.number,
                instance.noop,
                (instance.value or b"") if full else b"",
                instance.dependencies,
            )
            core.tell_some(some, message)

    def on_accepted(self, sender: ReplicaId, message: Accepted) -> None:
        """A vote."""
        round_ = self.rounds.get((message.space, message.number))
        if round_ is None or round_.stage is not Stage.ACCEPTING or round_.ballot != message.ballot:
            return
        if not self._stands(round_):
            return
        instance = round_.instance
        round_.answers[sender] = instance.dependencies
        round_.holders.add(sender)
        if self._core.quorums.phase2(round_.answers.keys()):
            self.decide(instance, instance.noop, instance.dependencies)

    def _stands(self, round_: Round) -> bool:
        """May what is gathered still decide? A vote of this replica at another ballot puts an end to its older one."""
        instance = round_.instance
        if not instance.decided and round_.ballot == (
            instance.ballot if round_.stage is Stage.PREACCEPTING else instance.voted
        ):
            return True
        self.rounds.pop(instance.id, None)
        return False

    def on_refused(self, message: Refused) -> None:
        """Somebody else is recovering it: leave it to them for a while."""
        round_ = self.rounds.get((message.space, message.number))
        if round_ is not None and message.ballot > round_.ballot:
            self.drop(round_.instance)

    def drop(self, instance: Instance) -> None:
        """The instance is carried on by somebody else."""
        round_ = self.rounds.get(instance.id)
        if round_ is None or round_.taken:
            return
        instance.due = self._core.now + self._instances.patience(instance)
        round_.taken = True
        if round_.stage is Stage.PREACCEPTING:
            del self.rounds[instance.id]

    def carries(self, instance: Instance) -> bool:
        """Does this replica carry it to its decision, and nobody else?"""
        round_ = self.rounds.get(instance.id)
        return round_ is not None and not round_.taken

    # -------------------------------------------------------------------------------------------------------- decisions

    def decide(self, instance: Instance, noop: bool, dependencies: Dependencies) -> None:
        """It is decided, and this replica was the first to know."""
        round_ = self.rounds.get(instance.id)
        holders = round_.holders if round_ is not None else set()
        self.learned(instance, noop, dependencies)
        core = self._core
        for full in (False, True):
            some = [member for member in core.others if (member not in holders and not noop) is full]
            value = (instance.value or b"") if full else b""
            core.tell_some(some, Commit(instance.space, instance.number, noop, value, dependencies))

    def learned(self, instance: Instance, noop: bool, dependencies: Dependencies) -> None:
        """It is decided. Commands of this replica's clients that came to nothing are proposed anew."""
        core = self._core
        self.rounds.pop(instance.id, None)
        self._instances.decide(instance, noop, dependencies)
        self._execution.decided(instance)
        if noop:
            core.counters["noops"] += 1
            if instance.own:
                self.intake.offer(instance.commands)

    # -------------------------------------------------------------------------------------------------- retransmission

    def tick(self) -> None:
        """Repeat what went unanswered, and stop waiting for a fast quorum that does not answer."""
        core = self._core
        before = core.now - core.options.retransmit_s
        budget = REPEATED_BYTES_MAX
        for round_ in [round_ for round_ in self.rounds.values() if round_.sent_at <= before]:
            if not self._stands(round_) or round_.taken:
                continue
            if round_.stage is Stage.PREACCEPTING:
                self._weigh(round_, patient=False)
            if self.rounds.get(round_.instance.id) is round_ and budget > 0:
                round_.sent_at = core.now
                budget -= self._repeat(round_, tuple(member for member in core.others if member not in round_.answers))

    def on_reset(self, peer: ReplicaId) -> None:
        """What was sent to a peer may be lost: ask it once more. What is too much at once has its time later."""
        budget = REPEATED_BYTES_MAX
        for round_ in self.rounds.values():
            if budget <= 0:
                return
            if peer not in round_.answers and not round_.taken:
                budget -= self._repeat(round_, (peer,))

    def _repeat(self, round_: Round, to: tuple[ReplicaId, ...]) -> int:
        """Ask these once more; how many bytes that takes."""
        core, instance = self._core, round_.instance
        if round_.stage is Stage.ACCEPTING:
            self._ask(round_, to)
            return 0 if round_.holders.issuperset(to) else len(instance.value or b"")
        assert instance.value is not None
        assert instance.initial is not None
        core.tell_some(list(to), PreAccept(instance.space, instance.number, instance.value, instance.initial))
        return len(instance.value)

    def resume(self) -> None:
        """After a restart: take up what this replica proposed and nobody else has begun to recover."""
        core = self._core
        if not core.voting:
            return
        for number in sorted(self._space.live):
            instance = self._space.live[number]
            if instance.id in self.rounds or instance.decided or instance.ballot != core.first_ballot:
                continue
            if instance.phase is Phase.PREACCEPTED:
                self._preaccept(instance)
            elif instance.phase is Phase.ACCEPTED:
                self._vote(instance, {core.replica})

    def forget_executed(self) -> None:
        """A snapshot was installed: what it covers is decided; how it went for this replica's clients is unknown."""
        for name, round_ in list(self.rounds.items()):
            if self._instances.find(*name) is not round_.instance:
                del self.rounds[name]
                if round_.instance.own:
                    self._core.effects.rejections.extend(
                        Reject(command, Reason.LOST, False) for command in round_.instance.commands
                    )

    # ------------------------------------------------------------------------------------------------------ invariants

    def check(self) -> None:
        """Assert the invariants of rounds."""
        self.intake.check()
        core = self._core
        for name, round_ in self.rounds.items():
            instance = round_.instance
            assert core.voting
            assert name == instance.id
            assert not instance.decided
            assert self._instances.find(*name) is instance
            assert instance.ballot >= round_.ballot
            assert round_.taken or instance.ballot == round_.ballot
            if instance.ballot == round_.ballot:
                accepting = round_.stage is Stage.ACCEPTING
                assert instance.phase is (Phase.ACCEPTED if accepting else Phase.PREACCEPTED)
                assert round_.ballot == core.first_ballot or (accepting and round_.ballot.replica == core.replica)
