"""The same log gives the same state and the same answers, whatever else differs between two replicas."""

import os
import subprocess
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import replica.kv.history
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import Compact, Put

from .scripts import lease_scripts, scripts, session_scripts
from .support import Command, command

ROOT = Path(__file__).resolve().parents[3]
SESSIONS_MAX = 3


def replay(commands: Sequence[Command], cuts: Container[int], commits: Container[int]) -> tuple[Any, ...]:
    """Apply a log in positions cut at ``cuts``; at ``commits`` commit, crash and go on from what survived."""
    store = MemoryStore()
    machine = StateMachine(store, sessions_max=SESSIONS_MAX)
    positions: list[list[Command]] = []
    for index, each in enumerate(commands):
        if index in cuts or not positions:
            positions.append([])
        positions[-1].append(each)
    answers = []
    for position, together in enumerate(positions, 1):
        answers += [outcome.encoded() for outcome in machine.apply(position, together)]
        if position in commits:
            machine.commit()
            store = store.committed_copy()
            machine = StateMachine(store, sessions_max=SESSIONS_MAX)
    digest = machine.digest()
    return answers, (digest.revision, digest.keys, digest.digest), machine.compacted


cuts = st.sets(st.integers(0, 25))


@settings(max_examples=80, deadline=None)
@given(script=scripts | session_scripts | lease_scripts, cuts=cuts, commits=cuts)
def test_how_commands_are_batched_and_when_they_are_committed_makes_no_difference(script, cuts, commits):
    commands = [step.command() for step in script]
    assert replay(commands, cuts, commits) == replay(commands, range(len(commands)), ())


@settings(max_examples=40, deadline=None)
@given(script=scripts)
def test_neither_does_what_happens_to_be_cached(script):
    commands = [step.command() for step in script]
    expected = replay(commands, (), ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica.kv.history, "CACHED_KEYS_MAX", 1)
        patch.setattr(replica.kv.history, "CACHED_VALUE_BYTES_MAX", 0)
        patch.setattr(replica.kv.history, "PENDING_BYTES_MAX", 0)
        assert replay(commands, (), ()) == expected


@settings(max_examples=40, deadline=None)
@given(script=scripts | session_scripts | lease_scripts, lost=st.integers(1, 10), committed=st.integers(0, 10))
def test_what_a_crash_lost_is_applied_again_to_the_same_end(script, lost, committed):
    commands = [step.command() for step in script]
    store = MemoryStore()
    machine = StateMachine(store, sessions_max=SESSIONS_MAX)
    for position, each in enumerate(commands, 1):
        machine.apply(position, [each])
        if position == committed:
            machine.commit()
    end = machine.digest()
    store.crash()
    machine = StateMachine(store, sessions_max=SESSIONS_MAX)
    assert machine.applied == (committed if committed <= len(commands) else 0)
    for position, each in enumerate(commands, 1):
        machine.apply(position, [each])
    assert machine.digest() == end


PROGRAM = """
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import *
from tests.unit.kv.support import command
machine = StateMachine(MemoryStore())
log = [command(OpenSession(b"n"))]
for number in range(1, 200):
    keys = [b"key%d" % (number * step % 37) for step in (1, 5, 7)]
    log.append(command(
        *(Put(key, b"%d" % number) for key in keys),
        Transaction((Unchanged(keys[0], b"", number),), tuple(Delete(key) for key in keys), (Add(b"n", 1),)),
        DeleteRange(b"key3", b"key31"),
        Compact(number),
        session=1, sequence=6 * number, acknowledged=3 * number))
for position, each in enumerate(log, 1):
    machine.apply(position, [each])
machine.commit()
print(machine.digest(), sorted(machine.store.contents()["sessions"].items()))
"""


def test_the_seed_of_hashes_makes_no_difference():
    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        ).stdout

    first = run("1")
    assert "digest=" in first
    assert run("2") == first


def test_a_difference_shows_in_the_digest():
    log: tuple[tuple[Put, ...], ...] = (
        (),
        (Put(b"a", b""),),
        (Put(b"b", b""),),
        (Put(b"a", b"x"),),
        (Put(b"a", b""), Put(b"a", b"")),
    )
    digests = set()
    for operations in log:
        machine = StateMachine(MemoryStore())
        machine.apply(1, [command(*operations)] if operations else [])
        digests.add(machine.digest().digest)
    assert len(digests) == 5


def test_a_history_that_begins_elsewhere_shows_in_the_digest():
    digests = []
    for compacted in (None, 1, 2):
        machine = StateMachine(MemoryStore())
        machine.apply(1, [command(Put(b"a", b""), Put(b"a", b""), Put(b"a", b""))])
        machine.apply(2, [] if compacted is None else [command(Compact(compacted))])
        digests.append(machine.digest())
    assert len({digest.digest for digest in digests}) == 3
    assert len({(digest.applied, digest.revision, digest.keys) for digest in digests}) == 1
