"""Where everything is kept; the layout itself is told in the package's text.

Ids are sixteen hexadecimal digits, so that their order is that of the keys. Names stand in keys as they are up to
`PLAIN_BYTES_MAX` bytes, behind ``=``; longer ones as their SHA-256, behind ``#``. Both are injective, and no name can
look like the hash of another.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final

from replica.metadata.errors import InvalidValue
from replica.metadata.model import SERIAL_BITS, EdgeKind

LAYOUT: Final = 1
"""The version of this layout; raised when it changes otherwise than by additions."""

PREFIX_BYTES_MAX: Final = 40
PLAIN_BYTES_MAX: Final = 96
"""Names up to so many bytes stand in keys as they are."""

INDEXED_BYTES_MAX: Final = 64
"""Text counts in an index with its first bytes; find checks the objects themselves."""

WINDOW_STEPS: Final = 4096
"""Points of a metric are kept in chunks that do not cross multiples of this."""

LETTERS: Final[dict[EdgeKind, tuple[bytes, bytes]]] = {
    "input": (b"di", b"ui"),
    "output": (b"do", b"uo"),
    "dependency": (b"dd", b"ud"),
    "member": (b"mc", b"mm"),
    "parent": (b"pp", b"pc"),
}
"""How an edge stands at its source, and at its target. ``d`` and ``u`` run down and up the lineage."""

KIND_AT_SOURCE: Final = {letters[0]: kind for kind, letters in LETTERS.items()}
KIND_AT_TARGET: Final = {letters[1]: kind for kind, letters in LETTERS.items()}
ALIAS: Final = b"xa"
"""An alias that points at a node, as it stands at the node."""


def hexadecimal(number: int) -> bytes:
    """A number of up to 64 bits in a key."""
    return b"%016x" % number


def text_part(text: str) -> bytes:
    """A name in a key."""
    content = text.encode()
    if len(content) <= PLAIN_BYTES_MAX:
        return b"=" + content
    return b"#" + hashlib.sha256(content).hexdigest().encode()


def type_number(identity: int) -> int:
    """Which type an object has, from its id."""
    return identity >> SERIAL_BITS


def number_part(value: float) -> bytes:
    """A number such that the order of bytes is that of numbers. Integers beyond 2**53 share places."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))
    bits = bits ^ 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63
    return b"%016x" % bits


def value_part(value: Any) -> bytes:
    """A property's value in an index, in the order of values."""
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, int | float):
        return b"n" + number_part(value)
    assert isinstance(value, str)
    return b"s" + value.encode()[:INDEXED_BYTES_MAX] + b"\x00"


