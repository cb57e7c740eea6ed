"""Recovery: finding out what may have been decided of an instance whose leader does not carry it to the end.

The rule is that of EPaxos* (Ryabinin, Gotsman, Sutra 2025). At a ballot of its own the recovering replica asks a quorum
Q what it holds. In this order:

1. It is decided: that is it.
2. Somebody has voted: what was voted for at the highest ballot *of a vote* is voted for anew. (What was promised since
   says nothing; to confuse the two is the error of the original protocol, Sutra 2020.)
3. Its leader is in Q, and has not decided it: then it never will, and nothing was decided. It becomes a no-op.
4. Fewer than ``|Q| - e`` of Q have pre-accepted it with just its initial dependencies: no fast quorum can have. No-op.
5. Otherwise a fast decision for the value with its initial dependencies is possible, and must be kept; but nothing may
   be decided that interferes and is invisible to it both ways. So Q is asked what speaks against it: instances that
   interfere, are not among its dependencies and do not depend on it.

   - Nothing does: the value is voted for.
   - A decided one does: no fast quorum can have been there. A no-op.
   - Exactly ``|Q| - e`` have pre-accepted it as above, so that everybody outside Q would have to be in the fast quorum,
     and the leader of something against it is outside Q: it can't have been. A no-op.
   - Otherwise it has to wait for those instances to be decided; which it tells to all, with the number of its
     pre-acceptances, so that those who wait for *it* see whether they can be right.

Waiting ends when one of them turns out to be decided in a way that speaks against it (no-op), when all turn out not to
(the value), when one of them waits itself with so many pre-acceptances that no fast quorum is left for this one
(no-op), or when somebody outside Q answers late and settles it. If nothing of that comes, a new ballot is tried.

Of what it has executed, a replica remembers the keys when the records are gone (`history`). Where it had to give that
up, it may not know any more whether something and the value interfere: it is *blind*. Where at least f replicas have
pre-accepted the value with its initial dependencies that does no harm. With the leader they are f + 1 and so have a
member in every quorum, that of the other's decision too. This one either knew the other first, and would have added it
to the dependencies of the value; or knew the value first, and the other depends on it and can't have been executed
before it was decided. So what was executed is nothing against it.
Where fewer have, the recovery waits for answers from outside Q: then either enough have, or rule 4 holds for all that
have answered. One of both is so once all but the leader have, since then n - 1 - e are f or more.

A replica recovers only while it hears from a quorum. One that hears from fewer can't end anything, but its ballots take
every instance away from whoever could, again and again where that one is all it reaches (the hub of a partition), or
where nobody reaches it (the deaf). So it asks once and, until a quorum has been heard from since, no more.

What speaks for "so many": the replicas that pre-accepted the other with its initial dependencies, and its leader,
can't be in a fast quorum of this one, and outside a fast quorum there are at most ``e``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from replica.consensus.ballots import Ballot
from replica.consensus.interface import ReplicaId

from .execution import Execution
from .instance import Instance
from .instances import Instances
from .messages import (
    Dependencies,
    InstanceId,
    PartlyValidated,
    Phase,
    Recover,
    Recovered,
    Refused,
    Validate,
    Validated,
    Waiting,
)
from .rounds import Rounds
from .state import Core

RECOVERIES_MAX: Final = 256
"""Recoveries under way at a time."""

GAPS_MAX: Final = 64
"""Missing numbers of a space looked at at a time."""


class Step(Enum):
    """How far a recovery is."""

    GATHERING = "gathering"
    VALIDATING = "validating"
    WAITING = "waiting"


class Attempt:
    """One recovery at one ballot."""

    __slots__ = (
        "instance",
        "ballot",
        "step",
        "answers",
        "quorum",
        "votes",
        "validated",
        "against",
        "blind",
        "until",
        "sent_at",
    )

    def __init__(self, instance: Instance, ballot: Ballot, now: float, until: float) -> None:
        self.instance = instance
        self.ballot = ballot
        self.step = Step.GATHERING
        self.answers: dict[ReplicaId, Recovered] = {}
        self.quorum: frozenset[ReplicaId] = frozenset()
        self.votes = 0
        """Pre-acceptances with the initial dependencies in the quorum."""
        self.validated: set[ReplicaId] = set()
        self.against: dict[InstanceId, bool] = {}
        """What speaks against the value, and whether it is decided."""
        self.blind = False
        """Something that was executed and forgotten may speak against it as well."""
        self.until = until
        self.sent_at = now


def _unchanged(attempt: Attempt) -> list[Recovered]:
    """Pre-acceptances with just the initial dependencies, among all answers."""
    return [
        answer
        for _, answer in sorted(attempt.answers.items())
        if answer.phase is Phase.PREACCEPTED and answer.dependencies == answer.initial
    ]


class Recovery:
    """The recoveries of this replica."""

    def __init__(self, core: Core, instances: Instances, rounds: Rounds, execution: Execution) -> None:
        self._core = core
        self._instances = instances
        self._rounds = rounds
        self._execution = execution
        self.attempts: dict[InstanceId, Attempt] = {}
        self._present = {*core.members}
        """From whom something has come since ``_asked_at``; everybody is given a chance at the start."""
        self._asked_at = 0.0
        """When this replica began to recover something, having heard from a quorum."""
        self._votes_waiting: dict[InstanceId, int] = {}
        """Pre-acceptances of instances whose recovery waits, as far as others have told."""

    # -------------------------------------------------------------------------------------------------------- beginning

    def tick(self) -> None:
        """Begin what is overdue, repeat what went unanswered, give up what has taken too long."""
        core, instances = self._core, self._instances
        if not core.voting:
            return
        for attempt in list(self.attempts.values()):
            if not self._stands(attempt):
                continue
            if core.now >= attempt.until:
                self._give_up(attempt)
            elif core.now >= attempt.sent_at + core.options.retransmit_s:
                attempt.sent_at = core.now
                self._repeat(attempt)
        for name in self._execution.blockers:
            self._meet(name)
        for space in instances.spaces:
            if space.highest > space.decided:
                for number in range(space.decided + 1, min(space.highest, space.decided + GAPS_MAX) + 1):
                    self._meet((space.replica, number))
        for instance in [instance for instance in instances.undecided.values() if instance.due <= core.now]:
            if len(self.attempts) >= RECOVERIES_MAX:
                break
            if instance.id not in self.attempts and not self._rounds.carries(instance):
                if not self._reaches_quorum():
                    break
                self.begin(instance)

    def _meet(self, name: InstanceId) -> None:
        """Something waits for that instance, or it is missing in its space: know it, so that it will be due."""
        if not self._instances.has_executed(*name):
            self._instances.obtain(*name)

    def heard_from(self, member: ReplicaId) -> None:
        """Something has come from that member, whatever it is: all tell how far they are every now and then."""
        self._present.add(member)

    def _reaches_quorum(self) -> bool:
        """Has a quorum been heard from since the last recoveries began, or have they only just begun?"""
        core = self._core
        if core.quorums.phase1(self._present):
            self._present = {core.replica}
            self._asked_at = core.now
            return True
        return core.now < self._asked_at + core.options.recovery_s

    def begin(self, instance: Instance) -> None:
        """Recover the instance at a new ballot."""
        core = self._core
        ballot = max(instance.ballot, instance.beyond).successor(core.replica)
        instance.ballot = instance.beyond = ballot
        instance.tries += 1
        core.save(instance)
        core.counters["recoveries"] += 1
        until = core.now + self._instances.patience(instance)
        self.attempts[instance.id] = Attempt(instance, ballot, core.now, until)
        core.ask_all(Recover(ballot, instance.space, instance.number))

    def _stands(self, attempt: Attempt) -> bool:
        """Has neither a decision nor another ballot come in between?"""
        instance = attempt.instance
        if (
            instance.ballot == attempt.ballot
            and not instance.decided
            and self._instances.find(*instance.id) is instance
            and self.attempts.get(instance.id) is attempt
        ):
            return True
        if self.attempts.get(instance.id) is attempt:
            del self.attempts[instance.id]
        return False

    def _give_up(self, attempt: Attempt) -> None:
        del self.attempts[attempt.instance.id]
        attempt.instance.due = self._core.now

    def _repeat(self, attempt: Attempt) -> None:
        core, instance = self._core, attempt.instance
        # Whoever has not answered may still do so: a late answer can settle what waits.
        silent = [member for member in core.others if member not in attempt.answers]
        core.tell_some(silent, Recover(attempt.ballot, instance.space, instance.number))
        if attempt.step is Step.VALIDATING:
            self._validate(attempt, [member for member in core.others if member in attempt.quorum - attempt.validated])
        elif attempt.step is Step.WAITING:
            core.tell_all(Waiting(instance.space, instance.number, attempt.votes))

    def on_refused(self, message: Refused) -> None:
        """Somebody else recovers it at a higher ballot: leave it to them for a while."""
        instance = self._instances.find(message.space, message.number)
        if instance is None:
            return
        instance.beyond = max(instance.beyond, message.ballot)
        attempt = self.attempts.get(instance.id)
        if attempt is not None and message.ballot > attempt.ballot:
            del self.attempts[instance.id]
            instance.due = self._core.now + self._instances.patience(instance)

    # -------------------------------------------------------------------------------------------------------- gathering

    def on_recovered(self, sender: ReplicaId, message: Recovered) -> None:
        """A promise, with what its giver holds."""
        attempt = self.attempts.get((message.space, message.number))
        if attempt is None or attempt.ballot != message.ballot or not self._stands(attempt):
            return
        if sender in attempt.answers:
            return
        attempt.answers[sender] = message
        if attempt.step is Step.GATHERING:
            if self._core.quorums.phase1(attempt.answers.keys()):
                self._judge(attempt)
        elif attempt.step is Step.WAITING:
            self._heed(attempt, sender)

    def _heed(self, attempt: Attempt, sender: ReplicaId) -> None:
        """An answer from outside the quorum, to a recovery that waits."""
        message = attempt.answers[sender]
        if message.phase is Phase.ACCEPTED:
            self._settle_on(attempt, message.noop, message.value, message.dependencies)
            return
        votes = len(_unchanged(attempt))
        if sender == message.space or votes < len(attempt.answers) - self._core.quorums.e:
            self._settle_on_nothing(attempt)
            return
        attempt.votes = votes
        attempt.blind &= not self._in_every_quorum(attempt)

    def _judge(self, attempt: Attempt) -> None:
        core, instance = self._core, attempt.instance
        attempt.quorum = frozenset(attempt.answers)
        answers = list(attempt.answers.values())
        highest = max(answer.voted for answer in answers)
        for answer in answers:
            if answer.voted == highest and answer.phase is Phase.ACCEPTED:
                self._settle_on(attempt, answer.noop, answer.value, answer.dependencies)
                return
        same = _unchanged(attempt)
        if instance.space in attempt.quorum or not same or len(same) < len(attempt.quorum) - core.quorums.e:
            self._settle_on_nothing(attempt)
            return
        core.counters["validations"] += 1
        attempt.votes = len(same)
        attempt.step = Step.VALIDATING
        initial = same[0].initial
        assert initial is not None
        self._instances.learn(instance, same[0].value, initial)
        self._validate(attempt, sorted(attempt.quorum))

    def _validate(self, attempt: Attempt, to: list[ReplicaId]) -> None:
        core, instance = self._core, attempt.instance
        assert instance.value is not None
        assert instance.initial is not None
        message = Validate(attempt.ballot, instance.space, instance.number, instance.value, instance.initial)
        core.tell_some([member for member in to if member != core.replica], message)
        if core.replica in to:
            core.tell(core.replica, message)

    # ------------------------------------------------------------------------------------------------------- validating

    def on_validated(self, sender: ReplicaId, message: Validated | PartlyValidated) -> None:
        """What somebody has to say against the value."""
        attempt = self.attempts.get((message.space, message.number))
        if attempt is None or attempt.ballot != message.ballot or not self._stands(attempt):
            return
        if attempt.step is not Step.VALIDATING or sender not in attempt.quorum:
            return
        attempt.validated.add(sender)
        for space, number, decided in message.against:
            attempt.against[space, number] = attempt.against.get((space, number), False) or decided
        attempt.blind |= isinstance(message, PartlyValidated) and not self._in_every_quorum(attempt)
        if attempt.validated != attempt.quorum:
            return
        if not attempt.against and not attempt.blind:
            self._settle_on_value(attempt)
        elif any(attempt.against.values()) or (
            attempt.votes == len(attempt.quorum) - self._core.quorums.e
            and any(space not in attempt.quorum for space, _ in attempt.against)
        ):
            self._settle_on_nothing(attempt)
        else:
            attempt.step = Step.WAITING
            self._core.counters["waits"] += 1
            self._core.tell_all(Waiting(*attempt.instance.id, attempt.votes))
            self._votes_waiting[attempt.instance.id] = attempt.votes
            for name in attempt.against:
                self._meet(name)
            for member in [member for member in attempt.answers if member not in attempt.quorum]:
                if attempt is self.attempts.get(attempt.instance.id):
                    self._heed(attempt, member)

    def _in_every_quorum(self, attempt: Attempt) -> bool:
        """Is somebody in every quorum, be it the leader, who holds the value with its initial dependencies?"""
        return attempt.votes >= self._core.quorums.f

    # ---------------------------------------------------------------------------------------------------------- waiting

    def on_waiting(self, message: Waiting) -> None:
        """Somebody's recovery of that instance waits."""
        name = (message.space, message.number)
        if not self._instances.has_executed(*name):
            self._votes_waiting[name] = max(message.votes, self._votes_waiting.get(name, 0))

    def settle(self) -> None:
        """The turn ends: has something come that those who wait have waited for?"""
        for attempt in [attempt for attempt in self.attempts.values() if attempt.step is Step.WAITING]:
            if self._stands(attempt):
                self._look(attempt)
        if len(self._votes_waiting) > 4 * RECOVERIES_MAX:
            for name in [name for name in self._votes_waiting if self._instances.has_executed(*name)]:
                del self._votes_waiting[name]

    def _look(self, attempt: Attempt) -> None:
        instance, instances = attempt.instance, self._instances
        open_ = attempt.blind
        for space, number in list(attempt.against):
            if instances.has_executed(space, number):
                if instances.executed_against(instance) is not None:
                    self._settle_on_nothing(attempt)
                    return
                # It has come to nothing, unless what it was has been forgotten here.
                del attempt.against[space, number]
                attempt.blind |= instances.is_blind(instance) and not self._in_every_quorum(attempt)
                open_ |= attempt.blind
                continue
            other = instances.obtain(space, number)
            if other.decided:
                if not other.noop and other.dependencies[instance.rank] < instance.number:
                    self._settle_on_nothing(attempt)
                    return
            elif self._votes_waiting.get(other.id, -1) >= self._core.quorums.e:
                self._settle_on_nothing(attempt)
                return
            else:
                open_ = True
        if not open_:
            self._settle_on_value(attempt)

    # ----------------------------------------------------------------------------------------------------------- ending

    def _settle_on_value(self, attempt: Attempt) -> None:
        instance = attempt.instance
        assert instance.value is not None
        assert instance.initial is not None
        self._core.counters["kept"] += 1
        self._settle_on(attempt, False, instance.value, instance.initial)

    def _settle_on_nothing(self, attempt: Attempt) -> None:
        self._settle_on(attempt, True, b"", self._core.nothing)

    def _settle_on(self, attempt: Attempt, noop: bool, value: bytes, dependencies: Dependencies) -> None:
        """Have it voted for."""
        instance = attempt.instance
        del self.attempts[instance.id]
        holders = {member for member, answer in attempt.answers.items() if answer.value} | attempt.validated
        holders.add(self._core.replica)
        if not noop:
            self._instances.learn(instance, value)
        self._rounds.accept(instance, attempt.ballot, noop, dependencies, holders=holders)

    # ------------------------------------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert the invariants of recoveries."""
        assert len(self.attempts) <= RECOVERIES_MAX
        for name, attempt in self.attempts.items():
            assert name == attempt.instance.id
            assert attempt.ballot.replica == self._core.replica
            assert not self._rounds.carries(attempt.instance) or attempt.instance.ballot != attempt.ballot
            assert attempt.validated <= attempt.quorum or attempt.step is Step.GATHERING
