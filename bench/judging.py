"""The verdict on a run: its recorded sample against the checker, and its replicas against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import results
from bench.load.record import Recording, to_history
from bench.results import FaultEvent, RunVerdict
from bench.suite import HistoryOptions
from replica.verification.checker import check
from replica.verification.history import Fault, History, HistoryError, write_history
from replica.verification.verdict import Budget, Verdict


def judge(
    recordings: list[tuple[str, Recording]],
    *,
    loaded: Sequence[tuple[str, Recording]] = (),
    start: float,
    total: int,
    stale: bool,
    revisions: bool,
    options: HistoryOptions,
    faults: list[FaultEvent],
    folder: Path,
    run_id: str,
    attributes: dict[str, Any],
) -> RunVerdict:
    """Write the history and check it. ``loaded`` is what was written before the run, which is judged with it; ``total``
    how many operations the run itself completed in all. ``revisions`` says that those reported count in one order over
    all keys.

    A run whose reads were stale is not judged linearizable: the answer is "not applicable", or a violation if even its
    writes cannot be explained.
    """
    everything = [*recordings, *loaded]
    if not any(recording.operations for _, recording in everything):
        return RunVerdict(answer="unknown", reason="no operation was recorded")
    try:
        history = to_history(everything, start=start, stale=stale, revisions=revisions, attributes=attributes)
        history = _with_faults(history, faults)
    except HistoryError as error:
        return RunVerdict(answer="unknown", reason=f"the history makes no sense: {error}")
    path = results.history_path(folder, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_history(history, path)
    measured = sum(len(recording.operations) for _, recording in recordings)
    sampled = min(1.0, measured / total) if total else 0.0
    relative = str(path.relative_to(folder))
    try:
        report = check(history, budget=Budget(states=options.states_max, seconds=options.seconds_max))
    except HistoryError as error:
        return RunVerdict(answer="unknown", reason=f"the history makes no sense: {error}", history=relative)
    answer: results.Answer = "unknown"
    reason = report.explanation
    if report.verdict is Verdict.VIOLATION:
        answer = "violation"
    elif stale:
        answer, reason = "not applicable", "reads asked for what a replica has, not for what was acknowledged"
    elif report.verdict is Verdict.OK:
        answer = "ok"
    return RunVerdict(answer=answer, reason=reason, sampled=sampled, operations=report.operations, history=relative)


def _with_faults(history: History, faults: list[FaultEvent]) -> History:
    """The fault timeline stands in the history."""
    events = [
        Fault(
            time=fault.at_s,
            kind=fault.kind,
            until=fault.until_s,
            detail=fault.detail or (f"replica {fault.replica}" if fault.replica else ""),
        )
        for fault in faults
        if not fault.error
    ]
    return History.of_events(history.header, [*history.events(), *events])
