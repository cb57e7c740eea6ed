"""Snapshots: truncating the log behind one's own, and standing on one that was fetched.

Raft compares logs by the term of their last entry, so a snapshot has to say of which term its last entry was. It also
says in which term the replica was that took it, which is at least the term in which that entry was committed: whoever
installs the snapshot enters that term. Otherwise it might go on to follow the leader of an earlier one, who may still
hold something else at these indexes, and lend it the vote that commits it.
"""

from __future__ import annotations

import msgspec

from replica.consensus.interface import CorruptRecord, Frontier
from replica.consensus.wishes import SnapshotWishes

from .follower import Follower
from .leadership import Leadership
from .log import Log
from .messages import LOG_TABLE, decode_mark
from .state import Core


class Snapshots:
    """What the driver reports about snapshots."""

    def __init__(
        self, core: Core, log: Log, leadership: Leadership, follower: Follower, wishes: SnapshotWishes
    ) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._follower = follower
        self._wishes = wishes

    def on_taken(self, frontier: Frontier) -> None:
        """The own state up to ``frontier`` is durable in a snapshot."""
        assert isinstance(frontier, int)
        self._log.truncate(frontier)

    def on_installed(self, frontier: Frontier, data: bytes) -> None:
        """The state stands on a fetched snapshot now. Raises `CorruptRecord` if its mark cannot be read."""
        assert isinstance(frontier, int)
        core, leadership = self._core, self._leadership
        try:
            mark = decode_mark(data)
        except msgspec.DecodeError as error:
            raise CorruptRecord(LOG_TABLE, b"", f"the mark of the snapshot cannot be read: {error}") from None
        if core.leads:
            # It was wished for before the campaign. What is in flight at or before the frontier was committed, but will
            # not be delivered: whoever waits for it must be told.
            leadership.step_down(None)
        if "snapshot leaves its term behind" not in core.bugs:
            leadership.enter(mark.term)
        self._log.install(frontier, mark.last_term)
        leadership.matched = max(leadership.matched, min(frontier, self._log.last))
        self._wishes.forget()
        self._follower.resume()

    def on_unavailable(self) -> None:
        """The snapshot can't be had there: the leader will say again what is missing."""
        self._wishes.forget()
