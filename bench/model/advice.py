"""Which protocol? The study's flowchart (SIGMOD 2019, figure 14), with the numbers behind each answer.

The chart is a tree of yes-and-no questions, data in here (`QUESTIONS`, `LEAVES`), so that the command line can ask what
was not said and print the way that was taken. A leaf names kinds of protocols; `built` tells which of them Synod has.
What the chart recommends and Synod does not have is said, never replaced in silence.

The chart is qualitative. The numbers that go with an answer are this package's predictions for the user's own network
and conflict or locality, and they are *extrapolated* wherever the question lies outside what the study measured
(`extrapolations`): then the answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from .errors import ModelError

__all__ = ["LEAVES", "QUESTIONS", "Advice", "Leaf", "Question", "advise", "extrapolations"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A fork: the answer leads to another question or to a leaf, by name."""

    name: str
    text: str
    yes: str
    no: str


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """A recommendation: kinds of protocols as the study names them, and what Synod offers of them."""

    name: str
    kinds: tuple[str, ...]
    built: tuple[str, ...]
    missing: tuple[str, ...]
    because: str


QUESTIONS: Final[Mapping[str, Question]] = MappingProxyType(
    {
        question.name: question
        for question in (
            Question(
                name="consensus",
                text="Do you need consensus (compare-and-set, transactions, one order of commands)?",
                yes="wan",
                no="atomic-storage",
            ),
            Question(
                name="wan", text="Do the replicas stand in several regions (a WAN)?", yes="locality", no="read-heavy"
            ),
            Question(
                name="read-heavy",
                text="Are there more reads than writes, with few conflicts?",
                yes="lan-leaderless",
                no="lan-leader",
            ),
            Question(
                name="locality",
                text="Is there locality: is an object mostly used from one region at a time?",
                yes="dynamic",
                no="wan-leaderless",
            ),
            Question(
                name="dynamic",
                text="Does the locality move: do objects change the region that uses them?",
                yes="region-failure",
                no="paxos-groups",
            ),
            Question(
                name="region-failure",
                text="Must the data stay available when a whole region fails?",
                yes="wpaxos",
                no="hierarchical",
            ),
        )
    }
)

LEAVES: Final[Mapping[str, Leaf]] = MappingProxyType(
    {
        leaf.name: leaf
        for leaf in (
            Leaf(
                name="atomic-storage",
                kinds=("atomic storage", "chain replication", "eventual consistency"),
                built=("abd",),
                missing=("chain", "craq", "dynamo"),
                because="registers need no agreement: any majority serves, no leader, no pause when one is lost",
            ),
            Leaf(
                name="lan-leaderless",
                kinds=("generalised Paxos", "EPaxos"),
                built=("epaxos",),
                missing=(),
                because="reads do not conflict with each other, and every replica takes its share of the load",
            ),
            Leaf(
                name="lan-leader",
                kinds=("Multi-Paxos", "Raft", "Zab"),
                built=("multipaxos", "fpaxos", "raft"),
                missing=(),
                because="a round trip in a LAN is cheap, and one leader orders writes without paying for conflicts",
            ),
            Leaf(
                name="wan-leaderless",
                kinds=("generalised Paxos", "EPaxos"),
                built=("epaxos",),
                missing=(),
                because="without locality every region is as good a place to begin as any other",
            ),
            Leaf(
                name="paxos-groups",
                kinds=("Paxos groups",),
                built=(),
                missing=("kpaxos",),
                because="where locality never moves, a group of replicas for each part of the data needs no stealing "
                "(clusters of multipaxos, one for each part, serve as groups)",
            ),
            Leaf(
                name="hierarchical",
                kinds=("VPaxos", "WanKeeper"),
                built=(),
                missing=("vpaxos", "wankeeper"),
                because="a master moves objects to their users, and commands stay within a region "
                "(wpaxos with f_z = 0 offers the same latency)",
            ),
            Leaf(
                name="wpaxos",
                kinds=("WPaxos", "VPaxos with groups across regions"),
                built=("wpaxos",),
                missing=("vpaxos",),
                because="objects move to their users, and with f_z = 1 a lost region loses neither data nor service",
            ),
        )
    }
)

ROOT: Final = "consensus"


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf and the way there: each question with its answer."""

    leaf: Leaf
    path: tuple[tuple[Question, bool], ...]


def advise(answers: Mapping[str, bool]) -> Advice | Question:
    """The leaf that ``answers`` (by the name of the question) lead to, or the next question that must be answered.

    Raises `ModelError` for an answer to a question that there is not.
    """
    for name in answers:
        if name not in QUESTIONS:
            raise ModelError(f"answers: there is no question {name!r} (there are: {', '.join(QUESTIONS)})")
    path: list[tuple[Question, bool]] = []
    at = ROOT
    while at in QUESTIONS:
        question = QUESTIONS[at]
        if at not in answers:
            return question
        path.append((question, answers[at]))
        at = question.yes if answers[at] else question.no
    return Advice(leaf=LEAVES[at], path=tuple(path))


STUDY_REPLICAS_MAX: Final = 9
STUDY_ROUND_TRIP_MS_MAX: Final = 210.0
STUDY_VALUE_BYTES_MAX: Final = 100


def extrapolations(*, replicas: int, round_trip_ms_max: float, value_bytes: int, durable: bool) -> list[str]:
    """Where a question lies outside what the study measured: a sentence each, empty if nowhere."""
    found = []
    if replicas > STUDY_REPLICAS_MAX:
        found.append(f"the study measured up to {STUDY_REPLICAS_MAX} replicas, not {replicas}")
    if round_trip_ms_max > STUDY_ROUND_TRIP_MS_MAX:
        found.append(
            f"the study's longest round trip was about {STUDY_ROUND_TRIP_MS_MAX:.0f} ms, not {round_trip_ms_max:.0f} ms"
        )
    if value_bytes > STUDY_VALUE_BYTES_MAX:
        found.append(f"the study's values were small (messages of about 100 bytes), not {value_bytes} bytes")
    if durable:
        found.append("the study wrote nothing to disk; syncs add the same to every protocol that has one on its path")
    return found
