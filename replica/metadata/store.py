"""The asynchronous face: everything together."""

from __future__ import annotations

from replica.metadata.assets import Assets
from replica.metadata.loading import Loads
from replica.metadata.queries import Queries
from replica.metadata.runs import Runs


class AsyncMetadata(Assets, Runs, Loads, Queries):
    """A metadata store on a cluster: ``AsyncMetadata(connect_async(url))``. The store object remains the caller's.

    Nothing is contacted before the first call, which lays the store out if there is none under ``prefix``. May be used
    by many tasks of one event loop; every call that changes something is one transaction, and either takes effect or
    raises. ``actor`` is who the audit trail says it was.

    Every method may raise the client's errors beside its own; see `replica.metadata.errors`.
    """
