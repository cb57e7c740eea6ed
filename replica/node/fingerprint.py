"""The digest of a state, worked out beside the loop: a scan of all keys takes longer than a heartbeat may be late."""

from __future__ import annotations

import time
from typing import Final, TypeAlias

from replica.kv.machine import Digest, digest_of
from replica.kv.objects import ObjectDigest, object_digest_of
from replica.storage.state import StoreView

__all__ = ["DigestCancelled", "DigestTask"]

AnyDigest: TypeAlias = Digest | ObjectDigest

PAUSE_S: Final = 0.0001
"""After each stretch of keys the thread sleeps, however briefly, so that the loop's thread gets the interpreter."""


class DigestCancelled(Exception):
    """The digest was given up before it was complete."""


class DigestTask:
    """A digest about to be worked out. `run` takes long and may run on any thread, while the replica goes on."""

    def __init__(self, view: StoreView, *, by_object: bool = False) -> None:
        self._view = view
        self._by_object = by_object
        self._cancelled = False

    def cancel(self) -> None:
        """Have `run` give up soon. From any thread."""
        self._cancelled = True

    def run(self) -> AnyDigest:
        """The digest of the view, which is closed then; to be called once. Raises `CorruptState`, `DigestCancelled`."""
        try:
            if self._by_object:
                return object_digest_of(self._view, between=self._between)
            return digest_of(self._view, between=self._between)
        finally:
            self._view.close()

    def _between(self) -> None:
        if self._cancelled:
            raise DigestCancelled
        time.sleep(PAUSE_S)
