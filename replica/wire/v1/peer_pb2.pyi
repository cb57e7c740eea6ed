from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Greeting(_message.Message):
    __slots__ = ("wire_version", "cluster", "replica", "recipient", "disk", "incarnation", "connection", "epoch", "protocol", "admitted")
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    wire_version: int
    cluster: str
    replica: int
    recipient: int
    disk: str
    incarnation: int
    connection: int
    epoch: int
    protocol: str
    admitted: bool
    def __init__(self, wire_version: _Optional[int] = ..., cluster: _Optional[str] = ..., replica: _Optional[int] = ..., recipient: _Optional[int] = ..., disk: _Optional[str] = ..., incarnation: _Optional[int] = ..., connection: _Optional[int] = ..., epoch: _Optional[int] = ..., protocol: _Optional[str] = ..., admitted: bool = ...) -> None: ...

class PeerFrame(_message.Message):
    __slots__ = ("greeting", "messages")
    GREETING_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    greeting: Greeting
    messages: Messages
    def __init__(self, greeting: _Optional[_Union[Greeting, _Mapping]] = ..., messages: _Optional[_Union[Messages, _Mapping]] = ...) -> None: ...

class Messages(_message.Message):
    __slots__ = ("epoch", "messages", "sent_us")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SENT_US_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    sent_us: int
    def __init__(self, epoch: _Optional[int] = ..., messages: _Optional[_Iterable[bytes]] = ..., sent_us: _Optional[int] = ...) -> None: ...

class PeerReply(_message.Message):
    __slots__ = ("welcome", "refusal", "epoch_notice", "echo")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_NOTICE_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    refusal: Refusal
    epoch_notice: EpochNotice
    echo: Echo
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., epoch_notice: _Optional[_Union[EpochNotice, _Mapping]] = ..., echo: _Optional[_Union[Echo, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("epoch", "disk", "incarnation", "admitted")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    disk: str
    incarnation: int
    admitted: bool
    def __init__(self, epoch: _Optional[int] = ..., disk: _Optional[str] = ..., incarnation: _Optional[int] = ..., admitted: bool = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "message")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Refusal.Code]
        WRONG_CLUSTER: _ClassVar[Refusal.Code]
        WRONG_RECIPIENT: _ClassVar[Refusal.Code]
        NOT_A_MEMBER: _ClassVar[Refusal.Code]
        DIFFERENT_DISK: _ClassVar[Refusal.Code]
        VERSION: _ClassVar[Refusal.Code]
        STALE_CONNECTION: _ClassVar[Refusal.Code]
        PROTOCOL: _ClassVar[Refusal.Code]
        CERTIFICATE: _ClassVar[Refusal.Code]
    UNSPECIFIED: Refusal.Code
    WRONG_CLUSTER: Refusal.Code
    WRONG_RECIPIENT: Refusal.Code
    NOT_A_MEMBER: Refusal.Code
    DIFFERENT_DISK: Refusal.Code
    VERSION: Refusal.Code
    STALE_CONNECTION: Refusal.Code
    PROTOCOL: Refusal.Code
    CERTIFICATE: Refusal.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: Refusal.Code
    message: str
    def __init__(self, code: _Optional[_Union[Refusal.Code, str]] = ..., message: _Optional[str] = ...) -> None: ...

class EpochNotice(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class Echo(_message.Message):
    __slots__ = ("sent_us",)
    SENT_US_FIELD_NUMBER: _ClassVar[int]
    sent_us: int
    def __init__(self, sent_us: _Optional[int] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("cluster", "replica", "disk", "frontier", "epoch")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    replica: int
    disk: str
    frontier: bytes
    epoch: int
    def __init__(self, cluster: _Optional[str] = ..., replica: _Optional[int] = ..., disk: _Optional[str] = ..., frontier: _Optional[bytes] = ..., epoch: _Optional[int] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("data", "offset", "total_bytes", "last")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offset: int
    total_bytes: int
    last: bool
    def __init__(self, data: _Optional[bytes] = ..., offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., last: bool = ...) -> None: ...

class LearnRequest(_message.Message):
    __slots__ = ("request", "applied")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    request: SnapshotRequest
    applied: int
    def __init__(self, request: _Optional[_Union[SnapshotRequest, _Mapping]] = ..., applied: _Optional[int] = ...) -> None: ...

class LearnChunk(_message.Message):
    __slots__ = ("snapshot", "news")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    snapshot: SnapshotChunk
    news: bytes
    def __init__(self, snapshot: _Optional[_Union[SnapshotChunk, _Mapping]] = ..., news: _Optional[bytes] = ...) -> None: ...
