"""The order of revisions as a witness: a whole history judged without a search.

Theory of operation
-------------------
Under a total order every answer carries the revision at which its operation took effect: the order is known and only
has to be held against what was seen, in O(n log n).

1. *Real time.* An operation that began after another had ended must stand behind it. One sweep over all invocations and
   outcomes compares each with the furthest place that had been reached before.
2. *Replay.* All operations are carried out in the order of their places on one table, and what they answered is
   compared with what the table answers.

Operations of unknown outcome are in the way. Where somebody saw what one wrote, with the revision, that settles where
it took effect; where versions jump, somebody unseen must have written in between. `Witness` settles what it can in
these two ways (`replica.verification.guesses`) and supposes that the others never took effect. If the replay agrees, a
linearization has been *found*, however it was guessed, and the verdict is ok. Where it does not agree, other guesses
are tried (`replica.verification.repair`), and in the end the keys concerned are left to the search; if no operation of
unknown outcome could have touched them, that is a violation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from .facts import place_of
from .guesses import Guesses
from .models import NEVER, Entry, Examined, Part, Place, Step
from .repair import Repair
from .replay import Gaps, Table, bases
from .verdict import Violation
from .vocabulary import Answer, Compact, Get, Range


class Witness:
    """One history under examination."""

    def __init__(
        self,
        *,
        parts: Sequence[Part],
        timed: Sequence[Entry],
        compactions: Sequence[Entry],
        gaps: Gaps,
        explain: Callable[[Any, Entry, int, int], str],
    ) -> None:
        """``timed`` are the entries whose places must agree with real time."""
        self._parts = parts
        self._timed = timed
        self._compactions = compactions
        self._gaps = gaps
        self._explain = explain
        self._guesses = Guesses(parts, gaps)

    def examine(self, replay: bool) -> Examined:
        """Judge everything that can be judged without a search; without ``replay``, real time only."""
        violation = self._real_time() or self._compaction()
        if violation is not None or not replay:
            return Examined(violation=violation, parts=self._parts)
        violation = self._guesses.suppose()
        if violation is not None:
            return Examined(violation=violation)
        return self._replay()

    def conflict(self, orders: Sequence[Sequence[Step]]) -> str | None:
        """Parts were searched one by one: do two of them claim the same revision? Then nothing has been shown."""
        searched = {id(entry) for order in orders for entry, _ in order}
        claims = {
            gap
            for gap, (part, _) in self._guesses.supposed.items()
            if not any(id(entry) in searched for entry in part.entries)
        }
        for order in orders:
            for entry, state in order:
                if entry.certain:
                    continue
                gap: int = getattr(state, "revision")  # noqa: B009 - states of these parts have one
                if gap in claims:
                    return f"every part has a linearization, but two of them need revision {gap} for themselves"
                claims.add(gap)
        return None

    # ---------------------------------------------------------------------------------------------------- real time

    def _real_time(self) -> Violation | None:
        claimed: dict[int, Entry] = {}
        moments: list[tuple[int, bool, int]] = []
        for index, entry in enumerate(self._timed):
            assert entry.place is not None
            if entry.place[1] == 0:
                first = claimed.setdefault(entry.place[0], entry)
                if first is not entry:
                    return self._pair(
                        entry, first, f"both made revision {entry.place[0]}, and a revision has one operation only"
                    )
            moments.append((entry.begin, True, index))
            if entry.end != NEVER:
                moments.append((entry.end, False, index))
        moments.sort()
        furthest: Place = (0, 0)
        reached: Entry | None = None
        for _, begins, index in moments:
            entry = self._timed[index]
            place = entry.place
            assert place is not None
            if not begins:
                if place > furthest:
                    furthest, reached = place, entry
            elif reached is not None and place < furthest:
                return self._pair(
                    entry,
                    reached,
                    f"it was invoked after {reached.operation} (operation {reached.operation.id}) had ended, but "
                    f"stands at revision {place[0]} and that one at {furthest[0]}",
                )
        return None

    def _compaction(self) -> Violation | None:
        """What was compacted before a read began cannot be read; what nobody has compacted must not be refused."""
        ended = sorted((entry.end, _line(entry), entry) for entry in self._compactions if entry.answer is not None)
        lines: list[tuple[int, Entry]] = []  # the line after each compaction that ended, and who drew it
        for _, line, entry in ended:
            lines.append(max(lines[-1], (line, entry), key=_first) if lines else (line, entry))
        asked = sorted((entry.begin, _line(entry)) for entry in self._compactions)
        highest: list[int] = []
        for _, line in asked:
            highest.append(max(highest[-1], line) if highest else line)
        for entry in self._timed:
            answer: Answer | None = entry.answer
            action = entry.action
            if not isinstance(action, Get | Range) or not action.revision or answer is None:
                continue
            if answer.failed == "compacted":
                before = bisect_left(asked, (entry.end, 0))
                if not before or highest[before - 1] <= action.revision:
                    return _alone(entry, "it was refused as compacted, but nobody had compacted so far")
            elif answer.failed is None:
                before = bisect_left(ended, entry.begin, key=_first)
                if before and lines[before - 1][0] > action.revision:
                    line, by = lines[before - 1]
                    return self._pair(
                        entry, by, f"it reads at revision {action.revision}, which was compacted before ({line})"
                    )
        return None

    def _pair(self, entry: Entry, other: Entry, reason: str) -> Violation:
        """Two operations disagree; concerned is whatever was under way meanwhile."""
        first, last = min(entry.begin, other.begin), max(entry.end, other.end)
        concerned = [each for each in self._timed if each.begin <= last and each.end >= first]
        # What had begun before agrees with time, as far as it stands before the other one.
        before = sorted(
            (each for each in self._timed if each.begin < entry.begin and place_of(each) <= place_of(other)),
            key=place_of,
        )
        return Violation(
            where="the order of revisions",
            reason=f"{entry.operation} is out of order: {reason}",
            stuck=entry.operation.id,
            prefix=tuple(each.operation.id for each in before),
            related=(other.operation.id,),
            concerned=tuple(each.operation.id for each in concerned),
        )

    # ------------------------------------------------------------------------------------------------------ replaying

    def _replay(self) -> Examined:
        """Carry everything out in order; what does not agree is repaired where that is possible."""
        table = Table()
        wrong: dict[int, tuple[Part, Violation]] = {}
        done: dict[int, list[int]] = defaultdict(list)
        for revision, seen, _, _, entry, part in self._order():
            if id(part) in wrong:
                continue
            if table.carry_out(entry, revision, seen):
                done[id(part)].append(entry.operation.id)
                continue
            wrong[id(part)] = (
                part,
                Violation(
                    where=part.label,
                    reason=f"{entry.operation} cannot have taken effect at revision {revision}: "
                    + self._explain(table, entry, *bases(revision, seen)),
                    stuck=entry.operation.id,
                    prefix=tuple(done[id(part)]),
                    concerned=tuple(each.operation.id for each in part.near(entry)),
                ),
            )
        for part, violation in wrong.values():
            if all(entry.certain for entry in part.entries):
                return Examined(violation=violation)
        return Examined(parts=[self._narrowed(part) for part, _ in wrong.values() if not self._repair(part)])

    def _order(self) -> list[tuple[int, int, int, int, Entry, Part]]:
        """Everything in the order of places, and of invocation where places are the same."""
        order: list[tuple[int, int, int, int, Entry, Part]] = []
        for part in self._parts:
            for entry in part.entries:
                if entry.certain:
                    order.append((*place_of(entry), entry.begin, len(order), entry, part))
        for gap, (part, entry) in self._guesses.supposed.items():
            order.append((gap, 0, entry.begin, len(order), entry, part))
        order.sort()
        return order

    def _repair(self, part: Part) -> bool:
        """Look for guesses that the replay of the part does agree with."""
        supposed = self._guesses.supposed
        start = {gap: entry for gap, (owner, entry) in supposed.items() if owner is part}
        found = Repair(
            self._guesses.facts[id(part)],
            self._gaps,
            taken=frozenset(supposed) - frozenset(start),
            fixed=frozenset(self._guesses.forced),
        ).find(start)
        if found is None:
            return False
        for gap in start:
            del supposed[gap]
        supposed.update({gap: (part, entry) for gap, entry in found.items()})
        return True

    def _narrowed(self, part: Part) -> Part:
        """The part with what is forced made certain, so that the search need not find it out again."""
        forced = {id(entry): gap for gap, entry in self._guesses.forced.items()}
        entries = []
        for entry in part.entries:
            if id(entry) in forced:
                entries.append(
                    Entry(
                        entry.operation,
                        entry.action,
                        None,
                        begin=entry.begin,
                        end=NEVER,
                        certain=True,
                        place=(forced[id(entry)], 0),
                    )
                )
            else:
                entries.append(entry)
        return part.narrowed(entries)


def _first(pair: tuple[Any, ...]) -> Any:
    return pair[0]


def _line(entry: Entry) -> int:
    """The revision below which a compaction lets nothing be read."""
    assert isinstance(entry.action, Compact)
    answer: Answer | None = entry.answer
    return entry.action.revision if answer is None or answer.compacted is None else answer.compacted


def _alone(entry: Entry, reason: str) -> Violation:
    return Violation(
        where=f"key {entry.operation.key!r}" if entry.operation.key is not None else "an interval",
        reason=f"{entry.operation} cannot have answered so: {reason}",
        stuck=entry.operation.id,
        prefix=(),
        concerned=(entry.operation.id,),
    )
