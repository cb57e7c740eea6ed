"""Which index of a log is of which term: runs of equal terms, so that a long log costs as little as its elections.

Terms never decrease along a log. The first run begins at the floor: the last index that the log does not hold, whose
term is known all the same, from the log or from a snapshot.
"""

from __future__ import annotations

from bisect import bisect_right


class Terms:
    """The terms of the indexes from ``floor`` on."""

    def __init__(self, floor: int, term: int) -> None:
        self._firsts = [floor]
        self._terms = [term]

    @property
    def floor(self) -> int:
        """The first index whose term is known."""
        return self._firsts[0]

    @property
    def floor_term(self) -> int:
        """Its term."""
        return self._terms[0]

    @property
    def last_term(self) -> int:
        """The term of the last run."""
        return self._terms[-1]

    def at(self, index: int) -> int:
        """The term at ``index``, which must not lie before the floor. The caller knows where the log ends."""
        assert index >= self._firsts[0], f"the term at {index} is not known, only from {self._firsts[0]} on"
        return self._terms[bisect_right(self._firsts, index) - 1]

    def begin(self, index: int, term: int) -> None:
        """From ``index`` on, entries are of ``term``."""
        assert index > self._firsts[-1], f"a run at {index} behind one at {self._firsts[-1]}"
        assert term > self._terms[-1], f"term {term} follows term {self._terms[-1]}"
        self._firsts.append(index)
        self._terms.append(term)

    def first_of(self, index: int) -> int:
        """The first index, of those known, that is of the same term as ``index``."""
        return self._firsts[bisect_right(self._firsts, index) - 1]

    def last_at_most(self, term: int, last: int) -> int:
        """The last index at or before ``last`` whose term is at most ``term``; the floor if there is none behind it."""
        run = bisect_right(self._terms, term)
        if run == 0:
            return self._firsts[0]
        end = self._firsts[run] - 1 if run < len(self._firsts) else last
        return min(end, last)

    def cut(self, index: int) -> None:
        """Forget the indexes from ``index`` on."""
        assert index > self._firsts[0], f"the terms from {index} on include the floor {self._firsts[0]}"
        while self._firsts[-1] >= index:
            self._firsts.pop()
            self._terms.pop()

    def raise_floor(self, floor: int) -> None:
        """Forget what lies before ``floor``."""
        run = bisect_right(self._firsts, floor) - 1
        assert run >= 0, f"the floor cannot go back from {self._firsts[0]} to {floor}"
        term = self._terms[run]
        del self._firsts[: run + 1], self._terms[: run + 1]
        self._firsts.insert(0, floor)
        self._terms.insert(0, term)
