"""The messages of etcd's v3 interface that the harness speaks.

Written from the published field numbers, under a package of our own: two descriptors of one name would collide in a
process that also loads somebody else's. The wire does not carry names, and the paths of the methods are published, too.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "synod.bench.etcd"

PUT: Final = "/etcdserverpb.KV/Put"
RANGE: Final = "/etcdserverpb.KV/Range"
DELETE_RANGE: Final = "/etcdserverpb.KV/DeleteRange"
TXN: Final = "/etcdserverpb.KV/Txn"
STATUS: Final = "/etcdserverpb.Maintenance/Status"
HASH: Final = "/etcdserverpb.Maintenance/HashKV"

EQUAL, GREATER, LESS, NOT_EQUAL = 0, 1, 2, 3
VERSION, CREATE, MOD, VALUE = 0, 1, 2, 3
DESCENDING: Final = 2

_Type = descriptor_pb2.FieldDescriptorProto
_BYTES, _INT64, _UINT64, _BOOL, _UINT32, _INT32, _STRING = (
    _Type.TYPE_BYTES,
    _Type.TYPE_INT64,
    _Type.TYPE_UINT64,
    _Type.TYPE_BOOL,
    _Type.TYPE_UINT32,
    _Type.TYPE_INT32,
    _Type.TYPE_STRING,
)

# A field is (number, type), a message type by its name; "*" in front of the name of a field says that it is repeated,
# "|" that it belongs to the message's one choice. Enumerations travel as their numbers.
_MESSAGES: Final[dict[str, dict[str, tuple[int, int | str]]]] = {
    "KeyValue": {
        "key": (1, _BYTES),
        "create_revision": (2, _INT64),
        "mod_revision": (3, _INT64),
        "version": (4, _INT64),
        "value": (5, _BYTES),
    },
    "Header": {
        "cluster_id": (1, _UINT64),
        "member_id": (2, _UINT64),
        "revision": (3, _INT64),
        "raft_term": (4, _UINT64),
    },
    "RangeRequest": {
        "key": (1, _BYTES),
        "range_end": (2, _BYTES),
        "limit": (3, _INT64),
        "revision": (4, _INT64),
        "sort_order": (5, _INT32),
        "serializable": (7, _BOOL),
        "keys_only": (8, _BOOL),
        "count_only": (9, _BOOL),
    },
    "RangeResponse": {"header": (1, "Header"), "*kvs": (2, "KeyValue"), "more": (3, _BOOL), "count": (4, _INT64)},
    "PutRequest": {"key": (1, _BYTES), "value": (2, _BYTES)},
    "PutResponse": {"header": (1, "Header"), "prev_kv": (2, "KeyValue")},
    "DeleteRangeRequest": {"key": (1, _BYTES), "range_end": (2, _BYTES)},
    "DeleteRangeResponse": {"header": (1, "Header"), "deleted": (2, _INT64)},
    "RequestOp": {
        "|request_range": (1, "RangeRequest"),
        "|request_put": (2, "PutRequest"),
        "|request_delete_range": (3, "DeleteRangeRequest"),
    },
    "ResponseOp": {
        "|response_range": (1, "RangeResponse"),
        "|response_put": (2, "PutResponse"),
        "|response_delete_range": (3, "DeleteRangeResponse"),
    },
    "Compare": {
        "result": (1, _INT32),
        "target": (2, _INT32),
        "key": (3, _BYTES),
        "|version": (4, _INT64),
        "|create_revision": (5, _INT64),
        "|mod_revision": (6, _INT64),
        "|value": (7, _BYTES),
    },
    "TxnRequest": {"*compare": (1, "Compare"), "*success": (2, "RequestOp"), "*failure": (3, "RequestOp")},
    "TxnResponse": {"header": (1, "Header"), "succeeded": (2, _BOOL), "*responses": (3, "ResponseOp")},
    "StatusRequest": {},
    "StatusResponse": {"header": (1, "Header"), "version": (2, _STRING), "leader": (4, _UINT64)},
    "HashRequest": {"revision": (1, _INT64)},
    "HashResponse": {"header": (1, "Header"), "hash": (2, _UINT32), "compact_revision": (3, _INT64)},
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="synod/bench/etcd.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if any(field.startswith("|") for field in fields):
            message.oneof_decl.add(name="choice")
        for field, (number, kind) in fields.items():
            entry = message.field.add(
                name=field.lstrip("*|"),
                number=number,
                label=_Type.LABEL_REPEATED if field.startswith("*") else _Type.LABEL_OPTIONAL,
            )
            if isinstance(kind, str):
                entry.type, entry.type_name = _Type.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                entry.type = kind  # type: ignore[assignment]
            if field.startswith("|"):
                entry.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()  # its own: nothing is added to what other modules see
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES: Final = _build()

RangeRequest: Any = _CLASSES["RangeRequest"]
RangeResponse: Any = _CLASSES["RangeResponse"]
PutRequest: Any = _CLASSES["PutRequest"]
PutResponse: Any = _CLASSES["PutResponse"]
DeleteRangeRequest: Any = _CLASSES["DeleteRangeRequest"]
DeleteRangeResponse: Any = _CLASSES["DeleteRangeResponse"]
RequestOp: Any = _CLASSES["RequestOp"]
Compare: Any = _CLASSES["Compare"]
TxnRequest: Any = _CLASSES["TxnRequest"]
TxnResponse: Any = _CLASSES["TxnResponse"]
StatusRequest: Any = _CLASSES["StatusRequest"]
StatusResponse: Any = _CLASSES["StatusResponse"]
HashRequest: Any = _CLASSES["HashRequest"]
HashResponse: Any = _CLASSES["HashResponse"]
