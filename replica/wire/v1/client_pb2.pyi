from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINEARIZABLE: _ClassVar[Consistency]
    STALE: _ClassVar[Consistency]
    READ_INDEX: _ClassVar[Consistency]
    LOG: _ClassVar[Consistency]
    LEASE: _ClassVar[Consistency]
    QUORUM: _ClassVar[Consistency]

class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODE_UNSPECIFIED: _ClassVar[Code]
    NOT_LEADER: _ClassVar[Code]
    OVERLOADED: _ClassVar[Code]
    INVALID: _ClassVar[Code]
    UNSUPPORTED: _ClassVar[Code]
    SESSION_UNKNOWN: _ClassVar[Code]
    UNAVAILABLE: _ClassVar[Code]
    TOO_LARGE: _ClassVar[Code]
    WRONG_CLUSTER: _ClassVar[Code]
    WIRE_VERSION: _ClassVar[Code]
    STORAGE_FULL: _ClassVar[Code]
    INTERNAL: _ClassVar[Code]
    COMPACTED: _ClassVar[Code]
    SLOW: _ClassVar[Code]
    UNAUTHENTICATED: _ClassVar[Code]
    PERMISSION_DENIED: _ClassVar[Code]
LINEARIZABLE: Consistency
STALE: Consistency
READ_INDEX: Consistency
LOG: Consistency
LEASE: Consistency
QUORUM: Consistency
CODE_UNSPECIFIED: Code
NOT_LEADER: Code
OVERLOADED: Code
INVALID: Code
UNSUPPORTED: Code
SESSION_UNKNOWN: Code
UNAVAILABLE: Code
TOO_LARGE: Code
WRONG_CLUSTER: Code
WIRE_VERSION: Code
STORAGE_FULL: Code
INTERNAL: Code
COMPACTED: Code
SLOW: Code
UNAUTHENTICATED: Code
PERMISSION_DENIED: Code

