"""Files of frames, which snapshots and backups are. All integers are big endian:

    8 bytes   magic: what the file is
    frames    each: length of the payload (4), CRC-32 of kind and payload (4), kind (1), payload

What the kinds mean is the affair of the file; its first frame is a header and its last a footer, so that one cut short
is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, Self, TypeVar
from zlib import crc32

import msgspec

from .errors import StorageError
from .files import FILE_MODE

T = TypeVar("T")

FRAME_BYTES_MAX: Final = 64 << 20
"""No writer makes longer frames; a reader that meets one has met damage."""

_FRAME: Final = Struct(">IIB")


def frame(kind: int, payload: bytes) -> tuple[bytes, int]:
    """A frame as it lies in the file, and its checksum."""
    checksum = crc32(payload, kind)
    return _FRAME.pack(len(payload), checksum, kind) + payload, checksum


def private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read; for `open`."""
    return os.open(path, flags, FILE_MODE)


class FrameReader:
    """Reads a file frame by frame, and believes nothing that its checksums do not vouch for."""

    error: type[StorageError] = StorageError
    """What damage is raised as."""
    remedy = ""
    """What to do about it."""

    def __init__(self, path: Path, magic: bytes, what: str) -> None:
        """Open the file, and close it again unless it begins with ``magic``. Raises `error`."""
        self.path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise self.error(f"{path}: cannot be read: {error.strerror or error}") from error
        if self._file.read(len(magic)) != magic:
            self.close()
            raise self.damage(f"it is no {what}")

    def frame(self) -> tuple[int, bytes, int]:
        """Kind, payload and checksum of the next frame. Raises `error`, at the end of the file too."""
        prefix = self._file.read(_FRAME.size)
        if len(prefix) < _FRAME.size:
            raise self.damage("it was cut short")
        length, checksum, kind = _FRAME.unpack(prefix)
        if length > FRAME_BYTES_MAX:
            raise self.damage(f"a frame of {length} bytes")
        payload = self._file.read(length)
        if len(payload) < length:
            raise self.damage("it was cut short")
        if crc32(payload, kind) != checksum:
            raise self.damage(f"the checksum of the frame before byte {self._file.tell()} does not match")
        return kind, payload, checksum

    def end(self) -> None:
        """Nothing may follow. Raises `error`."""
        if self._file.read(1):
            raise self.damage("something follows its end")

    def decode(self, decode: Callable[[bytes], T], payload: bytes) -> T:
        """What a payload says. Raises `error`."""
        try:
            return decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.damage(str(error)) from None

    def damage(self, what: str) -> StorageError:
        """The error to raise because of ``what``."""
        return self.error(f"{self.path}: is damaged ({what}); {self.remedy}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
