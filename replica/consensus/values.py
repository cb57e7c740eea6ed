"""What a slot of a log may hold: commands, nothing, or the end of the epoch. Shared by the protocols that keep a log.

A slot's value is encoded once, by the leader that first proposes it; the same bytes travel to the followers, stand in
the log and are handed on in catch-up. Followers look inside only when they deliver. Tags are part of the wire and disk
format: they are never reused, and fields are only appended, with defaults.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .interface import Command, Configuration


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Commands in their order. An empty batch is a no-op."""

    commands: tuple[Command, ...] = ()


class Seal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The end of the epoch, in favour of ``configuration``."""

    configuration: Configuration


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Batch | Seal] = msgspec.msgpack.Decoder(Batch | Seal)

NOOP: Final = _encoder.encode(Batch())
"""The value that fills a gap, or opens a term."""

_SEAL_PREFIX: Final = b"\x92\x02"
"""How every encoded `Seal` begins: a MessagePack array of two, then its tag."""


def encode_batch(commands: tuple[Command, ...]) -> bytes:
    """The value of a slot that holds ``commands``."""
    return _encoder.encode(Batch(commands))


def encode_seal(configuration: Configuration) -> bytes:
    """The value of a slot that ends the epoch."""
    return _encoder.encode(Seal(configuration))


def is_seal(value: bytes) -> bool:
    """Does the value end the epoch? Answered without decoding it."""
    return value.startswith(_SEAL_PREFIX)


def decode_value(value: bytes) -> Batch | Seal:
    """Raises `msgspec.DecodeError` for bytes that are no value."""
    return _decoder.decode(value)
