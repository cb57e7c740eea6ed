"""What is kept of a key: its item, its own revision, and the sessions that have written it.

Exactly once, by key
--------------------
There is no order over all commands in which a session could be registered, so a session lives where its commands are
ordered: in the record of each key that it writes. There it leaves the sequences that it has executed on this key, with
their results, above the mark up to which its client holds all results. Only commands that may write a key touch its
sessions (a key that a transaction merely compares is left alone), and these are in one order on every replica.

Each record remembers `SESSIONS_PER_KEY_MAX` sessions. A further one makes the one that was used least recently go, and
the key's ``floor`` rises to that one's id. From then on a session that the record does not know is judged by its id:

- *above the floor* no session of that id has ever been on record here, so nothing of it was executed: it is new;
- *at or below the floor* nobody can tell, so it is refused and never executed, be it a retry or the first attempt.

The refusal is the same whenever it is repeated, since a floor never falls. It says how high the floor is, so that the
replica to which the client turns can name the next session above it: ids are minted by replicas from a clock in the
manner of Lamport (`replica.kv.objects.minting`), which never mint one twice.

Why a late duplicate does no harm: while its session is on record it is found among the executed sequences or lies at
or below the acknowledged mark; afterwards its id lies at or below the floor. A transaction is entered with every key
that it may write, so any of them that still remembers it tells that it was executed.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replica.kv.operations import KeyValue
from replica.kv.sessions import Session

SESSIONS_PER_KEY_MAX: Final = 256
"""Sessions that the record of one key remembers."""

RESULTS_PER_KEY_BYTES_MAX: Final = 1 << 20
"""Encoded results that one key keeps for all its sessions; beyond it those of the session used least recently are
forgotten (but not that they were executed)."""


class KeyRecord(msgspec.Struct, array_like=True):
    """A key. ``revision`` counts its writes and deletions; ``sessions`` are in the order of their last use."""

    item: KeyValue | None = None
    revision: int = 0
    floor: int = 0
    sessions: dict[int, Session] = {}

    def use(self, session: int) -> Session | None:
        """The session's window, marked as the one used last; None when it is not on record."""
        window = self.sessions.pop(session, None)
        if window is not None:
            self.sessions[session] = window
        return window

    def admits(self, session: int) -> bool:
        """May a session that is not on record be entered: was it certainly never here?"""
        return session > self.floor

    def enter(self, session: int, sessions_max: int) -> Session:
        """Enter a session that `admits` allowed; another may have to go."""
        while len(self.sessions) >= sessions_max:
            oldest = next(iter(self.sessions))
            del self.sessions[oldest]
            self.floor = max(self.floor, oldest)
        window = self.sessions[session] = Session(0, runs=[])
        return window

    def trim(self) -> None:
        """Keep the results within their bound."""
        kept = sum(window.kept_bytes for window in self.sessions.values())
        if kept <= RESULTS_PER_KEY_BYTES_MAX:
            return
        for window in self.sessions.values():
            for run in window.runs:
                if run.results is not None:
                    kept -= len(run.results)
                    window.kept_bytes -= len(run.results)
                    run.results = None
                    if kept <= RESULTS_PER_KEY_BYTES_MAX:
                        return


_encode = msgspec.msgpack.Encoder().encode
_records: Final = msgspec.msgpack.Decoder(KeyRecord)


def encode_record(record: KeyRecord) -> bytes:
    """The record as bytes, equal for records that are equal."""
    return _encode(record)


def decode_record(data: bytes) -> KeyRecord:
    """Raises `ValueError` (msgspec's errors are such)."""
    return _records.decode(data)
