"""ABD told as stories: quorums, stamps, write-backs, what waits for the disk."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from replica.consensus.abd import PROTOCOL
from replica.consensus.abd.messages import TABLE, Holding, Query, Register, Stamp, Store, Stored
from replica.consensus.codec import Codec
from replica.consensus.interface import (
    Admitted,
    Command,
    Configuration,
    ConfigurationError,
    Context,
    Effects,
    Event,
    Footprint,
    Member,
    Message,
    Persisted,
    Proposed,
    Put,
    ReadRequested,
    Reason,
    Received,
    Record,
    TimerFired,
    validate_configuration,
)
from replica.kv import operations as kv
from replica.kv.objects import PlainRegisters
from replica.kv.runs import decode_results, encode_operations, pack_payload
from replica.transport.bounds import MESSAGE_BYTES_MAX


class Site:
    """One replica, its disk, and what its clients were told."""

    def __init__(self, cluster: Cluster, replica: int, *, voting: bool = True) -> None:
        self.cluster = cluster
        self.replica = replica
        self.voting = voting
        self.disk: dict[bytes, Record] = {}
        self.waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
        self.gated: list[tuple[int, tuple[int, ...], Message]] = []
        self.durable = 0
        self.syncs = True
        self.incarnation = 0
        self.answers: list[Any] = []
        self.rejections: list[Any] = []
        self.now = 0.0
        self.start()

    def start(self) -> None:
        """Start, or start again after a crash that kept what was synced."""
        self.incarnation += 1
        self.waiting.clear()
        self.gated.clear()
        self.durable = 0
        context = Context(
            replica=self.replica,
            configuration=self.cluster.configuration,
            stable=self,
            randomness=random.Random(0),
            incarnation=self.incarnation,
            applied={},
            voting=self.voting,
            registers=PlainRegisters(),
        )
        options = validate_configuration(PROTOCOL, self.cluster.configuration)
        self.protocol = PROTOCOL.create(context, options)
        self.carry_out(self.protocol.start(self.now))

    def get(self, table: str, key: bytes) -> Record | None:
        return self.disk.get(key)

    def scan(self, table: str, first: bytes, last: bytes) -> Any:
        raise AssertionError("ABD reads single records")

    def step(self, *events: Event) -> None:
        self.carry_out(self.protocol.step(self.now, events))
        self.protocol.check()

    def carry_out(self, effects: Effects) -> None:
        for send in effects.sends:
            if send.after <= self.durable:
                self.cluster.post(self.replica, send.to, send.message)
            else:
                self.gated.append((send.after, send.to, send.message))
        for persist in effects.persists:
            self.waiting.append((persist.ticket, persist.writes))
        self.answers.extend(effects.answers)
        self.rejections.extend(effects.rejections)
        if self.syncs:
            self.sync()

    def sync(self) -> None:
        """Everything written so far is on disk."""
        while self.waiting:
            ticket, writes = self.waiting.popleft()
            for write in writes:
                assert isinstance(write, Put)
                assert write.table == TABLE
                self.disk[write.key] = write.record
            self.durable = ticket
            released = [each for each in self.gated if each[0] <= ticket]
            self.gated = [each for each in self.gated if each[0] > ticket]
            for _, to, message in released:
                self.cluster.post(self.replica, to, message)
            self.step(Persisted(ticket))

    def ask(self, operation: kv.AnyOperation) -> None:
        """A client asks for an operation."""
        self.step(Proposed((self.cluster.command(operation),)))

    def wait(self, seconds: float) -> None:
        """Time passes, and the timer fires."""
        self.now += seconds
        self.step(TimerFired("repeat"))

    def stamp(self, key: bytes) -> Stamp | None:
        register = self.disk.get(key)
        assert register is None or isinstance(register, Register)
        return None if register is None else register.stamp

    @property
    def values(self) -> list[bytes | None]:
        """What this replica's clients have read, in order."""
        results = [decode_results(answer.results, 1)[0] for answer in self.answers]
        return [None if result.item is None else result.item.value for result in results if isinstance(result, kv.Got)]

    @property
    def written(self) -> int:
        """How many writes were acknowledged."""
        return sum(isinstance(decode_results(each.results, 1)[0], kv.Written) for each in self.answers)


