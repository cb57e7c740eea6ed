"""One sentence over all runs of a folder, for the last line of a terminal."""

from __future__ import annotations

from typing import Final

from bench.results import Folder

_ANSWERS: Final = {
    "ok": "linearizable",
    "violation": "not linearizable",
    "unknown": "undecided",
    "not applicable": "not applicable",
}


def conclusion(folder: Folder) -> tuple[str, bool]:
    """One sentence over all runs, and whether nothing was found wrong."""
    wrong = [run for run in folder.runs if run.verdict.bad]
    failed = [run for run in folder.runs if run.failure is not None]
    if wrong:
        first = wrong[0]
        why = first.verdict.reason if first.verdict.answer == "violation" else first.verdict.digest_detail
        return f"VERDICT: WRONG in {len(wrong)} of {len(folder.runs)} runs: {first.id}: {why}", False
    if failed:
        reason = failed[0].failure.reason if failed[0].failure is not None else ""
        return f"VERDICT: {len(failed)} of {len(folder.runs)} runs failed: {failed[0].id}: {reason}", False
    counts = {answer: sum(run.verdict.answer == answer for run in folder.runs) for answer in _ANSWERS}
    said = ", ".join(f"{count} {_ANSWERS[answer]}" for answer, count in counts.items() if count)
    compared = sum(run.verdict.digests != "not compared" for run in folder.runs)
    agreed = f"; at the end the replicas agreed in all {compared} that could be compared" if compared else ""
    return f"VERDICT: of {len(folder.runs)} runs {said or 'none was judged'}{agreed}", True