class Keys:
    """The keys of one metadata store, which all begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        content = prefix.encode()
        if not content or len(content) > PREFIX_BYTES_MAX or content.startswith(b"\x00"):
            raise InvalidValue(f"the prefix of a metadata store has 1 to {PREFIX_BYTES_MAX} bytes, not {prefix!r}")
        self.prefix = content
        self.layout = content + b"layout"
        self.serials = content + b"ids"
        self.type_numbers = content + b"types"
        self.types = content + b"t/"
        self.objects = content + b"o/"
        self.names = content + b"n/"
        self.externals = content + b"x/"
        self.indexes = content + b"i/"
        self.edges = content + b"e/"
        self.assets = content + b"v/"
        self.asset_names = content + b"w/"
        self.versions = content + b"p/"
        self.drafts = content + b"d/"
        self.aliases = content + b"s/"
        self.tombs = content + b"z/"
        self.running = content + b"q/"
        self.living = content + b"r/"
        self.metrics = content + b"m/"
        self.audit = content + b"a/"

    def type(self, kind: str, name: str) -> bytes:
        """A type's definition."""
        return self.types + kind[:1].encode() + text_part(name)

    def object(self, identity: int) -> bytes:
        """An object."""
        return self.objects + hexadecimal(identity)

    def objects_of(self, number: int) -> tuple[bytes, bytes]:
        """The interval of a type's objects."""
        return self.object(number << SERIAL_BITS), self.object((number + 1) << SERIAL_BITS)

    def name(self, number: int, name: str) -> bytes:
        """Whose name it is, among those of a type."""
        return self.names + b"%04x/" % number + text_part(name)

    def external(self, external_id: str) -> bytes:
        """Whose external id it is."""
        return self.externals + text_part(external_id)

    def index(self, number: int, field: str) -> bytes:
        """Where the entries of one indexed field begin."""
        return self.indexes + b"%04x/" % number + hashlib.sha256(field.encode()).hexdigest()[:12].encode() + b"/"

    def entry(self, number: int, field: str, value: Any, identity: int) -> bytes:
        """One entry of an index."""
        return self.index(number, field) + value_part(value) + hexadecimal(identity)

    def edge(self, kind: EdgeKind, source: int, target: int) -> tuple[bytes, bytes]:
        """An edge as it stands at its source and at its target."""
        there, back = LETTERS[kind]
        return (
            self.edges_of(source, there) + hexadecimal(target),
            self.edges_of(target, back) + hexadecimal(source),
        )

    def edges_of(self, identity: int, letters: bytes = b"") -> bytes:
        """Where the edges of a node begin: all, those with a letter, or those of one kind."""
        return self.edges + hexadecimal(identity) + b"/" + letters

    def alias_at(self, identity: int, alias: str) -> bytes:
        """An alias, as it stands at the node that it points at."""
        return self.edges_of(identity, ALIAS) + text_part(alias)

    def asset(self, identity: int) -> bytes:
        """An asset."""
        return self.assets + hexadecimal(identity)

    def asset_name(self, name: str) -> bytes:
        """Which asset has the name."""
        return self.asset_names + text_part(name)

    def version(self, asset: int, version: tuple[int, int, int]) -> bytes:
        """A published version of an asset."""
        return self.version_list(asset) + b"%09d.%09d.%09d" % version

    def version_list(self, asset: int) -> bytes:
        """Where the published versions of an asset begin."""
        return self.versions + hexadecimal(asset) + b"/"

    def draft(self, asset: int, identity: int) -> bytes:
        """A draft of an asset."""
        return self.drafts_of(asset) + hexadecimal(identity)

    def drafts_of(self, asset: int) -> bytes:
        """Where the drafts of an asset begin."""
        return self.drafts + hexadecimal(asset) + b"/"

    def alias(self, alias: str) -> bytes:
        """Where an alias points."""
        return self.aliases + text_part(alias)

    def tomb(self, identity: int) -> bytes:
        """That an object was purged."""
        return self.tombs + hexadecimal(identity)

    def run(self, identity: int) -> tuple[bytes, bytes]:
        """That an execution is running, and that it lives (the second key lives with its lease)."""
        return self.running + hexadecimal(identity), self.living + hexadecimal(identity)

    def metric(self, owner: int, name: str, window: int | None = None) -> bytes:
        """Where the points of a metric begin, those of one window, if that is given."""
        begin = self.metrics + hexadecimal(owner) + b"/" + text_part(name) + b"\x00"
        return begin if window is None else begin + b"%013x/" % window

    def record(self, hint: int, identity: int) -> bytes:
        """A record of the audit trail."""
        return self.audit + hexadecimal(hint) + hexadecimal(identity)


def tail_id(key: bytes) -> int:
    """The id at the end of a key."""
    return int(key[-16:], 16)


def check_text(what: str, text: object, bytes_max: int) -> str:
    """``text``, if it may be a name. Raises `InvalidValue`."""
    if not isinstance(text, str):
        raise InvalidValue(f"{what} is text, not {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidValue(f"{what} {text!r} is not text that UTF-8 can carry") from None
    if not 0 < size <= bytes_max or "\x00" in text:
        raise InvalidValue(f"{what} has 1 to {bytes_max} bytes and no zero byte, not {text[:40]!r} ({size} bytes)")
    return text