class Cluster:
    """Replicas, and messages that wait until the story says otherwise."""

    def __init__(self, count: int = 3, **options: Any) -> None:
        self.configuration = Configuration(
            epoch=1, members=tuple(Member(each) for each in range(1, count + 1)), protocol="abd", options=options
        )
        self.wire: deque[tuple[int, int, Message]] = deque()
        self.cut: set[int] = set()
        self.sequence = 0
        self.sites = {replica: Site(self, replica) for replica in range(1, count + 1)}

    def __getitem__(self, replica: int) -> Site:
        return self.sites[replica]

    def command(self, operation: kv.AnyOperation) -> Command:
        """An operation of a client as a command."""
        self.sequence += 1
        payload = pack_payload(0, encode_operations([operation]))
        reads = isinstance(operation, kv.Get)
        key = (operation.key,)  # type: ignore[union-attr]
        touched = Footprint(reads=key, read_only=True) if reads else Footprint(writes=key)
        return Command(payload, 1, self.sequence, 1, touched)

    def post(self, sender: int, to: tuple[int, ...], message: Message) -> None:
        self.wire.extend((sender, each, message) for each in to)

    def deliver(self, chosen: Callable[[int, int, Message], bool] = lambda *_: True) -> int:
        """Deliver what waits now and is chosen; the rest goes on waiting."""
        batch, self.wire = self.wire, deque()
        delivered = 0
        for sender, to, message in batch:
            if sender in self.cut or to in self.cut:
                continue
            if not chosen(sender, to, message):
                self.wire.append((sender, to, message))
                continue
            delivered += 1
            self.sites[to].step(Received(sender, message))
        return delivered

    def settle(self) -> None:
        """Deliver until nothing moves."""
        while self.deliver():
            pass


def put(value: bytes, key: bytes = b"k") -> kv.Put:
    return kv.Put(key, value)


GET = kv.Get(b"k")


def test_a_write_is_read_through_every_replica():
    cluster = Cluster()
    cluster[1].ask(put(b"one"))
    cluster.settle()
    for replica in (1, 2, 3):
        cluster[replica].ask(GET)
        cluster.settle()
        assert cluster[replica].values == [b"one"]


def test_a_key_nobody_has_written_is_read_in_one_round():
    cluster = Cluster()
    cluster[2].ask(GET)
    cluster.deliver()
    cluster.deliver()
    assert cluster[2].values == [None]
    assert not cluster.wire


def test_a_unanimous_quorum_spares_the_write_back():
    cluster = Cluster()
    cluster[1].ask(put(b"one"))
    cluster.settle()
    cluster[3].ask(GET)
    cluster.settle()
    assert cluster[3].values == [b"one"]
    assert all(site.stamp(b"k") == Stamp(1, 1, 1) for site in cluster.sites.values())
    cluster[3].ask(GET)
    cluster.deliver()
    assert all(isinstance(message, Holding) for _, _, message in cluster.wire)


def test_a_read_that_finds_disagreement_writes_back_before_it_answers():
    cluster = Cluster()
    cluster[1].ask(put(b"one"))
    cluster.deliver(lambda sender, to, message: isinstance(message, Query))
    cluster.deliver(lambda sender, to, message: isinstance(message, Holding))
    cluster.cut.add(2)
    cluster.deliver()  # the store reaches replica 3 alone
    cluster.wire.clear()
    cluster.cut.clear()
    cluster.cut.add(1)
    assert (cluster[2].stamp(b"k"), cluster[3].stamp(b"k")) == (None, Stamp(1, 1, 1))
    cluster[2].ask(GET)
    cluster.deliver()
    cluster.deliver()
    assert cluster[2].values == []
    cluster.settle()
    assert cluster[2].values == [b"one"]
    assert cluster[2].stamp(b"k") == Stamp(1, 1, 1)


def test_writers_at_once_choose_different_stamps_and_all_agree_on_the_highest():
    cluster = Cluster()
    for replica in (1, 2, 3):
        cluster[replica].ask(put(b"%d" % replica))
    cluster.settle()
    assert [site.written for site in cluster.sites.values()] == [1, 1, 1]
    assert {site.stamp(b"k") for site in cluster.sites.values()} == {Stamp(1, 3, 1)}
    cluster[1].ask(GET)
    cluster.settle()
    assert cluster[1].values == [b"3"]


