"""What the model answers instead of a number that would mean nothing."""

from __future__ import annotations


class ModelError(ValueError):
    """A question that cannot be asked; the text begins with the field at fault and says what would be accepted."""


class Saturated(ModelError):
    """The load lies at or beyond what the system can carry: there is no finite waiting time.

    ``capacity`` is that limit, in operations a second.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        super().__init__(f"rate: {rate:,.0f} operations/s cannot be carried: saturated at {capacity:,.0f}/s")
        self.rate = rate
        self.capacity = capacity


def share(name: str, value: float) -> float:
    """``value``, which must lie in [0, 1]. Raises `ModelError` naming the field."""
    if not 0.0 <= value <= 1.0:
        raise ModelError(f"{name}: {value:g} is not within [0, 1]")
    return value


def positive(name: str, value: float) -> float:
    """``value``, which must be above 0. Raises `ModelError` naming the field."""
    if not value > 0:
        raise ModelError(f"{name}: {value:g} is not above 0")
    return value


def not_negative(name: str, value: float) -> float:
    """``value``, which must not be below 0. Raises `ModelError` naming the field."""
    if not value >= 0:
        raise ModelError(f"{name}: {value:g} is below 0")
    return value
