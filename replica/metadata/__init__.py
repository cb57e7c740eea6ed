"""A store of machine-learning metadata: what was made from what, by whom, in which version, on `replica.client`.

    from replica.client import connect
    from replica.metadata import Metadata

    md = Metadata(connect("127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"))
    md.define_type("Model", properties={"acc": float}, index=["acc"])
    with md.execution("Train", inputs=[data], context="exp7") as run:
        run.output("Model", uri="s3://…", properties={"acc": 0.93})
    md.find("Model", "properties.acc > 0.9 AND context = 'exp7'", order_by="-properties.acc")

`AsyncMetadata` is the same for asyncio. The README beside this file is a tutorial. Only metadata is kept here; bytes
are elsewhere, at a URI, with a digest.

What is promised, and how
-------------------------
- *All or nothing.* Every call that changes something is one transaction of the store (`unit`): the object, its names,
  its index entries, both ends of its edges and its audit record.
- *Integrity.* Uniqueness and references are conditions of that transaction, so they hold whoever writes meanwhile.
- *Exactly once.* A call chooses ids and its audit record's key before its first attempt, and each attempt is void if
  that record exists; however often one is retried, at most one takes effect.
- *No lost updates.* What a change is based on must be unchanged when it takes effect; it is tried again otherwise.
- *One revision.* Find, lineage, differences and pages that follow each other show the store at one revision.
- *No clock decides.* Order is that of revisions. Times are the writers' and are for people.
- *No bottleneck.* Ids come in blocks from a counter that the store itself adds to; creates of different names touch no
  common key that they compare, except their type's definition, which rarely changes.

This needs one order over all keys: on protocols that order keys one by one `NeedsTotalOrder` is raised.

The layout
----------
All keys begin with a prefix (``md/``). ``ID`` is sixteen hexadecimal digits, whose upper part is the number of the
object's type: ``number << 40 | serial``. ``TEXT`` is ``=`` and the text, or where it is long ``#`` and its SHA-256.

==================================  =================================================================================
``layout``                          the version of this layout; every transaction compares it
``ids``, ``types``                  counters of serial and type numbers
``t/KIND TEXT``                     a type: properties, indexes (KIND: ``a``, ``e``, ``c``)
``o/ID``                            an object; those of a type are one interval
``n/TYPE/TEXT``                     whose name it is among those of a type
``x/TEXT``                          whose external id it is
``i/TYPE/FIELD/VALUE ID``           an index entry; VALUE sorts as values do
``e/ID/LETTERS ID``                 an edge, once at each end: ``di``/``ui`` input, ``do``/``uo`` output, ``dd``/``ud``
                                    dependency, ``mc``/``mm`` member, ``pp``/``pc`` parent; the value is its role
``e/ID/xa TEXT``                    an alias, at what it points at
``v/ID``, ``w/TEXT``                an asset; which asset has a name
``p/ID/S.R.P``, ``d/ID/ID``         a published version of an asset; a draft
``s/TEXT``                          where an alias points
``z/ID``                            that an object was purged
``q/ID``, ``r/ID``                  that an execution runs; that it lives (with a lease)
``m/ID/TEXT 00 WINDOW/SERIAL``      a chunk of points of a metric
``a/REVISION SERIAL``               an audit record, by a revision before its own
==================================  =================================================================================

Values are MessagePack of the structs in `model`, which grow by fields with defaults alone. ``layout`` changes when that
is not enough; then older clients are refused, and their writes are void.
"""

from replica.metadata.errors import (
    AliasMoved,
    AlreadyExists,
    CyclicParent,
    FilterError,
    InvalidValue,
    MetadataError,
    NeedsTotalOrder,
    NotFound,
    Referenced,
    RunLost,
    StaleRevision,
    TypeConflict,
    UnitTooLarge,
    UnknownProperty,
    UnknownType,
    WrongLayout,
    WrongState,
    WrongValue,
)
from replica.metadata.loading import Load
from replica.metadata.model import (
    Artifact,
    Asset,
    AuditRecord,
    Change,
    Context,
    Edge,
    Execution,
    History,
    Lineage,
    Page,
    Point,
    TypeDef,
    Version,
)
from replica.metadata.queries import Changes
from replica.metadata.runs import Output, Run
from replica.metadata.store import AsyncMetadata
from replica.metadata.sync import Metadata, SyncChanges, SyncLoad, SyncRun

__all__ = [
    # the store
    "Metadata",
    "AsyncMetadata",
    # what it keeps
    "TypeDef",
    "Artifact",
    "Execution",
    "Context",
    "Edge",
    "Asset",
    "Version",
    "Point",
    "AuditRecord",
    # what it answers
    "Page",
    "Lineage",
    "History",
    "Change",
    "Changes",
    "SyncChanges",
    "Run",
    "SyncRun",
    "Output",
    "Load",
    "SyncLoad",
    # errors
    "MetadataError",
    "InvalidValue",
    "UnknownType",
    "UnknownProperty",
    "WrongValue",
    "TypeConflict",
    "FilterError",
    "NotFound",
    "AlreadyExists",
    "WrongState",
    "Referenced",
    "CyclicParent",
    "AliasMoved",
    "StaleRevision",
    "RunLost",
    "UnitTooLarge",
    "NeedsTotalOrder",
    "WrongLayout",
]