class ClientFrame(_message.Message):
    __slots__ = ("hello", "runs", "reads", "goodbye", "watches", "unwatch")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    WATCHES_FIELD_NUMBER: _ClassVar[int]
    UNWATCH_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    reads: _containers.RepeatedCompositeFieldContainer[Read]
    goodbye: bool
    watches: _containers.RepeatedCompositeFieldContainer[Watch]
    unwatch: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., reads: _Optional[_Iterable[_Union[Read, _Mapping]]] = ..., goodbye: bool = ..., watches: _Optional[_Iterable[_Union[Watch, _Mapping]]] = ..., unwatch: _Optional[_Iterable[int]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("wire_version", "cluster", "session", "nonce", "client", "region", "zone")
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    wire_version: int
    cluster: str
    session: int
    nonce: bytes
    client: str
    region: str
    zone: str
    def __init__(self, wire_version: _Optional[int] = ..., cluster: _Optional[str] = ..., session: _Optional[int] = ..., nonce: _Optional[bytes] = ..., client: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("first_sequence", "count", "acknowledged", "operations")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    acknowledged: int
    operations: bytes
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., acknowledged: _Optional[int] = ..., operations: _Optional[bytes] = ...) -> None: ...

class Watch(_message.Message):
    __slots__ = ("id", "first", "last", "revision", "no_puts", "no_deletes", "previous")
    ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NO_PUTS_FIELD_NUMBER: _ClassVar[int]
    NO_DELETES_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    id: int
    first: bytes
    last: bytes
    revision: int
    no_puts: bool
    no_deletes: bool
    previous: bool
    def __init__(self, id: _Optional[int] = ..., first: _Optional[bytes] = ..., last: _Optional[bytes] = ..., revision: _Optional[int] = ..., no_puts: bool = ..., no_deletes: bool = ..., previous: bool = ...) -> None: ...

class Read(_message.Message):
    __slots__ = ("id", "consistency", "count", "operations")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    id: int
    consistency: Consistency
    count: int
    operations: bytes
    def __init__(self, id: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., count: _Optional[int] = ..., operations: _Optional[bytes] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("welcome", "results", "read_results", "rejections", "closing", "watch_news")
    class Welcome(_message.Message):
        __slots__ = ("wire_version", "cluster", "replica", "session", "epoch", "protocol", "limits", "exactly_once", "leader", "leader_address", "endpoints", "routing")
        WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
        CLUSTER_FIELD_NUMBER: _ClassVar[int]
        REPLICA_FIELD_NUMBER: _ClassVar[int]
        SESSION_FIELD_NUMBER: _ClassVar[int]
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        PROTOCOL_FIELD_NUMBER: _ClassVar[int]
        LIMITS_FIELD_NUMBER: _ClassVar[int]
        EXACTLY_ONCE_FIELD_NUMBER: _ClassVar[int]
        LEADER_FIELD_NUMBER: _ClassVar[int]
        LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
        ROUTING_FIELD_NUMBER: _ClassVar[int]
        wire_version: int
        cluster: str
        replica: int
        session: int
        epoch: int
        protocol: str
        limits: Limits
        exactly_once: bool
        leader: int
        leader_address: str
        endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
        routing: str
        def __init__(self, wire_version: _Optional[int] = ..., cluster: _Optional[str] = ..., replica: _Optional[int] = ..., session: _Optional[int] = ..., epoch: _Optional[int] = ..., protocol: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., exactly_once: bool = ..., leader: _Optional[int] = ..., leader_address: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., routing: _Optional[str] = ...) -> None: ...
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    READ_RESULTS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    WATCH_NEWS_FIELD_NUMBER: _ClassVar[int]
    welcome: ServerFrame.Welcome
    results: _containers.RepeatedCompositeFieldContainer[RunResult]
    read_results: _containers.RepeatedCompositeFieldContainer[ReadResult]
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    closing: Closing
    watch_news: _containers.RepeatedCompositeFieldContainer[WatchNews]
    def __init__(self, welcome: _Optional[_Union[ServerFrame.Welcome, _Mapping]] = ..., results: _Optional[_Iterable[_Union[RunResult, _Mapping]]] = ..., read_results: _Optional[_Iterable[_Union[ReadResult, _Mapping]]] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., closing: _Optional[_Union[Closing, _Mapping]] = ..., watch_news: _Optional[_Iterable[_Union[WatchNews, _Mapping]]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("replica", "address", "region", "zone")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    replica: int
    address: str
    region: str
    zone: str
    def __init__(self, replica: _Optional[int] = ..., address: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("key_bytes_max", "value_bytes_max", "run_operations_max", "frame_bytes_max", "session_window", "transaction_operations_max", "watches_max")
    KEY_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    VALUE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    RUN_OPERATIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SESSION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_OPERATIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    WATCHES_MAX_FIELD_NUMBER: _ClassVar[int]
    key_bytes_max: int
    value_bytes_max: int
    run_operations_max: int
    frame_bytes_max: int
    session_window: int
    transaction_operations_max: int
    watches_max: int
    def __init__(self, key_bytes_max: _Optional[int] = ..., value_bytes_max: _Optional[int] = ..., run_operations_max: _Optional[int] = ..., frame_bytes_max: _Optional[int] = ..., session_window: _Optional[int] = ..., transaction_operations_max: _Optional[int] = ..., watches_max: _Optional[int] = ...) -> None: ...

class RunResult(_message.Message):
    __slots__ = ("first_sequence", "count", "results")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    results: bytes
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., results: _Optional[bytes] = ...) -> None: ...

class ReadResult(_message.Message):
    __slots__ = ("id", "results")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    id: int
    results: bytes
    def __init__(self, id: _Optional[int] = ..., results: _Optional[bytes] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("first_sequence", "count", "read_id", "code", "definite", "message", "leader", "leader_address")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    READ_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DEFINITE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    read_id: int
    code: Code
    definite: bool
    message: str
    leader: int
    leader_address: str
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., read_id: _Optional[int] = ..., code: _Optional[_Union[Code, str]] = ..., definite: bool = ..., message: _Optional[str] = ..., leader: _Optional[int] = ..., leader_address: _Optional[str] = ...) -> None: ...

class WatchNews(_message.Message):
    __slots__ = ("ids", "started", "batches", "progress", "ended", "partial")
    IDS_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    started: int
    batches: bytes
    progress: int
    ended: WatchEnded
    partial: bool
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., started: _Optional[int] = ..., batches: _Optional[bytes] = ..., progress: _Optional[int] = ..., ended: _Optional[_Union[WatchEnded, _Mapping]] = ..., partial: bool = ...) -> None: ...

class WatchEnded(_message.Message):
    __slots__ = ("code", "message", "revision")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    code: Code
    message: str
    revision: int
    def __init__(self, code: _Optional[_Union[Code, str]] = ..., message: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class Closing(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: Code
    message: str
    def __init__(self, code: _Optional[_Union[Code, str]] = ..., message: _Optional[str] = ...) -> None: ...
