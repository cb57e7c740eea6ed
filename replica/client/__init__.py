"""The client library: asynchronous first, with a synchronous face.

    from replica.client import connect

    with connect("127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003") as store:
        store.put("greeting", "hello")
        store.get("greeting").value                     # b"hello"

`connect_async` gives the same for asyncio. Errors say whether the operation may have taken effect: `NotCommitted` or
`Indefinite`. The README beside this file is a guide.

It is installed into other people's programs, so it carries nothing of the server: it may import `replica.wire` and
the vocabulary of `replica.kv`, never the node, storage, consensus or simulation packages, nor lmdb, uvloop or
prometheus_client.
"""

from replica.client.errors import (
    Closed,
    Compacted,
    ConditionFailed,
    Conflict,
    FutureRevision,
    Indefinite,
    InvalidArgument,
    LeadershipLost,
    LeaseExists,
    LeaseLost,
    LeaseUnknown,
    LockLost,
    MaybeCommitted,
    NotAcquired,
    NotANumber,
    NotCommitted,
    Overloaded,
    PermissionDenied,
    Refused,
    ResultForgotten,
    SessionLost,
    StorageFull,
    SynodError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WrongCluster,
)
from replica.client.leases import AsyncLease
from replica.client.locks import AsyncElection, AsyncLock
from replica.client.options import Options
from replica.client.ranges import AsyncRange
from replica.client.status import ReplicaStatus
from replica.client.store import AsyncStore, connect_async
from replica.client.sync import RangeIterator, Store, SyncTransaction, connect
from replica.client.sync_locks import Election, Lease, Lock
from replica.client.sync_watch import Watch
from replica.client.transaction import AsyncTransaction
from replica.client.watch import AsyncWatch
from replica.kv.operations import (
    Add,
    Added,
    Compare,
    Delete,
    Deleted,
    DeleteRange,
    Get,
    KeyValue,
    LeaseDescribed,
    Put,
    Range,
    Ranged,
    Transacted,
    Unchanged,
    WatchBatch,
    WatchEvent,
    Written,
)

__all__ = [
    # connecting
    "connect",
    "connect_async",
    "Store",
    "AsyncStore",
    "Options",
    "SyncTransaction",
    "AsyncTransaction",
    "RangeIterator",
    "AsyncRange",
    "ReplicaStatus",
    # watching, and living with leases
    "Watch",
    "AsyncWatch",
    "Lease",
    "AsyncLease",
    "Lock",
    "AsyncLock",
    "Election",
    "AsyncElection",
    # what the store answers
    "KeyValue",
    "Written",
    "Deleted",
    "Added",
    "Ranged",
    "Transacted",
    "WatchBatch",
    "WatchEvent",
    "LeaseDescribed",
    # what a raw transaction is made of
    "Put",
    "Get",
    "Range",
    "Delete",
    "DeleteRange",
    "Add",
    "Compare",
    "Unchanged",
    # errors
    "SynodError",
    "NotCommitted",
    "Unavailable",
    "Overloaded",
    "StorageFull",
    "InvalidArgument",
    "TooLarge",
    "NotANumber",
    "Unsupported",
    "ConditionFailed",
    "Conflict",
    "Compacted",
    "NotAcquired",
    "LeaseUnknown",
    "LeaseExists",
    "LeaseLost",
    "LockLost",
    "LeadershipLost",
    "FutureRevision",
    "WrongCluster",
    "Unauthenticated",
    "PermissionDenied",
    "Closed",
    "Refused",
    "Indefinite",
    "MaybeCommitted",
    "SessionLost",
    "ResultForgotten",
]
