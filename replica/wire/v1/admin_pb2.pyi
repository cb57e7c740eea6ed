from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("cluster", "replica", "epoch", "protocol", "role", "leader", "leader_address", "ballot", "ready", "accepting", "decided", "applied", "revision", "compacted", "durability", "sync_mode", "incarnation", "version", "members", "log_first", "log_bytes", "state_bytes", "snapshot_frontier", "sessions", "disk", "uptime_s", "problem")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTING_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMPACTED_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    SYNC_MODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIRST_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FRONTIER_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    replica: int
    epoch: int
    protocol: str
    role: str
    leader: int
    leader_address: str
    ballot: str
    ready: bool
    accepting: bool
    decided: int
    applied: int
    revision: int
    compacted: int
    durability: str
    sync_mode: str
    incarnation: int
    version: str
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    log_first: int
    log_bytes: int
    state_bytes: int
    snapshot_frontier: int
    sessions: int
    disk: str
    uptime_s: float
    problem: str
    def __init__(self, cluster: _Optional[str] = ..., replica: _Optional[int] = ..., epoch: _Optional[int] = ..., protocol: _Optional[str] = ..., role: _Optional[str] = ..., leader: _Optional[int] = ..., leader_address: _Optional[str] = ..., ballot: _Optional[str] = ..., ready: bool = ..., accepting: bool = ..., decided: _Optional[int] = ..., applied: _Optional[int] = ..., revision: _Optional[int] = ..., compacted: _Optional[int] = ..., durability: _Optional[str] = ..., sync_mode: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[str] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., log_first: _Optional[int] = ..., log_bytes: _Optional[int] = ..., state_bytes: _Optional[int] = ..., snapshot_frontier: _Optional[int] = ..., sessions: _Optional[int] = ..., disk: _Optional[str] = ..., uptime_s: _Optional[float] = ..., problem: _Optional[str] = ...) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("replica", "peer_address", "client_address", "region", "zone", "connected", "round_trip_ms")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
    replica: int
    peer_address: str
    client_address: str
    region: str
    zone: str
    connected: bool
    round_trip_ms: float
    def __init__(self, replica: _Optional[int] = ..., peer_address: _Optional[str] = ..., client_address: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., connected: bool = ..., round_trip_ms: _Optional[float] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("at_least", "timeout_s")
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    at_least: int
    timeout_s: float
    def __init__(self, at_least: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("applied", "revision", "digest", "keys")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    applied: int
    revision: int
    digest: str
    keys: int
    def __init__(self, applied: _Optional[int] = ..., revision: _Optional[int] = ..., digest: _Optional[str] = ..., keys: _Optional[int] = ...) -> None: ...

class TakeSnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TakeSnapshotReply(_message.Message):
    __slots__ = ("frontier", "bytes", "log_first")
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_FIRST_FIELD_NUMBER: _ClassVar[int]
    frontier: int
    bytes: int
    log_first: int
    def __init__(self, frontier: _Optional[int] = ..., bytes: _Optional[int] = ..., log_first: _Optional[int] = ...) -> None: ...

class ReplaceMemberRequest(_message.Message):
    __slots__ = ("remove", "add", "peer_address", "client_address", "region", "zone", "catch_up_s")
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_S_FIELD_NUMBER: _ClassVar[int]
    remove: int
    add: int
    peer_address: str
    client_address: str
    region: str
    zone: str
    catch_up_s: float
    def __init__(self, remove: _Optional[int] = ..., add: _Optional[int] = ..., peer_address: _Optional[str] = ..., client_address: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., catch_up_s: _Optional[float] = ...) -> None: ...

class ReplaceMemberReply(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class YieldRequest(_message.Message):
    __slots__ = ("successor",)
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    successor: int
    def __init__(self, successor: _Optional[int] = ...) -> None: ...

class YieldReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LinkFault(_message.Message):
    __slots__ = ("peer", "delay_ms", "jitter_ms", "loss", "blocked", "rate_bytes_s", "jitter_shape")
    PEER_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    JITTER_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_S_FIELD_NUMBER: _ClassVar[int]
    JITTER_SHAPE_FIELD_NUMBER: _ClassVar[int]
    peer: int
    delay_ms: float
    jitter_ms: float
    loss: float
    blocked: bool
    rate_bytes_s: float
    jitter_shape: str
    def __init__(self, peer: _Optional[int] = ..., delay_ms: _Optional[float] = ..., jitter_ms: _Optional[float] = ..., loss: _Optional[float] = ..., blocked: bool = ..., rate_bytes_s: _Optional[float] = ..., jitter_shape: _Optional[str] = ...) -> None: ...

class InjectFaultsRequest(_message.Message):
    __slots__ = ("links", "heal", "sync_delay_ms", "disk_full", "shapes", "reshape")
    LINKS_FIELD_NUMBER: _ClassVar[int]
    HEAL_FIELD_NUMBER: _ClassVar[int]
    SYNC_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    DISK_FULL_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    RESHAPE_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[LinkFault]
    heal: bool
    sync_delay_ms: float
    disk_full: bool
    shapes: _containers.RepeatedCompositeFieldContainer[LinkFault]
    reshape: bool
    def __init__(self, links: _Optional[_Iterable[_Union[LinkFault, _Mapping]]] = ..., heal: bool = ..., sync_delay_ms: _Optional[float] = ..., disk_full: bool = ..., shapes: _Optional[_Iterable[_Union[LinkFault, _Mapping]]] = ..., reshape: bool = ...) -> None: ...

class InjectFaultsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MeasureLinksRequest(_message.Message):
    __slots__ = ("samples", "timeout_s")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    samples: int
    timeout_s: float
    def __init__(self, samples: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class LinkMeasurement(_message.Message):
    __slots__ = ("peer", "round_trip_ms")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
    peer: int
    round_trip_ms: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, peer: _Optional[int] = ..., round_trip_ms: _Optional[_Iterable[float]] = ...) -> None: ...

class MeasureLinksReply(_message.Message):
    __slots__ = ("links",)
    LINKS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[LinkMeasurement]
    def __init__(self, links: _Optional[_Iterable[_Union[LinkMeasurement, _Mapping]]] = ...) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsReply(_message.Message):
    __slots__ = ("exposition",)
    EXPOSITION_FIELD_NUMBER: _ClassVar[int]
    exposition: str
    def __init__(self, exposition: _Optional[str] = ...) -> None: ...
