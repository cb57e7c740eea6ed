"""Hypothesis strategies for logs of commands: few keys, revisions and sequences, so that they meet often."""

import msgspec
from hypothesis import strategies as st

from replica.kv.operations import (
    SESSION_WINDOW,
    SYSTEM_PREFIX,
    Add,
    CloseSession,
    Compact,
    Compare,
    Delete,
    DeleteRange,
    DescribeLease,
    Get,
    GrantLease,
    KeepAlive,
    ListLeases,
    OpenSession,
    Put,
    Range,
    RevokeLease,
    Transaction,
    Unchanged,
)

from .support import Command, command

KEYS = (b"a", b"a\x00", b"a\x00\xff", b"a\x01", b"b", b"\x00", b"\xff", b"\xff\xff", SYSTEM_PREFIX + b"x")

keys = st.sampled_from(KEYS)
bounds = st.sampled_from((b"", *KEYS))
values = st.sampled_from((b"", b"7", b"-3", b"x", b"9223372036854775807", b"longer than what is cached"))
revisions = st.integers(0, 12)
conditions_on_revision = st.none() | revisions

puts = st.builds(Put, keys, values)
guarded_puts = st.builds(Put, keys, values, st.integers(0, 2), conditions_on_revision, st.booleans())
reads = st.builds(Get, keys, revisions | st.just(0)) | st.builds(
    Range,
    bounds,
    bounds,
    limit=st.integers(0, 3),
    reverse=st.booleans(),
    keys_only=st.booleans(),
    count_only=st.booleans(),
    revision=revisions | st.just(0),
)
writes = st.one_of(
    puts,
    guarded_puts,
    st.builds(Delete, keys, conditions_on_revision, st.booleans()),
    st.builds(Delete, keys),
    st.builds(DeleteRange, bounds, bounds, st.booleans()),
    st.builds(Add, keys, st.integers(-5, 5)),
)
simple = reads | writes

few_leases = st.integers(1, 3)
leased_puts = st.builds(Put, keys, values, few_leases)
leases = st.one_of(
    st.builds(GrantLease, st.integers(1, 2), st.integers(0, 3)),
    st.builds(GrantLease, st.just(5)),
    st.builds(KeepAlive, few_leases),
    st.builds(RevokeLease, few_leases),
    st.builds(RevokeLease, few_leases, st.integers(1, 6)),
    st.builds(DescribeLease, few_leases, st.booleans()),
    st.builds(ListLeases, st.integers(0, 3), st.integers(0, 2)),
)

relations = st.sampled_from(("=", "!=", "<", ">"))
conditions = st.one_of(
    st.builds(Compare, keys, st.just("value"), relations, values),
    st.builds(Compare, keys, st.sampled_from(("version", "create", "mod", "exists")), relations, st.integers(0, 5)),
    st.builds(Unchanged, bounds, bounds, revisions),
)
transactions = st.builds(
    Transaction,
    st.lists(conditions, max_size=2).map(tuple),
    st.lists(simple, max_size=4).map(tuple),
    st.lists(simple, max_size=2).map(tuple),
)
others = st.one_of(
    st.builds(Compact, revisions),
    st.just(OpenSession(b"n")),
    st.builds(CloseSession, st.integers(1, 4)),
)
operations = st.one_of(puts, puts, leased_puts, simple, transactions, others, leases)


class Step(msgspec.Struct, frozen=True):
    """One command, by what it is made of."""

    operations: tuple
    session: int = 0
    sequence: int = 1
    acknowledged: int = 0
    system: bool = False

    def command(self) -> Command:
        return command(
            *self.operations,
            session=self.session,
            sequence=self.sequence,
            acknowledged=self.acknowledged,
            system=self.system,
        )


steps = st.builds(
    Step,
    st.lists(operations, min_size=1, max_size=4).map(tuple),
    st.sampled_from((0, 0, 1, 1, 1, 2, 3, 4)),
    st.integers(1, 10) | st.integers(SESSION_WINDOW - 2, SESSION_WINDOW + 12),
    st.sampled_from((0, 0, 0, 1, 2, 5)),
    st.sampled_from((False, False, False, False, True)),
)
opening = Step((OpenSession(b"n"), OpenSession(b"n")))
scripts = st.lists(steps, max_size=25).map(lambda rest: [opening, *rest])

# Retries: one session or two, few numbers, operations that tell whether they were executed twice.
retried = st.one_of(puts, puts, puts, st.builds(Add, keys, st.just(1)), st.builds(Get, keys), guarded_puts)
session_steps = st.builds(
    Step,
    st.lists(retried, min_size=1, max_size=4).map(tuple),
    st.sampled_from((1, 1, 1, 2)),
    st.integers(1, 8),
    st.sampled_from((0, 0, 0, 1, 2, 3, 4)),
)
lease_steps = st.builds(
    Step,
    st.lists(st.one_of(leases, leased_puts, puts, simple), min_size=1, max_size=4).map(tuple),
    st.sampled_from((0, 1)),
    st.integers(1, 12),
)
lease_opening = Step((OpenSession(b"n"), GrantLease(1), GrantLease(1)))
lease_scripts = st.lists(lease_steps, min_size=2, max_size=12).map(lambda rest: [lease_opening, *rest])
session_scripts = st.lists(session_steps, min_size=3, max_size=15).map(lambda rest: [opening, *rest])

# The past: many small writes to few keys outside any session, ever more to look back upon.
few_keys = st.sampled_from(KEYS[:4])
past = st.one_of(
    st.builds(Put, few_keys, values, st.integers(0, 1)),
    st.builds(Put, few_keys, values, st.integers(0, 1)),
    st.builds(Delete, few_keys),
    st.builds(Add, few_keys, st.just(1)),
    st.builds(
        Transaction,
        st.tuples(st.builds(Unchanged, bounds, bounds, revisions)),
        st.lists(st.builds(Put, few_keys, values) | st.builds(Delete, few_keys), max_size=3).map(tuple),
        st.tuples(st.builds(Put, few_keys, values)),
    ),
    reads,
    st.builds(Compact, revisions),
)
past_steps = st.builds(Step, st.lists(past, min_size=1, max_size=4).map(tuple))
history_scripts = st.lists(past_steps, min_size=2, max_size=12)

commit_points = st.sets(st.integers(0, 25))
