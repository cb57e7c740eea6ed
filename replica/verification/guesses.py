"""Guesses where operations of unknown outcome took effect, to be proved right by a replay.

Nothing in here decides anything: a guess that a replay bears out is a linearization, however it was come by, and one
that it does not bear out is none.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

import msgspec

from .facts import Facts, Jump, floor_of, keys_put
from .models import Entry, Part
from .replay import Gaps
from .verdict import Violation
from .vocabulary import Put, Transaction

GUESSES_MAX: Final = 16
"""So often all missing writes are tried to be explained together before keys are left to other means."""


class Job(msgspec.Struct, frozen=True):
    """An operation that must take effect at some gap between two revisions, both included."""

    release: int
    bound: int
    facts: Facts
    entry: Entry


class Guesses:
    """Gaps, and what is supposed to have taken effect there."""

    def __init__(self, parts: Sequence[Part], gaps: Gaps) -> None:
        self._parts = parts
        self._gaps = gaps
        self.supposed: dict[int, tuple[Part, Entry]] = {}
        self.forced: dict[int, Entry] = {}
        """Those among them that can have been written by nobody else."""
        self.facts: dict[int, Facts] = {}
        """By the identity of parts that have uncertain entries."""

    def suppose(self) -> Violation | None:
        """Give operations of unknown outcome the gaps at which they must have taken effect.

        Finds what no guess could explain on the way: an item that nobody can have written, or that was out of date.
        """
        open_parts = []
        for part in self._parts:
            facts = Facts(part, self._gaps)
            if (violation := facts.contradiction()) is not None:
                return violation
            if facts.uncertain:
                if (violation := self._pin(facts)) is not None:
                    return violation
                open_parts.append(facts)
                self.facts[id(part)] = facts
        draw = random.Random(0)
        best: list[tuple[int, Job]] = []
        fewest: int | None = None
        for attempt in range(GUESSES_MAX):
            eagerness = (0.0, 1.0)[attempt] if attempt < 2 else draw.random()
            jobs: list[Job] = []
            unmet = 0
            for facts in open_parts:
                unmet += self._jobs(facts, jobs, draw, eagerness)
            plan = self._schedule(jobs)
            unmet += len(jobs) - len(plan)
            if fewest is None or unmet < fewest:
                fewest, best = unmet, plan
            if not unmet:
                break
        for gap, job in best:
            self._settle(job.facts, gap, job.entry)
        return None

    def _pin(self, facts: Facts) -> Violation | None:
        """What somebody saw was written by somebody; those who are known by what they wrote come first."""
        loose: list[int] = []
        for gap, pin in sorted(facts.pins.items()):
            candidates = facts.candidates(pin)
            count = bisect_right(candidates, gap, key=floor_of)
            if not count:
                return facts.unwritten(gap, pin)
            if count == 1:
                self.forced[gap] = candidates[0]
                self._settle(facts, gap, candidates[0])
            elif all(item.value is not None for item in pin.items.values()):
                self._settle_latest(facts, gap, candidates[:count])
            else:
                loose.append(gap)
        for gap in loose:
            candidates = facts.candidates(facts.pins[gap])
            self._settle_latest(facts, gap, candidates[: bisect_right(candidates, gap, key=floor_of)])
        return None

    def _settle_latest(self, facts: Facts, gap: int, candidates: Sequence[Entry]) -> None:
        """The candidate that was invoked last: others may be needed at an earlier gap."""
        for entry in reversed(candidates):
            if id(entry) not in facts.settled:
                self._settle(facts, gap, entry)
                return

    def _settle(self, facts: Facts, gap: int, entry: Entry) -> None:
        if gap not in self.supposed:
            facts.settle(gap, entry)
            self.supposed[gap] = (facts.part, entry)

    def _jobs(self, facts: Facts, jobs: list[Job], draw: random.Random, eagerness: float) -> int:
        """Where versions jump by more than the known writes, unseen ones must have come in between.

        Puts serve in the order of their floors; where there are too few of them, or with the probability ``eagerness``,
        transactions without conditions whose keys all jump there. Adds to ``jobs``; returns how many writes are still
        missing.
        """
        jumps = facts.jumps()
        puts: dict[str, list[Entry]] = defaultdict(list)
        transactions: dict[str, list[Entry]] = defaultdict(list)
        for entry in facts.uncertain:
            if id(entry) in facts.settled:
                continue
            action = entry.action
            if isinstance(action, Put) and action.if_revision is None:
                puts[action.key].append(entry)
            elif isinstance(action, Transaction) and not action.conditions:
                keys = keys_put(action.then)
                if len(keys) == len(set(keys)):
                    for key in keys:
                        transactions[key].append(entry)
        used: set[int] = set()
        for key, key_jumps in jumps.items():
            served = 0
            for jump in key_jumps:
                free = bisect_left(puts[key], jump.last, key=floor_of) - served
                for entry in transactions[key]:
                    if jump.missing <= (0 if draw.random() < eagerness else free):
                        break
                    if id(entry) not in used:
                        others = [jumps.get(each, []) for each in keys_put(entry.action.then) if each != key]
                        chosen = _common_window([[jump], *others], entry.floor)
                        if chosen is not None:
                            used.add(id(entry))
                            jobs.append(Job(*_window(chosen, entry.floor), facts, entry))
                            for each in chosen:
                                each.missing -= 1
                served += min(free, jump.missing)
        unmet = 0
        for key, key_jumps in jumps.items():
            servants = deque(puts[key])
            for jump in key_jumps:
                for _ in range(jump.missing):
                    if not servants or servants[0].floor >= jump.last:
                        unmet += 1
                        continue
                    servant = servants.popleft()
                    jobs.append(Job(max(jump.first + 1, servant.floor), jump.last - 1, facts, servant))
        return unmet

    def _schedule(self, jobs: list[Job]) -> list[tuple[int, Job]]:
        """Each job takes one gap between its bounds; the one with the earliest bound goes first.

        For jobs of unit length that finds a schedule if there is one. What is too late for its bound is left out, and
        the replay will disagree.
        """
        jobs.sort(key=lambda job: job.release)
        plan: list[tuple[int, Job]] = []
        ready: list[tuple[int, int, Job]] = []
        gap = index = 0
        while index < len(jobs) or ready:
            if not ready:
                gap = max(gap, jobs[index].release)
            gap = self._gaps.after(gap)
            while gap in self.supposed:
                gap = self._gaps.after(gap + 1)
            while index < len(jobs) and jobs[index].release <= gap:
                heapq.heappush(ready, (jobs[index].bound, index, jobs[index]))
                index += 1
            while ready and ready[0][0] < gap:
                heapq.heappop(ready)
            if ready:
                _, _, job = heapq.heappop(ready)
                plan.append((gap, job))
                gap += 1
        return plan


def _common_window(jumps: Sequence[Sequence[Jump]], floor: int) -> list[Jump] | None:
    """The first jumps, one of each sequence, that have a revision in common that is not below ``floor``."""
    waiting = [[jump for jump in each if jump.missing > 0] for each in jumps]
    while all(waiting):
        chosen = [each[0] for each in waiting]
        first, last = _window(chosen, floor)
        if first <= last:
            return chosen
        min(waiting, key=lambda each: each[0].last).pop(0)
    return None


def _window(jumps: Sequence[Jump], floor: int) -> tuple[int, int]:
    return max(floor, *(jump.first + 1 for jump in jumps)), min(jump.last for jump in jumps) - 1
