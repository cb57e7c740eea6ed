"""Who is attached: clients told apart, with what each may do and how much.

A client is known by its token, else by its certificate, else by the host that it calls from. All streams of one client
share its limits: how many there are, and how many operations they write a second. The second is a bucket that holds one
second's worth and fills evenly; a run that finds too little in it is refused before it is proposed, and a run larger
than the bucket passes when the bucket is full, and leaves it in debt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from replica.kv import operations as kv
from replica.transport.security import common_name

from .access import Grant, Role, Tokens

__all__ = ["Caller", "Callers", "check_operations", "check_watch"]


class Caller:
    """One client, over all of its streams."""

    __slots__ = ("_filled_at", "_left", "grant", "name", "streams")

    def __init__(self, name: str, grant: Grant | None, now: float, rate: float) -> None:
        self.name = name
        self.grant = grant
        self.streams = 0
        self._left = rate
        self._filled_at = now

    def take(self, operations: int, now: float, rate: float) -> bool:
        """May so many operations be written now?"""
        self._left = min(rate, self._left + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._left < min(operations, rate):
            return False
        self._left -= operations
        return True


class Callers:
    """The clients of one replica. With ``tokens``, nobody comes in without one."""

    def __init__(
        self, tokens: Tokens | None, *, operations_per_s_max: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokens = tokens
        self._rate = float(operations_per_s_max)
        self._clock = clock
        self._callers: dict[str, Caller] = {}

    def arrive(self, context: Any) -> Caller:
        """Whose stream this is. Raises `Denied`. To be given back with `leave`."""
        grant = None if self._tokens is None else self._tokens.grant_of(context.invocation_metadata())
        name = _name(context, grant)
        caller = self._callers.get(name)
        if caller is None or caller.grant != grant:
            caller = self._callers[name] = Caller(name, grant, self._clock(), self._rate)
        caller.streams += 1
        return caller

    def leave(self, caller: Caller) -> None:
        """One of its streams has ended."""
        caller.streams -= 1
        if not caller.streams and self._callers.get(caller.name) is caller:
            del self._callers[caller.name]

    def check(self, caller: Caller) -> None:
        """Does the client's token hold still? Raises `Denied`."""
        if self._tokens is not None and caller.grant is not None:
            self._tokens.check(caller.grant)

    def room(self, caller: Caller, operations: int) -> bool:
        """May the client write so many operations now?"""
        return not self._rate or caller.take(operations, self._clock(), self._rate)

    @property
    def rate(self) -> float:
        """Operations a second that one client may write; 0: as many as it likes."""
        return self._rate


def check_operations(caller: Caller, operations: Iterable[kv.ClientOperation]) -> None:
    """May the client do all of these? Raises `Denied`."""
    if caller.grant is not None:
        caller.grant.check(operations)


def check_watch(caller: Caller, first: bytes, last: bytes) -> None:
    """May the client watch that interval? Raises `Denied`."""
    if caller.grant is not None:
        caller.grant.allow(Role.READ, "watching")
        caller.grant.check_interval(first, last)


def _name(context: Any, grant: Grant | None) -> str:
    if grant is not None:
        return f"token {grant.name}"
    certificate = common_name(context)
    if certificate:
        return f"certificate {certificate}"
    return f"host {context.peer().rpartition(':')[0]}"
