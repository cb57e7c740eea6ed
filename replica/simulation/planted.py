"""Mistakes in what stands around a protocol, as variants of the sound parts; `Controls` chooses among them.

The variants change as little as the mistakes they stand for, and live here rather than in the parts themselves: nothing
that the node runs can reach them.
"""

from __future__ import annotations

from msgspec.structs import replace

from replica.consensus.interface import NO_TICKET, Effects, Write
from replica.kv.sessions import Recorded, Session, Sessions
from replica.simulation.witness import Controls
from replica.storage.coordinator import Anchor, Coordinator, Turn


class UngatedCoordinator(Coordinator):
    """Lets every message go at once, whatever it was to wait for."""

    def _digest(self, effects: Effects, turn: Turn) -> Turn:
        effects.sends = [replace(send, after=NO_TICKET) for send in effects.sends]
        return super()._digest(effects, turn)


class HoardingCoordinator(Coordinator):
    """Leaves an ended epoch's records to the protocol of the next."""

    def anchor_writes(self, anchor: Anchor) -> list[Write]:
        """The anchor alone."""
        return super().anchor_writes(anchor)[:1]


def planted_coordinator(controls: Controls) -> type[Coordinator]:
    """The coordinator that goes with ``controls``."""
    if not controls.gates:
        return UngatedCoordinator
    return Coordinator if controls.epochs_start_empty else HoardingCoordinator


class ForgetfulSessions(Sessions):
    """Remembers nothing of what was executed."""

    def use(self, session: int) -> Session | None:
        """The session, as though it were fresh."""
        found = super().use(session)
        if found is not None:
            found.runs.clear()
            found.kept_bytes = 0
        return found


class MaximumSessions(Sessions):
    """Takes what lies below the highest executed sequence for executed, its result forgotten."""

    def use(self, session: int) -> Session | None:
        """The session, without gaps."""
        found = super().use(session)
        if found is not None:
            expected = found.acknowledged + 1
            for run in list(found.runs):
                if run.first > expected:
                    found.runs.insert(found.runs.index(run), Recorded(expected, run.first - expected))
                expected = run.first + run.count
        return found


class LocalSessions(Sessions):
    """Does not know after a restart when a session was used last."""

    def reload(self) -> None:
        """Read the store, but for that."""
        super().reload()
        for session in self._sessions.values():
            session.touched = 0


def planted_sessions(controls: Controls) -> type[Sessions] | None:
    """The sessions that go with ``controls``; None for the sound ones."""
    if not controls.retries_recognised:
        return ForgetfulSessions
    if not controls.sequences_as_set:
        return MaximumSessions
    return None if controls.last_use_replicated else LocalSessions
