"""The judgement of a history: a model divides it, a witness or a search decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from .history import History
from .keyvalue import KeyValueModel
from .models import Case, Model, Part, RegisterModel, Step, SwapRegisterModel
from .search import Found, Search, Spent
from .verdict import Budget, Method, Report, Verdict, Violation

MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {model.name: model for model in (RegisterModel(), SwapRegisterModel(), KeyValueModel())}
)
"""The models that are known by name."""

FIRST_ALLOWANCE: Final = 64
"""In its first turn a part may explore so many states for each of its operations, so that one stubborn part does not
hide a violation in another."""


class UnknownModel(ValueError):
    """There is no model of that name. Nothing was judged."""

    def __init__(self, name: str) -> None:
        known = ", ".join(sorted(MODELS))
        super().__init__(
            f"there is no model {name!r}; there are: {known}"
            if name
            else f"the history names no model; there are: {known}"
        )


def find_model(name: str) -> Model:
    """The model of that name. Raises `UnknownModel`."""
    model = MODELS.get(name)
    if model is None:
        raise UnknownModel(name)
    return model


def check(
    history: History,
    model: Model | str | None = None,
    *,
    budget: Budget | None = None,
    clock: Callable[[], float] = time.monotonic,
    witness: bool = True,
) -> Report:
    """Is the history linearizable?

    Args:
        model: a model or the name of one; by default the one that the history's header names.
        budget: what the search may spend; beyond it the verdict is unknown.
        clock: seconds; read only if the budget limits time.
        witness: replay operations in the order of the revisions that they report, where the model can. Without, every
            part is searched; revisions must agree with real time either way.

    Raises:
        HistoryError: the history holds what the model does not know; the error names the line.
        UnknownModel: there is no such model.
    """
    chosen = model if isinstance(model, Model) else find_model(history.header.model if model is None else model)
    case = chosen.prepare(history)
    return _Judgement(chosen, case, Spent(budget or Budget(), clock), witness=witness).report()


class _Judgement:
    def __init__(self, model: Model, case: Case, spent: Spent, *, witness: bool) -> None:
        self._model = model
        self._case = case
        self._spent = spent
        self._witness = witness

    def report(self) -> Report:
        parts: Sequence[Part] = self._case.parts
        if self._case.examine is not None:
            examined = self._case.examine(self._witness)
            if examined.violation is not None:
                return self._say(Verdict.VIOLATION, Method.WITNESS, examined.violation.reason, examined.violation)
            parts = examined.parts
            if not parts:
                return self._say(
                    Verdict.OK, Method.WITNESS, "the order of revisions agrees with time and with all answers"
                )
        return self._search(parts)

    def _search(self, parts: Sequence[Part]) -> Report:
        """Small parts first; then once more, with all that is left, those that had too little."""
        budget = self._spent.budget
        waiting = sorted(parts, key=lambda part: len(part.entries))
        orders: list[Sequence[Step]] = []
        for turn in (FIRST_ALLOWANCE, None):
            stubborn: list[Part] = []
            for part in waiting:
                left = budget.states - self._spent.states
                found = Search(part).run(
                    left if turn is None else min(left, turn * (len(part.entries) + 1)), self._spent
                )
                if found.verdict is Verdict.VIOLATION:
                    violation = _violation(part, found)
                    return self._say(Verdict.VIOLATION, Method.SEARCH, violation.reason, violation)
                if found.verdict is Verdict.UNKNOWN:
                    stubborn.append(part)
                else:
                    orders.append(found.order)
            waiting = stubborn
        if waiting:
            names = ", ".join(part.label for part in waiting[:3]) + (", …" if len(waiting) > 3 else "")
            return self._say(
                Verdict.UNKNOWN,
                Method.SEARCH,
                f"the budget ran out after {self._spent.states} states, with {len(waiting)} of {len(parts)} parts "
                f"undecided: {names}",
            )
        if self._case.conflict is not None and (conflict := self._case.conflict(orders)) is not None:
            return self._say(Verdict.UNKNOWN, Method.SEARCH, conflict)
        return self._say(Verdict.OK, Method.SEARCH, "a linearization was found for every part")

    def _say(self, verdict: Verdict, method: Method, explanation: str, violation: Violation | None = None) -> Report:
        case = self._case
        return Report(
            verdict=verdict,
            model=self._model.name,
            method=method,
            operations=case.operations,
            uncertain=case.uncertain,
            parts=len(case.parts),
            states=self._spent.states,
            unchecked=dict(case.unchecked),
            explanation=explanation,
            violation=violation,
        )


def _violation(part: Part, found: Found) -> Violation:
    stuck = found.stuck
    assert stuck is not None
    return Violation(
        where=part.label,
        reason=f"{stuck.operation} cannot take effect: {part.explain(found.state, stuck)}",
        stuck=stuck.operation.id,
        prefix=tuple(entry.operation.id for entry, _ in found.order),
        concerned=tuple(entry.operation.id for entry in part.near(stuck)),
    )