def test_two_writes_through_one_replica_never_share_a_stamp():
    cluster = Cluster()
    cluster[1].ask(put(b"one"))
    cluster[1].ask(put(b"two"))
    seen: dict[Stamp, bytes] = {}
    while cluster.wire:
        for _, _, message in cluster.wire:
            if isinstance(message, Store):
                for kept in message.kept:
                    assert seen.setdefault(kept.stamp, kept.record) == kept.record
        cluster.deliver()
    assert len(seen) == 2


def test_a_write_that_queried_before_another_stored_does_not_take_its_stamp():
    cluster = Cluster()
    cluster[1].ask(put(b"one"))
    cluster.deliver(lambda _, to, message: to == 2)
    cluster[1].ask(put(b"two"))
    # The second is answered by replica 3 as things stood before the first was stored.
    cluster.deliver(lambda _, to, message: to == 3 and isinstance(message, Query))
    cluster.deliver(lambda sender, to, message: sender == 2)
    cluster.deliver(lambda _, to, message: to == 2 and isinstance(message, Store))
    cluster.deliver(lambda sender, to, message: isinstance(message, Stored))
    assert cluster[1].written == 1
    cluster.settle()
    assert cluster[1].written == 2
    assert cluster[1].stamp(b"k") == Stamp(2, 1, 1)


def test_a_stamp_is_not_used_again_after_a_crash():
    cluster = Cluster()
    cluster[1].syncs = False
    cluster[1].ask(put(b"one"))
    cluster.deliver(lambda _, to, message: isinstance(message, Query) and to == 2)
    cluster.deliver(lambda _, to, message: isinstance(message, Query) and to == 3)
    cluster.deliver(lambda _, to, message: isinstance(message, Holding))
    late = [each for each in cluster.wire if isinstance(each[2], Store)]
    cluster.wire.clear()
    cluster[1].syncs = True
    cluster[1].start()
    cluster[1].ask(put(b"two"))
    cluster.settle()
    assert cluster[1].stamp(b"k") == Stamp(1, 1, 2)
    cluster.wire.extend(late)
    cluster.settle()
    assert {site.stamp(b"k") for site in cluster.sites.values()} == {Stamp(1, 1, 2)}


def test_nothing_is_acknowledged_before_it_is_on_disk():
    cluster = Cluster()
    for site in cluster.sites.values():
        site.syncs = False
    cluster[1].ask(put(b"one"))
    cluster.settle()
    assert cluster[1].written == 0
    cluster[1].sync()
    cluster.settle()
    assert cluster[1].written == 0
    cluster[2].sync()
    cluster.settle()
    assert cluster[1].written == 1


def test_what_is_not_on_disk_is_not_told_either():
    cluster = Cluster()
    cluster[1].ask(put(b"one"))
    cluster.deliver()
    cluster.deliver()
    cluster[2].syncs = False
    cluster.cut.add(1)
    cluster.cut.add(3)
    cluster.cut.discard(1)
    cluster.deliver()
    cluster.cut.clear()
    cluster.cut.add(1)
    cluster[3].ask(GET)
    cluster.deliver()
    cluster.deliver()
    assert cluster[3].values == []
    cluster[2].sync()
    cluster.settle()
    assert cluster[3].values == [b"one"]


def test_what_was_lost_is_asked_for_again():
    cluster = Cluster(repeat_s=0.2)
    cluster[1].ask(put(b"one"))
    cluster.wire.clear()
    cluster[1].wait(0.1)
    assert not cluster.wire
    cluster[1].wait(0.2)
    cluster.deliver()
    cluster.deliver()
    cluster.wire.clear()
    cluster[1].wait(0.3)
    cluster.settle()
    assert cluster[1].written == 1


def test_a_repeated_answer_counts_once_and_a_late_one_not_at_all():
    cluster = Cluster(5)
    cluster[1].ask(put(b"one"))
    cluster.cut.update((3, 4, 5))
    cluster.deliver()
    (holding,) = [each for each in cluster.wire if isinstance(each[2], Holding)]
    cluster.wire.extend([holding] * 3)
    cluster.deliver()
    assert not any(isinstance(message, Store) for _, _, message in cluster.wire)
    cluster.cut.clear()
    cluster[1].wait(1.0)
    cluster.settle()
    assert cluster[1].written == 1
    cluster[1].step(Received(2, holding[2]))
    assert cluster[1].written == 1


