"""Backups: all keys of a store at one revision in one file, whichever protocol and layout it came from and goes to.

A snapshot belongs to a replica: it carries sessions, history and a place in a log. A backup belongs to nobody: it holds
the keys as a client reads them, with their revisions and versions, and the leases that they live with. It is a file of
frames (`replica.storage.frames`) with the magic ``SYNODBAK``:

    kind 1    the header, once and first: `BackupHeader` as MessagePack
    kind 2    keys, ascending: MessagePack array of `KeyValue`
    kind 3    the footer, once and last: `BackupFooter`

The *digest* is the SHA-256 over the keys, each as MessagePack, in their order: backups of equal data at equal revisions
have equal digests, of whatever clusters they are. A file without a footer was cut short. It is written beside its
place, synced and renamed, so that what has the name is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from replica.kv.operations import KeyValue

from .errors import StorageError
from .files import sync_directory
from .frames import FrameReader, frame, private

BACKUP_VERSION: Final = 1

FRAME_BYTES: Final = 256 << 10
"""Keys and values in one frame, more or less."""

MAGIC: Final = b"SYNODBAK"
_HEADER_KIND: Final = 1
_KEYS_KIND: Final = 2
_FOOTER_KIND: Final = 3


class BackupError(StorageError):
    """A backup cannot be written, or what is in a file is none that can be used; the text says which and why."""


class BackupHeader(msgspec.Struct, frozen=True, array_like=True):
    """What a backup is of. Fields are only ever appended."""

    version: int
    cluster: str
    revision: int
    protocol: str = ""
    release: str = ""
    created: str = ""
    """In ISO 8601, UTC; for people."""
    leases: tuple[tuple[int, int], ...] = ()
    """Id and time to live in milliseconds of every lease."""


class BackupFooter(msgspec.Struct, frozen=True, array_like=True):
    """What must have come before."""

    frames: int
    keys: int
    digest: str


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(BackupHeader).decode
_decode_keys = msgspec.msgpack.Decoder(list[KeyValue]).decode
_decode_footer = msgspec.msgpack.Decoder(BackupFooter).decode


class BackupWriter:
    """Writes one backup. `finish` puts it in its place; without that, nothing is left."""

    def __init__(self, path: Path, header: BackupHeader) -> None:
        """Raises `BackupError`, also when there is a file of that name."""
        self.path = path
        self._staged = path.with_name(f".{path.name}.partial")
        if path.exists():
            raise BackupError(f"{path}: exists already; choose another name, nothing was written")
        self._digest = hashlib.sha256()
        self._frames = 0
        self._keys = 0
        self._chunk: list[bytes] = []
        self._chunk_bytes = 0
        try:
            self._file = open(self._staged, "wb", opener=private)  # noqa: SIM115 - closed by `finish`, `abandon`
        except OSError as error:
            raise BackupError(f"{path}: cannot be written: {error.strerror or error}") from None
        self._put(MAGIC)
        self._frame(_HEADER_KIND, _encode(header))

    def add(self, item: KeyValue) -> None:
        """The next key; they ascend. Raises `BackupError`."""
        encoded = _encode(item)
        self._digest.update(encoded)
        self._chunk.append(encoded)
        self._chunk_bytes += len(encoded)
        self._keys += 1
        if self._chunk_bytes >= FRAME_BYTES:
            self._end_chunk()

    def finish(self) -> BackupFooter:
        """Complete it, durably. Raises `BackupError`."""
        if self._chunk:
            self._end_chunk()
        footer = BackupFooter(self._frames, self._keys, self._digest.hexdigest())
        self._frame(_FOOTER_KIND, _encode(footer))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._staged.rename(self.path)
            sync_directory(self.path.absolute().parent)
        except OSError as error:
            raise BackupError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        return footer

    def abandon(self) -> None:
        """Give up. After `finish` it does nothing."""
        if not self._file.closed:
            self._file.close()
            self._staged.unlink(missing_ok=True)

    def _end_chunk(self) -> None:
        self._frame(_KEYS_KIND, _encode([msgspec.Raw(each) for each in self._chunk]))
        self._frames += 1
        self._chunk, self._chunk_bytes = [], 0

    def _frame(self, kind: int, payload: bytes) -> None:
        self._put(frame(kind, payload)[0])

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise BackupError(f"{self.path}: cannot be written: {error.strerror or error}") from None


class BackupReader(FrameReader):
    """Reads a backup."""

    error = BackupError
    remedy = "use another backup"

    def __init__(self, path: Path) -> None:
        """Open the file and read its header. Raises `BackupError`."""
        super().__init__(path, MAGIC, "backup")
        try:
            kind, payload, _ = self.frame()
            if kind != _HEADER_KIND:
                raise self.damage("its header is missing")
            self.header = self.decode(_decode_header, payload)
            if self.header.version > BACKUP_VERSION:
                raise BackupError(
                    f"{path}: has format {self.header.version}, this release reads up to {BACKUP_VERSION}; use a later "
                    "release"
                )
        except BaseException:
            self.close()
            raise

    def items(self) -> Iterator[KeyValue]:
        """All keys; complete when it ends without `BackupError`. `footer` is there then."""
        digest = hashlib.sha256()
        frames = keys = 0
        before = b""
        while True:
            kind, payload, _ = self.frame()
            if kind == _FOOTER_KIND:
                self.footer = self.decode(_decode_footer, payload)
                if self.footer != BackupFooter(frames, keys, digest.hexdigest()):
                    raise self.damage("its keys are not those that were written")
                self.end()
                return
            if kind != _KEYS_KIND:
                raise self.damage(f"a frame of unknown kind {kind}")
            frames += 1
            for item in self.decode(_decode_keys, payload):
                if item.key <= before:
                    raise self.damage("its keys do not ascend")
                before = item.key
                keys += 1
                digest.update(_encode(item))
                yield item

    def verify(self) -> BackupFooter:
        """Read it to the end. Raises `BackupError`."""
        for _ in self.items():
            pass
        return self.footer


def write_backup(path: Path, header: BackupHeader, items: Iterable[KeyValue]) -> BackupFooter:
    """Write a whole backup. Raises `BackupError`, and what ``items`` raises; then nothing is left."""
    writer = BackupWriter(path, header)
    try:
        for item in items:
            writer.add(item)
        return writer.finish()
    finally:
        writer.abandon()
