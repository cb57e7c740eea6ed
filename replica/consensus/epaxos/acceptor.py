"""What a replica does for the instances of others: pre-accept, vote, promise, and say what speaks against a guess.

Everything is answered only when it is durable. What is decided here is answered with the decision, whatever was asked.
"""

from __future__ import annotations

from replica.consensus.interface import ReplicaId

from .catchup import CatchUps
from .instances import Instances
from .messages import (
    Accept,
    Accepted,
    Commit,
    Fetch,
    PartlyValidated,
    Phase,
    PreAccept,
    PreAccepted,
    Recover,
    Recovered,
    Refused,
    Validate,
    Validated,
)
from .rounds import Rounds
from .state import Core


class Acceptor:
    """Answers."""

    def __init__(self, core: Core, instances: Instances, rounds: Rounds, catchups: CatchUps) -> None:
        self._core = core
        self._instances = instances
        self._rounds = rounds
        self._catchups = catchups

    def _is_decided(self, sender: ReplicaId, space: ReplicaId, number: int) -> bool:
        """Is the instance decided here? Then the sender is told."""
        instance = self._instances.find(space, number)
        if instance is None:
            if not self._instances.has_executed(space, number):
                return False
            self._catchups.tell_executed(sender, space, number)
            return True
        if not instance.decided:
            return False
        value = b"" if instance.noop else instance.value or b""
        self._core.tell(sender, Commit(space, number, instance.noop, value, instance.dependencies))
        return True

    def on_preaccept(self, sender: ReplicaId, message: PreAccept) -> None:
        """The leader of an instance proposes."""
        core, instances = self._core, self._instances
        if not core.voting or self._is_decided(sender, message.space, message.number):
            return
        instance = instances.obtain(message.space, message.number)
        if instance.ballot > core.first_ballot:
            core.tell(sender, Refused(instance.ballot, message.space, message.number))
            return
        if instance.phase is Phase.UNKNOWN:
            instances.prepare(instance, message.value, None)
            instance.dependencies = instances.dependencies(instance, message.initial)
            instance.phase = Phase.PREACCEPTED
            instances.learn(instance, message.value, message.initial)
            core.save(instance)
        if instance.phase is Phase.PREACCEPTED:
            same = instance.dependencies == message.initial
            core.tell(sender, PreAccepted(message.space, message.number, () if same else instance.dependencies))

    def on_accept(self, sender: ReplicaId, message: Accept) -> None:
        """Whoever carries an instance asks for a vote."""
        core, instances = self._core, self._instances
        if not core.voting or self._is_decided(sender, message.space, message.number):
            return
        instance = instances.obtain(message.space, message.number)
        if message.ballot < instance.ballot:
            core.tell(sender, Refused(instance.ballot, message.space, message.number))
            return
        if message.value:
            instances.learn(instance, message.value)
        elif not message.noop and instance.value is None:
            return
        if message.ballot > instance.ballot:
            self._rounds.drop(instance)
        instance.ballot = instance.voted = message.ballot
        instance.phase = Phase.ACCEPTED
        instance.noop = message.noop
        instance.dependencies = message.dependencies
        instance.due = core.now + instances.patience(instance)
        core.save(instance)
        core.tell(sender, Accepted(message.ballot, message.space, message.number))

    def on_commit(self, sender: ReplicaId, message: Commit) -> None:
        """An instance is decided. That holds whatever was promised or voted for here."""
        instances = self._instances
        if instances.has_executed(message.space, message.number):
            return
        instance = instances.obtain(message.space, message.number)
        if instance.decided:
            assert instance.noop == message.noop, f"two decisions for {instance}"
            assert instance.dependencies == message.dependencies, f"two decisions for {instance}"
            return
        if message.value:
            instances.learn(instance, message.value)
        elif not message.noop and instance.value is None:
            self._core.tell(sender, Fetch(message.space, message.number))
            return
        self._rounds.learned(instance, message.noop, message.dependencies)

    # ------------------------------------------------------------------------------------------------------- recoveries

    def on_recover(self, sender: ReplicaId, message: Recover) -> None:
        """Somebody recovers an instance."""
        core, instances = self._core, self._instances
        if not core.voting or self._is_decided(sender, message.space, message.number):
            return
        instance = instances.obtain(message.space, message.number)
        if message.ballot < instance.ballot:
            core.tell(sender, Refused(instance.ballot, message.space, message.number))
            return
        before = instance.ballot
        if message.ballot > before:
            self._rounds.drop(instance)
            instance.ballot = message.ballot
            # Leave it to them for a while, and the longer the more often this replica has failed itself.
            instance.due = max(instance.due, core.now + instances.patience(instance))
            core.save(instance)
        voted = instance.voted
        if "single-ballot recovery" in core.bugs:
            voted = before
        core.tell(
            sender,
            Recovered(
                message.ballot,
                message.space,
                message.number,
                voted,
                instance.phase,
                instance.noop,
                instance.value or b"",
                instance.dependencies,
                instance.initial,
            ),
        )

    def on_validate(self, sender: ReplicaId, message: Validate) -> None:
        """Whoever recovers an instance guesses that it may have been decided on the fast path.

        Of what a replica has executed it remembers the keys (`history`); where it had to give that up, it says that it
        can't tell.
        """
        core, instances = self._core, self._instances
        if not core.voting or self._is_decided(sender, message.space, message.number):
            return
        instance = instances.obtain(message.space, message.number)
        if message.ballot != instance.ballot:
            if message.ballot < instance.ballot:
                core.tell(sender, Refused(instance.ballot, message.space, message.number))
            return
        instances.learn(instance, message.value, message.initial)
        assert instance.touch is not None
        against = []
        for other in instances.beyond(message.initial):
            if other is instance or other.touch is None:
                continue
            if other.decided:
                if other.noop or other.dependencies[instance.rank] >= instance.number:
                    continue
            elif other.initial is None or other.initial[instance.rank] >= instance.number:
                continue
            if instance.touch.interferes(other.touch):
                against.append((other.space, other.number, other.decided))
        executed = instances.executed_against(instance)
        if executed is not None:
            against.append((*executed, True))
        answer = PartlyValidated if instances.is_blind(instance) else Validated
        core.tell(sender, answer(message.ballot, message.space, message.number, tuple(against)))
