"""What the store keeps: types, artifacts, executions, contexts, the edges between them, assets and their versions.

The vocabulary is that of ML Metadata (artifact, execution, context, event, attribution, association) and of the data
platform for machine learning (dataset, annotation, split, package, versions ``schema.revision.patch``). Objects are
frozen: what one holds is how the object was at ``revision``; to change it is to ask the store, which answers a new one.

Times are informative: the clock of whoever wrote, in milliseconds since 1970. Order comes from revisions alone.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["artifact", "execution", "context"]
KINDS: Final[tuple[Kind, ...]] = ("artifact", "execution", "context")

Scalar: TypeAlias = bool | int | float | str
ValueType: TypeAlias = Literal["int", "float", "str", "bool", "json"]

AssetKind: TypeAlias = Literal["dataset", "annotation", "split", "package"]
ASSET_KINDS: Final[tuple[AssetKind, ...]] = ("dataset", "annotation", "split", "package")

Bump: TypeAlias = Literal["schema", "revision", "patch"]

LIVE: Final = "LIVE"
DRAFT: Final = "DRAFT"
PUBLISHED: Final = "PUBLISHED"
ARCHIVED: Final = "ARCHIVED"
PURGED: Final = "PURGED"
"""States of an artifact. ``LIVE`` is one that is no version of anything."""

RUNNING: Final = "RUNNING"
COMPLETE: Final = "COMPLETE"
FAILED: Final = "FAILED"
CANCELED: Final = "CANCELED"
"""States of an execution."""

NAME_BYTES_MAX: Final = 1024
"""A name, an external id or an alias, in bytes of UTF-8; those beyond `keys.PLAIN_BYTES_MAX` are hashed in keys."""

OBJECT_BYTES_MAX: Final = 256 << 10
"""An object with its properties, encoded, in bytes."""

TYPES_MAX: Final = (1 << 13) - 1
"""Types of one store: ids stay below 2**53, which JSON carries exactly."""

SERIAL_BITS: Final = 40
"""An id is ``type number << SERIAL_BITS | serial number``, so objects of a type are one interval of keys."""


class TypeDef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A type of objects: ``properties`` maps names to value types, ``index`` names those that find can look up."""

    name: str
    kind: Kind
    number: int
    properties: dict[str, ValueType] = {}
    index: tuple[str, ...] = ()
    building: tuple[str, ...] = ()
    """Indexes that are being filled: those who write keep them, those who read do not trust them yet."""
    description: str = ""
    revision: int = 0
    """Where it was last changed; not stored."""


class Object(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what has an id, a type, perhaps a name, and properties."""

    id: int
    type: str
    name: str | None = None
    external_id: str | None = None
    properties: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    """Free properties: any JSON value, undeclared and not indexed."""
    create_time_ms: int = 0
    update_time_ms: int = 0
    created: int = 0
    """The revision that created it; not stored in the object."""
    revision: int = 0
    """The revision that last changed it; not stored in the object."""

    @property
    def label(self) -> str:
        """For people: ``Type:name`` or ``Type:id``."""
        return f"{self.type}:{self.name if self.name is not None else self.id}"


class Artifact(Object, frozen=True, kw_only=True, omit_defaults=True, tag_field="k", tag="a"):
    """Something that is made and used: a data set, a model, a report. Its bytes are at ``uri``, elsewhere."""

    uri: str = ""
    digest: str = ""
    state: str = LIVE
    asset: int = 0
    """The asset that this is a version of; 0: of none."""
    version: str = ""
    """``schema.revision.patch``, once published."""

    @property
    def kind(self) -> Kind:
        """Which of the three kinds."""
        return "artifact"


class Execution(Object, frozen=True, kw_only=True, omit_defaults=True, tag_field="k", tag="e"):
    """Something that ran: it takes artifacts and makes artifacts."""

    state: str = COMPLETE
    error: str = ""
    """Why it failed."""

    @property
    def kind(self) -> Kind:
        """Which of the three kinds."""
        return "execution"


class Context(Object, frozen=True, kw_only=True, omit_defaults=True, tag_field="k", tag="c"):
    """What groups artifacts and executions: an experiment, a project. Contexts may have parents."""

    @property
    def kind(self) -> Kind:
        """Which of the three kinds."""
        return "context"


AnyObject: TypeAlias = Artifact | Execution | Context


class Asset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named thing that has versions; ``last`` is its newest published version (empty: none yet)."""

    id: int
    name: str
    kind: AssetKind
    last: str = ""
    last_id: int = 0
    count: int = 0
    """Versions published so far."""
    revision: int = 0


EdgeKind: TypeAlias = Literal["input", "output", "dependency", "member", "parent"]


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """A directed edge.

    ``input``: artifact to execution; ``output``: execution to artifact; ``dependency``: a version to what was made of
    it. These three run downstream and are the lineage. ``member``: an artifact (attribution) or an execution
    (association) to its context; ``parent``: a context to its parent.
    """

    source: int
    target: int
    kind: EdgeKind
    role: str = ""
    """What the artifact was to the execution: ``train``, ``weights``."""


class Version(msgspec.Struct, frozen=True, order=True, array_like=True):
    """``schema.revision.patch``."""

    schema: int
    revision: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """The version that ``text`` stands for; None when it stands for none."""
        parts = text.split(".")
        if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in parts):
            return None
        return cls(*map(int, parts))

    def next(self, bump: Bump) -> Version:
        """The version that follows, when that part changes."""
        match bump:
            case "schema":
                return Version(self.schema + 1, 0, 0)
            case "revision":
                return Version(self.schema, self.revision + 1, 0)
            case "patch":
                return Version(self.schema, self.revision, self.patch + 1)

    def __str__(self) -> str:
        return f"{self.schema}.{self.revision}.{self.patch}"


FIRST_VERSION: Final = Version(1, 0, 0)


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One value of a metric."""

    step: int
    value: float
    time_ms: int = 0


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did what: one record for each transaction, written in it."""

    action: str
    actor: str
    objects: tuple[int, ...] = ()
    time_ms: int = 0
    attempt: int = 0
    revision: int = 0
    """Where it took effect: the order of the trail. Not stored in the record."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An object was created (``before`` is None) or changed, at ``revision``."""

    revision: int
    before: AnyObject | None
    after: AnyObject

    @property
    def created(self) -> bool:
        """It is new."""
        return self.before is None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a find answers: objects in order, all as of ``revision``; ``next`` asks for the page behind them."""

    items: tuple[AnyObject, ...]
    revision: int
    next: str | None = None

    def __iter__(self) -> Any:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> AnyObject:
        return self.items[index]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the lineage graph, as of ``revision``. ``cut`` holds the nodes beyond which there is more."""

    root: int
    direction: str
    nodes: dict[int, AnyObject]
    edges: tuple[Edge, ...]
    depth: dict[int, int]
    cut: frozenset[int]
    revision: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """States of one object, the newest first; ``complete`` is false when older ones have been compacted."""

    states: tuple[AnyObject, ...]
    complete: bool
