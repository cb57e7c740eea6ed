"""Optuna's journal on Synod: one log, one order, whoever appends.

A study's storage is a journal that every worker replays, so what matters is that all see the same records under the
same numbers. The journal is a counter and the records behind it. An append is one transaction: if the counter is as it
was known, write the batch at the next numbers and move the counter. Two that append at once cannot both succeed, the
loser is told the counter in the same answer and goes again, so somebody always gets on.

An append whose answer was lost is settled before anything else is done. Its batch carries a number drawn for it: if it
stands where it would stand, the append took effect; if the counter has not moved, the same transaction is sent again
(at most one of the two can take effect); if something else stands there, it never will.

::

    PREFIX n                 "COUNT": how many records there are
    PREFIX l/LAST            a batch, under the number of its last record: MessagePack [draw, [json, json, …]]
    PREFIX s                 the snapshot's generation and number of parts
    PREFIX g/GENERATION/PART a part of a snapshot
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._base import BaseJournalSnapshot  # it is exported nowhere else

from replica.client import Compare, Delete, Get, Put, Store
from replica.client.errors import Indefinite, Overloaded, TooLarge, Unavailable
from replica.client.options import OptionFields, Options, make_options
from replica.kv.operations import VALUE_BYTES_MAX, Got, Transacted, Transaction

logger = logging.getLogger("replica.integrations.optuna")

R = TypeVar("R")

PATIENCE_S: Final = 60.0
"""How long an append or a read goes on trying while no majority of the replicas answers."""

PAUSE_S: Final = 0.05
CONTENTION_PAUSE_S: Final = 0.002

PART_BYTES: Final = VALUE_BYTES_MAX // 2
SNAPSHOT_PARTS_MAX: Final = 128
"""A snapshot is at most so many parts, packed; without one that is larger, workers replay the journal instead."""


class Batch(msgspec.Struct, array_like=True):
    """Records that were appended together, and the number drawn for the append."""

    draw: int
    records: list[str]


_batches = msgspec.msgpack.Decoder(Batch)


class SynodBackend(BaseJournalBackend, BaseJournalSnapshot):
    """A journal for `optuna.storages.JournalStorage`.

    ::

        storage = JournalStorage(SynodBackend("127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"))
        study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)

    It may be shared by threads, forked, and pickled: what goes along is the URL, the name and the options. Snapshots
    are Optuna's pickles; whoever may write to the store can have workers run code, as with Optuna's other journals.

    Args:
        url: as for `replica.client.connect`.
        name: the journal; several may live in one cluster.
        patience_s: how long to go on trying while no majority answers.
        options: as for `replica.client.connect`.
    """

    def __init__(
        self, url: str, *, name: str = "optuna", patience_s: float = PATIENCE_S, options: OptionFields | None = None
    ) -> None:
        self._url = url
        self._name = name
        self._patience_s = patience_s
        self._options: Options = make_options(options or {})
        self._prefix = f"{name}/".encode()
        self._begin()

    def _begin(self) -> None:
        self._store: Store = Store(self._url, self._options)
        self._lock = threading.Lock()
        self._known = (0, 0)
        """The counter as it was last seen: its modification revision and value."""

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url, "name": self._name, "patience_s": self._patience_s, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._url, self._name = state["url"], state["name"]
        self._patience_s, self._options = state["patience_s"], state["options"]
        self._prefix = f"{self._name}/".encode()
        self._begin()

    def close(self) -> None:
        """Let go of the cluster; otherwise that happens when the interpreter exits."""
        self._store.close()

    # ------------------------------------------------------------------------------------------------------ the journal

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all next to each other or none.

        Raises:
            replica.client.TooLarge: they are more than one transaction takes.
            replica.client.Unavailable: no majority answered for ``patience_s``; they were not appended.
            replica.client.MaybeCommitted: likewise, and they may have been.
        """
        if not logs:
            return
        draw = secrets.randbits(63)
        parts = _parts([json.dumps(log) for log in logs], draw)
        deadline = time.monotonic() + self._patience_s
        with self._lock:
            while not self._append(parts, draw, deadline):
                time.sleep(CONTENTION_PAUSE_S * random.random())

    def _append(self, parts: list[Batch], draw: int, deadline: float) -> bool:
        """Try at the numbers that are next, as far as is known; learns where they are otherwise."""
        revision, count = self._known
        counter = self._prefix + b"n"
        puts: list[Put] = []
        last = count
        for part in parts:
            last += len(part.records)
            puts.append(Put(self._key(last - 1), msgspec.msgpack.encode(part)))
        operation = Transaction(
            (Compare(counter, "mod", "=", revision),),
            (*puts, Put(counter, b"%d" % last)),
            (Get(counter), Get(puts[-1].key)),
        )
        lost: Indefinite | None = None
        answer: Any = None
        while answer is None:
            try:
                answer = self._store.execute(operation)
            except (Indefinite, Unavailable, Overloaded) as error:
                lost = error if isinstance(error, Indefinite) else lost
                if time.monotonic() >= deadline:
                    # An earlier attempt of the same may have taken effect, even if this one has not.
                    raise lost or error from None
                time.sleep(PAUSE_S)
        assert isinstance(answer, Transacted)
        if answer.succeeded:
            self._known = (answer.revision, last)
            return True
        now, there = answer.results
        assert isinstance(now, Got)
        assert isinstance(there, Got)
        self._known = (0, 0) if now.item is None else (now.item.mod_revision, int(now.item.value))
        # Where the answer was lost, the batch that stands at its numbers may be this one.
        return there.item is not None and _batches.decode(there.item.value).draw == draw

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Records from a number on, in their order, all as of one revision."""

        def read() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for item in self._store.range(first=self._key(log_number_from), last=self._prefix + b"l0"):
                records = _batches.decode(item.value).records
                first = int(item.key[-16:], 16) - len(records) + 1
                found += [json.loads(text) for text in records[max(0, log_number_from - first) :]]
            return found

        yield from self._patiently(read)

    # -------------------------------------------------------------------------------------------------------- snapshots

    def save_snapshot(self, snapshot: bytes) -> None:
        """Keep a snapshot in place of the one before. One that is too large is left, and said to be."""
        packed = zlib.compress(snapshot, 1)
        parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
        if len(parts) > SNAPSHOT_PARTS_MAX:
            logger.warning("a snapshot of %d bytes is too large to be kept: workers will replay", len(packed))
            return
        generation = b"%016x" % secrets.randbits(63)
        for number, part in enumerate(parts):
            key = self._part(generation, number)
            self._patiently(lambda key=key, part=part: self._store.put(key, part))  # type: ignore[misc]
        manifest = self._prefix + b"s"
        before = self._patiently(lambda: self._store.get(manifest))
        old = [] if before is None else self._parts_of(before.value)
        operation = Transaction(
            (Compare(manifest, "mod", "=", 0 if before is None else before.mod_revision),),
            (Put(manifest, generation + b" %d" % len(parts)), *(Delete(key) for key in old)),
            (Get(manifest),),
        )
        answer = self._patiently(lambda: self._store.execute(operation))
        assert isinstance(answer, Transacted)
        (now,) = answer.results if not answer.succeeded else (None,)
        if isinstance(now, Got) and (now.item is None or now.item.value[:16] != generation):
            # Somebody else kept one meanwhile, which is as good.
            for number in range(len(parts)):
                key = self._part(generation, number)
                self._patiently(lambda key=key: self._store.delete(key))  # type: ignore[misc]

    def load_snapshot(self) -> bytes | None:
        """The snapshot that was kept last; None without one."""

        def load() -> bytes | None:
            manifest = self._store.read(Get(self._prefix + b"s"))
            assert isinstance(manifest, Got)
            if manifest.item is None:
                return None
            keys = self._parts_of(manifest.item.value)
            items = [self._store.get(key, revision=manifest.revision) for key in keys]
            return zlib.decompress(b"".join(item.value for item in items if item is not None))

        return self._patiently(load)

    # ----------------------------------------------------------------------------------------------------------- inside

    def _key(self, number: int) -> bytes:
        return self._prefix + b"l/%016x" % number

    def _part(self, generation: bytes, number: int) -> bytes:
        return self._prefix + b"g/%s/%04d" % (generation, number)

    def _parts_of(self, manifest: bytes) -> list[bytes]:
        generation, count = manifest.split(b" ")
        return [self._part(generation, number) for number in range(int(count))]

    def _patiently(self, do: Callable[[], R]) -> R:
        """Do what may be done twice, until somebody answers."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return do()
            except (Indefinite, Unavailable, Overloaded):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE_S)


def storage(url: str, *, name: str = "optuna", patience_s: float = PATIENCE_S) -> JournalStorage:
    """A storage for ``optuna.create_study(storage=...)`` on the cluster at ``url``."""
    return JournalStorage(SynodBackend(url, name=name, patience_s=patience_s))


def _parts(records: list[str], draw: int) -> list[Batch]:
    """Records cut so that each part fits a value. Raises `TooLarge`."""
    parts: list[Batch] = []
    size = PART_BYTES
    for record in records:
        length = 4 * len(record) if not record.isascii() else len(record)
        if length > VALUE_BYTES_MAX - 64:
            raise TooLarge(f"a record of the journal has at most {VALUE_BYTES_MAX - 64} bytes, not {length}")
        if size + length > PART_BYTES:
            parts.append(Batch(draw, []))
            size = 0
        parts[-1].records.append(record)
        size += length + 8
    return parts
