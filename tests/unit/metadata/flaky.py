"""A store that fails at a chosen step."""

from collections.abc import Callable
from typing import Any

from replica.client import MaybeCommitted, Unavailable


class Flaky:
    """A store that fails at one chosen operation: before it is sent, or after it took effect."""

    def __init__(self, inner: Any, step: int, *, before: bool, once: bool = False) -> None:
        self._inner = inner
        self._step = step
        self._before = before
        self._once = once
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _run(self, send: Callable[[], Any], lost: Exception) -> Any:
        self.steps += 1
        if self.steps > self._step and not self._once:
            raise Unavailable("gone")
        if self.steps == self._step and self._before:
            raise Unavailable("not sent")
        result = await send()
        if self.steps == self._step:
            raise lost
        return result

    def execute(self, operation: Any, **options: Any) -> Any:
        return self._run(lambda: self._inner.execute(operation, **options), MaybeCommitted("the answer was lost"))

    def read(self, operation: Any, **options: Any) -> Any:
        return self._run(lambda: self._inner.read(operation, **options), Unavailable("the answer was lost"))

    def add(self, key: bytes, delta: int) -> Any:
        return self._run(lambda: self._inner.add(key, delta), MaybeCommitted("the answer was lost"))