def test_a_replica_that_was_not_admitted_neither_tells_nor_holds_nor_mints():
    cluster = Cluster()
    cluster.sites[3] = fresh = Site(cluster, 3, voting=False)
    fresh.ask(put(b"one"))
    assert [(each.reason, each.definite) for each in fresh.rejections] == [(Reason.NOT_LEADER, True)]
    cluster.cut.add(2)
    cluster[1].ask(put(b"two"))
    cluster.settle()
    assert cluster[1].written == 0
    fresh.step(Admitted())
    cluster[1].wait(1.0)
    cluster.settle()
    assert cluster[1].written == 1


def test_unanimity_of_a_small_read_quorum_is_not_enough():
    cluster = Cluster(3, q1=1, q2=3)
    cluster[1].ask(put(b"one"))
    cluster.settle()
    cluster[2].ask(GET)
    assert cluster[2].values == []
    cluster.settle()
    assert cluster[2].values == [b"one"]


def test_what_does_not_touch_one_key_is_refused():
    cluster = Cluster()
    for touched in (None, Footprint(writes=(b"a", b"b")), Footprint(ranges=((b"a", b"b"),), read_only=True)):
        cluster[1].step(Proposed((Command(b"", 1, 1, 1, touched),)))
    assert [(each.reason, each.definite) for each in cluster[1].rejections] == [(Reason.UNSUPPORTED, True)] * 3


def test_more_than_fits_is_refused_before_it_is_proposed():
    cluster = Cluster(queue_max=2)
    for number in range(3):
        cluster[1].ask(put(b"%d" % number))
    assert [(each.reason, each.definite) for each in cluster[1].rejections] == [(Reason.OVERLOADED, True)]


def test_what_is_under_way_is_bounded_in_bytes_too():
    cluster = Cluster(queue_bytes_max=1500)
    for number in range(3):
        cluster[1].ask(put(bytes(500), b"%d" % number))
    assert [(each.reason, each.definite) for each in cluster[1].rejections] == [(Reason.OVERLOADED, True)]
    cluster.settle()
    cluster[1].ask(put(bytes(5000)))
    cluster.settle()
    assert cluster[1].written == 3


def test_no_message_is_larger_than_a_frame_however_much_a_turn_has_to_say():
    cluster = Cluster()
    codec, sizes = Codec(PROTOCOL), []
    post = cluster.post

    def measure(sender: int, to: tuple[int, ...], message: Message) -> None:
        sizes.append(len(codec.encode(message)))
        post(sender, to, message)

    cluster.post = measure  # type: ignore[method-assign]
    keys = [b"%d" % number for number in range(8)]
    large = bytes(kv.VALUE_BYTES_MAX)
    proposed = [put(large, key) for key in keys]
    cluster[1].step(Proposed(tuple(cluster.command(each) for each in proposed)))
    cluster.deliver()
    cluster[1].wait(1)
    cluster.settle()
    assert cluster[1].written == 8
    cluster[2].step(Proposed(tuple(cluster.command(kv.Get(key)) for key in keys)))
    cluster.settle()
    assert cluster[2].values == [large] * 8
    long = [put(b"", b"%0*d" % (kv.KEY_BYTES_MAX, number)) for number in range(10_000)]
    cluster[3].step(Proposed(tuple(cluster.command(each) for each in long)))
    cluster.settle()
    assert cluster[3].written == 10_000
    assert max(sizes) <= MESSAGE_BYTES_MAX


def test_reads_by_grant_are_refused():
    cluster = Cluster()
    effects = cluster[1].protocol.step(0.0, [ReadRequested(7)])
    assert [(each.token, each.reason) for each in effects.refused_reads] == [(7, Reason.UNSUPPORTED)]


def test_a_single_replica_answers_by_itself():
    cluster = Cluster(1)
    cluster[1].ask(put(b"one"))
    cluster[1].ask(GET)
    assert (cluster[1].written, cluster[1].values) == (1, [b"one"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"q1": 1, "q2": 1}, "q1"),
        ({"repeat_s": 0.0}, "repeat_s"),
        ({"queue_max": 0}, "queue_max"),
        ({"q2": 9}, "q2"),
        ({"chunk_bytes_max": 0}, "chunk_bytes_max"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options, named):
    members = tuple(Member(each) for each in (1, 2, 3))
    with pytest.raises(ConfigurationError, match=named):
        validate_configuration(PROTOCOL, Configuration(epoch=1, members=members, protocol="abd", options=options))
