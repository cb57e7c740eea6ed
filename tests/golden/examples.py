"""An example of every type that goes over a wire or to a disk, made from its declaration alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage
from msgspec import inspect

from replica.consensus.codec import Codec
from replica.consensus.registry import available, find_protocol
from replica.kv import leases, machine, operations, sessions
from replica.kv.layout import Changes
from replica.storage import backup, coordinator, folder, learning, records, snapshots, state
from replica.storage.envelope import Envelope
from replica.wire.v1 import admin_pb2, client_pb2, peer_pb2

DEPTH_MAX = 6
"""Beyond it, what may be empty is."""

EPOCH = 7
KEY = b"\x00\x00\x00\x00\x00\x00\x00\x2a"


class Golden(msgspec.Struct, frozen=True):
    """One kind of bytes: the example as this release writes it, and how any release's bytes of it are read."""

    name: str
    data: bytes
    read: Callable[[bytes], Any]
    kind: Any = None
    """The struct, where it is one whose fields are laid out as an array."""


def everything() -> Iterator[Golden]:
    """All kinds, each by a name of its own."""
    yield from _protocols()
    yield from _structs("storage", _STORAGE)
    yield from _structs("kv", _STATE)
    yield from _operations()
    yield from _protobuf()
    stored = Envelope("log").enclose(EPOCH, KEY, b"body")
    yield Golden("storage/envelope", stored, lambda data: Envelope("log").open(KEY, data))
    for kind in (folder.Identity, state.StateMarker):
        yield Golden(
            f"storage/json/{kind.__name__}",
            msgspec.json.encode(example(kind)),
            msgspec.json.Decoder(kind).decode,
        )


_STORAGE: tuple[type[msgspec.Struct], ...] = (
    coordinator.Anchor,
    learning.News,
    records.StoredIdentity,
    records.Incarnation,
    records.Admission,
    records.PeerDisk,
    snapshots.SnapshotHeader,
    snapshots.SnapshotFooter,
    backup.BackupHeader,
    backup.BackupFooter,
)

_STATE: tuple[type[msgspec.Struct], ...] = (
    Changes,
    sessions.Session,
    leases.Lease,
    leases._Counters,
    machine._Meta,
    operations.KeyValue,
    operations.WatchBatch,
)


def _protocols() -> Iterator[Golden]:
    for name in available():
        spec = find_protocol(name)
        codec = Codec(spec)
        for kind in spec.messages:
            made = codec.encode(example(kind))
            yield Golden(f"{name}/message/{kind.__name__}", made, codec.decode_message, kind)
        for table, declared in sorted(spec.tables.items()):
            for record in declared if isinstance(declared, tuple) else (declared,):

                def read(data: bytes, table: str = table, codec: Codec = codec) -> Any:
                    return codec.decode_record(table, data)

                yield Golden(f"{name}/{table}/{record.__name__}", codec.encode(example(record)), read, record)


_CHOSEN: dict[type[msgspec.Struct], dict[str, Any]] = {
    operations.Compare: {"target": "value", "operand": b"operand"},
}
"""Where fields depend on each other."""


def _structs(where: str, kinds: tuple[type[msgspec.Struct], ...]) -> Iterator[Golden]:
    for kind in kinds:
        decode = msgspec.msgpack.Decoder(kind).decode
        yield Golden(f"{where}/{kind.__name__}", msgspec.msgpack.encode(example(kind)), decode, kind)


def _operations() -> Iterator[Golden]:
    for where, union in (("operation", operations.AnyOperation), ("result", operations.AnyResult)):
        decode = msgspec.msgpack.Decoder(union).decode
        for kind in union.__args__:
            made = msgspec.msgpack.encode(example(kind))
            yield Golden(f"kv/{where}/{kind.__name__}", made, decode, kind)


def _protobuf() -> Iterator[Golden]:
    for module in (peer_pb2, client_pb2, admin_pb2):
        for name in sorted(module.DESCRIPTOR.message_types_by_name):
            kind = getattr(module, name)
            message = _filled(kind())
            yield Golden(f"wire/{name}", message.SerializeToString(deterministic=True), kind.FromString)


def _filled(message: Any, depth: int = 0) -> Any:
    """Every field set, of a choice the first."""
    chosen: set[str] = set()
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None:
            if field.containing_oneof.name in chosen:
                continue
            chosen.add(field.containing_oneof.name)
        value = _protobuf_value(message, field, depth)
        if value is None:
            continue
        if isinstance(value, ProtobufMessage):
            target = getattr(message, field.name)
            (target.add() if field.is_repeated else target).CopyFrom(value)
        elif field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


def _protobuf_value(message: Any, field: Any, depth: int) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            return None if depth > DEPTH_MAX else _filled(field.message_type._concrete_class(), depth + 1)
        case FieldDescriptor.TYPE_STRING:
            return field.name
        case FieldDescriptor.TYPE_BYTES:
            return field.name.encode()
        case FieldDescriptor.TYPE_BOOL:
            return True
        case FieldDescriptor.TYPE_DOUBLE:
            return 0.5
        case FieldDescriptor.TYPE_ENUM:
            return field.enum_type.values[-1].number
        case _:
            return 40 + field.number


# ----------------------------------------------------------------------------------------------- structs of msgspec


def example(kind: Any) -> Any:
    """A value of a type, the same each time: every field of a struct set, containers with one item."""
    return _example(inspect.type_info(kind), "", 0)


def _example(kind: Any, name: str, depth: int) -> Any:
    match kind:
        case inspect.StructType():
            made = {field.name: _example(field.type, field.name, depth + 1) for field in kind.fields}
            return kind.cls(**{**made, **_CHOSEN.get(kind.cls, {})})
        case inspect.IntType():
            return max(3 if kind.ge is None else kind.ge, 3)
        case inspect.FloatType():
            return 0.5
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return name or "text"
        case inspect.BytesType() | inspect.ByteArrayType() | inspect.MemoryViewType():
            return (name or "bytes").encode()
        case inspect.NoneType():
            return None
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.EnumType():
            return next(iter(kind.cls))
        case inspect.RawType() | inspect.AnyType():
            return msgspec.Raw(msgspec.msgpack.encode(1))
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            items = [] if depth > DEPTH_MAX else [_example(kind.item_type, name, depth + 1)]
            makers = {inspect.ListType: list, inspect.SetType: set, inspect.FrozenSetType: frozenset}
            return makers.get(type(kind), tuple)(items)
        case inspect.TupleType():
            return tuple(_example(each, name, depth + 1) for each in kind.item_types)
        case inspect.DictType():
            key = _example(kind.key_type, name, depth + 1)
            return {} if depth > DEPTH_MAX else {key: _example(kind.value_type, name, depth + 1)}
        case inspect.UnionType():
            some = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            return None if depth > DEPTH_MAX and len(some) < len(kind.types) else _example(some[0], name, depth + 1)
        case _:
            raise TypeError(f"no example is known of {kind!r}")
