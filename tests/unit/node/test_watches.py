"""Watches on a state machine that is spoken to by hand, with streams that take when they are told to."""

import asyncio
from typing import Any

import msgspec
import pytest

import replica.node.watches
from replica.kv.memory import MemoryStore
from replica.kv.operations import SYSTEM_PREFIX, Compact, Delete, DeleteRange, Put, WatchBatch, prefix_end
from replica.node.attachment import Attachment
from replica.node.config import Limits
from replica.node.metrics import NodeMetrics
from replica.node.watches import LIVE_WRITES_MAX, PROGRESS_S, Watches
from replica.wire import typed as wire
from tests.unit.kv.support import Replica

_decode = msgspec.msgpack.Decoder(list[WatchBatch]).decode


class Stream:
    """A stream, and what its watches were told."""

    def __init__(self, watching: "Watching") -> None:
        self._watching = watching
        self.attachment = Attachment(watching.limits.frame_bytes_max)
        self.told: dict[int, list[Any]] = {}
        self.frames = 0

    def watch(self, id_: int, prefix: bytes = b"", **fields: Any) -> None:
        asked = wire.Watch(id=id_, first=prefix, last=prefix_end(prefix), **fields)
        self._watching.watches.open(self.attachment, asked)

    async def take(self) -> None:
        """Take what is there."""
        await settle()
        while self.attachment.news_bytes:
            frame = await self.attachment.next_frame()
            assert frame is not None
            self.frames += 1
            for news in frame.watch_news:
                for id_ in news.ids:
                    self.told.setdefault(id_, []).append(self._read(news))
            await settle()

    def _read(self, news: wire.WatchNews) -> Any:
        match news.WhichOneof("content"):
            case "started":
                return ("started", news.started)
            case "progress":
                return ("progress", news.progress)
            case "ended":
                return ("ended", wire.Code.Name(news.ended.code), news.ended.revision)
            case _:
                return [(batch.revision, [event.key for event in batch.events]) for batch in _decode(news.batches)]

    def heard(self, id_: int) -> list[tuple[int, list[bytes]]]:
        """The batches that a watch was told of."""
        return [batch for each in self.told.get(id_, []) if isinstance(each, list) for batch in each]

    def ends(self, id_: int) -> list[tuple[str, int]]:
        return [each[1:] for each in self.told.get(id_, []) if each[0] == "ended"]


async def settle() -> None:
    """Let everything that is due have its turn, and what that makes due."""
    for _ in range(20):
        await asyncio.sleep(0)


class Watching:
    def __init__(self, *, progress_s: float = PROGRESS_S, **limits: Any) -> None:
        self.replica = Replica(MemoryStore())
        self.limits = Limits(**limits)
        self.metrics = NodeMetrics(dict)
        self.refusal: tuple[wire.Code, str] | None = None
        self.watches = Watches(
            lambda: self.replica.machine.history,
            lambda: self.refusal,
            limits=self.limits,
            metrics=self.metrics,
            progress_s=progress_s,
        )

    def do(self, *operations: Any) -> None:
        self.replica.do(*operations)
        if self.watches.active:
            self.watches.applied()

    def puts(self, *keys: bytes) -> None:
        self.do(*[Put(key, b"value") for key in keys])


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """News are not held back, unless a test is about that."""
    monkeypatch.setattr(replica.node.watches, "STREAM_S", 0.0)


@pytest.fixture
async def watching() -> Watching:
    return Watching()


async def test_a_watch_is_told_of_what_comes_from_now_on(watching):
    stream = Stream(watching)
    watching.puts(b"before")
    stream.watch(1)
    watching.puts(b"a")
    watching.do(Delete(b"a"), Put(b"b", b""))
    await stream.take()
    assert stream.told[1] == [("started", 2), [(2, [b"a"]), (3, [b"a"]), (4, [b"b"])]]


async def test_a_watch_from_an_earlier_revision_is_read_the_history_first(watching):
    stream = Stream(watching)
    watching.puts(*[b"%03d" % n for n in range(10)])
    stream.watch(1, revision=4)
    watching.puts(b"later")
    await stream.take()
    assert stream.told[1][0] == ("started", 4)
    assert [revision for revision, _ in stream.heard(1)] == list(range(4, 12))
    watching.puts(b"live")
    await stream.take()
    assert stream.heard(1)[-1] == (12, [b"live"])
    assert watching.watches.behind == 0


async def test_a_watch_from_a_revision_that_was_not_reached_waits_for_it(watching):
    stream = Stream(watching)
    stream.watch(1, revision=3)
    stream.watch(2)
    watching.puts(b"1")
    await stream.take()
    watching.puts(b"2", b"3", b"4")
    await stream.take()
    watching.puts(b"5")
    await stream.take()
    assert [revision for revision, _ in stream.heard(1)] == [3, 4, 5]
    assert [revision for revision, _ in stream.heard(2)] == [1, 2, 3, 4, 5]


async def test_a_watch_that_waits_for_a_revision_is_told_of_it_though_all_others_have_just_gone(watching):
    stream = Stream(watching)
    stream.watch(1)
    stream.watch(2, revision=2)
    await stream.take()
    watching.puts(b"1", b"2")
    watching.watches.cancel(stream.attachment, 1)  # before it was told
    await stream.take()
    assert stream.heard(2) == [(2, [b"2"])]


async def test_each_watch_hears_of_its_keys_alone(watching):
    stream = Stream(watching)
    stream.watch(1, b"a/")
    stream.watch(2, b"a/x")
    stream.watch(3)
    watching.watches.open(stream.attachment, wire.Watch(id=4, first=b"a/x", last=b"a/x\x00"))
    watching.watches.open(stream.attachment, wire.Watch(id=5, first=b"a/b", last=b"a/y"))
    stream.watch(6, SYSTEM_PREFIX)
    watching.puts(b"a/x", b"a/xy", b"b", b"a/a")
    watching.replica.do(Put(SYSTEM_PREFIX + b"k", b""), system=True)
    watching.watches.applied()
    await stream.take()
    heard = {id_: [keys[0] for _, keys in stream.heard(id_)] for id_ in range(1, 7)}
    assert heard == {
        1: [b"a/x", b"a/xy", b"a/a"],
        2: [b"a/x", b"a/xy"],
        3: [b"a/x", b"a/xy", b"b", b"a/a"],
        4: [b"a/x"],
        5: [b"a/x", b"a/xy"],
        6: [SYSTEM_PREFIX + b"k"],
    }


async def test_what_was_not_asked_for_is_left_out(watching):
    stream = Stream(watching)
    stream.watch(1, no_puts=True)
    stream.watch(2, no_deletes=True)
    watching.do(Put(b"a", b""), Delete(b"a"), Put(b"b", b""), DeleteRange(b"", b""))
    await stream.take()
    assert stream.heard(1) == [(2, [b"a"]), (4, [b"b"])]
    assert stream.heard(2) == [(1, [b"a"]), (3, [b"b"])]


async def test_a_thousand_watches_of_one_prefix_are_told_in_one_message_a_stream(watching):
    streams = [Stream(watching) for _ in range(4)]
    for stream in streams:
        for id_ in range(250):
            stream.watch(id_, b"a/")
        await stream.take()
        stream.frames = 0
    watching.puts(b"a/1", b"a/2")
    encoded = {id(news.batches) for stream in streams for news in await untaken(stream)}
    assert len(encoded) == 1
    for stream in streams:
        await stream.take()
        assert stream.frames == 1
        assert all(stream.heard(id_) == [(1, [b"a/1"]), (2, [b"a/2"])] for id_ in range(250))


async def untaken(stream: Stream) -> list[Any]:
    await settle()
    return list(stream.attachment._news)


async def test_a_compacted_revision_is_refused_with_the_one_to_resume_from(watching):
    stream = Stream(watching)
    watching.puts(*[b"%d" % n for n in range(9)])
    watching.do(Compact(5))
    stream.watch(1, revision=5)
    stream.watch(2, revision=6)
    await stream.take()
    assert stream.ends(1) == [("COMPACTED", 6)]
    assert [revision for revision, _ in stream.heard(2)] == [6, 7, 8, 9]
    assert len(watching.watches) == 1


async def test_a_watch_that_compaction_overtakes_is_ended_with_the_revision_to_resume_from(watching, monkeypatch):
    monkeypatch.setattr(replica.node.watches, "ROOM_BYTES", 0)  # nobody is read to
    stream = Stream(watching)
    watching.puts(*[b"%d" % n for n in range(9)])
    stream.watch(1, revision=2)
    await stream.take()
    watching.do(Compact(7))
    watching.replica.machine.commit()
    monkeypatch.setattr(replica.node.watches, "ROOM_BYTES", 1 << 20)
    watching.watches._read_soon()
    await stream.take()
    assert (stream.heard(1), stream.ends(1)) == ([], [("COMPACTED", 8)])


async def test_a_live_watch_has_heard_what_is_compacted_in_the_same_turn(watching):
    stream = Stream(watching)
    stream.watch(1)
    watching.do(Put(b"a", b"1"), Put(b"a", b"2"), Compact(2))
    await stream.take()
    assert [revision for revision, _ in stream.heard(1)] == [1, 2]


async def test_a_slow_client_is_left_with_the_revision_to_resume_from_and_loses_nothing():
    watching = Watching(watch_stream_bytes_max=2000)
    slow, quick = Stream(watching), Stream(watching)
    slow.watch(1)
    quick.watch(1)
    for n in range(100):
        watching.puts(b"%04d" % n)
        await quick.take()
    await slow.take()
    ((code, resume),) = slow.ends(1)
    heard = [revision for revision, _ in slow.heard(1)]
    assert (code, heard) == ("SLOW", list(range(1, resume)))
    assert 1 < resume < 100
    assert [revision for revision, _ in quick.heard(1)] == list(range(1, 101))
    assert (len(watching.watches), watching.metrics.watches_ended_slow) == (1, 1)
    slow.watch(2, revision=resume)
    await slow.take()
    assert [revision for revision, _ in slow.heard(2)] == list(range(resume, 101))


async def test_what_nobody_takes_is_bounded_over_all_streams(monkeypatch):
    monkeypatch.setattr(replica.node.watches, "ROOM_BYTES", 200)
    watching = Watching(watch_bytes_max=5000)
    streams = [Stream(watching) for _ in range(50)]
    for stream in streams:
        stream.watch(1)
        await stream.take()
    for n in range(20):
        watching.puts(b"%04d" % n)
        await settle()
    assert watching.watches.untaken_bytes < 50 * 500
    for stream in streams:
        await stream.take()
    assert any(stream.ends(1) for stream in streams)
    assert watching.watches.untaken_bytes == 0


async def test_whoever_does_not_take_is_not_read_to(watching, monkeypatch):
    monkeypatch.setattr(replica.node.watches, "PIECE_WRITES_MAX", 10)
    monkeypatch.setattr(replica.node.watches, "ROOM_BYTES", 1000)
    watching.puts(*[b"%04d" % n for n in range(1000)])
    stream = Stream(watching)
    stream.watch(1, revision=1)
    await settle()
    assert watching.watches.untaken_bytes < 3000
    await stream.take()
    assert [revision for revision, _ in stream.heard(1)] == list(range(1, 1001))


async def test_a_revision_too_large_for_one_message_is_told_in_several():
    watching = Watching(frame_bytes_max=4096)
    watching.puts(*[b"%04d" % n for n in range(200)])
    stream = Stream(watching)
    stream.watch(1)
    watching.do(DeleteRange(b"", b""))
    watching.puts(b"after")
    await stream.take()
    pieces = [each for each in stream.told[1] if isinstance(each, list)]
    assert len(pieces) > 3
    revisions = [revision for piece in pieces for revision, _ in piece]
    assert set(revisions) == {201, 202}
    assert [key for revision, keys in stream.heard(1) if revision == 201 for key in keys] == [
        b"%04d" % n for n in range(200)
    ]
    assert watching.watches.behind == 0


async def test_watches_go_on_over_an_installed_snapshot(watching):
    stream = Stream(watching)
    stream.watch(1)
    watching.puts(b"a")
    await stream.take()
    other = Replica(MemoryStore())
    other.do(*[Put(b"%d" % n, b"") for n in range(6)], Compact(1))
    other.machine.commit()
    watching.replica = other
    watching.watches.applied()
    await stream.take()
    assert [revision for revision, _ in stream.heard(1)] == [1, 2, 3, 4, 5, 6]


async def test_a_snapshot_that_no_longer_knows_what_comes_next_ends_the_watch(watching):
    stream = Stream(watching)
    stream.watch(1)
    watching.puts(b"a")
    await stream.take()
    other = Replica(MemoryStore())
    other.do(*[Put(b"%d" % n, b"") for n in range(6)], Compact(4))
    other.machine.commit()
    watching.replica = other
    watching.watches.applied()
    await stream.take()
    assert stream.ends(1) == [("COMPACTED", 5)]


async def test_when_very_much_was_written_at_once_it_is_read_in_pieces(watching, monkeypatch):
    monkeypatch.setattr(replica.node.watches, "LIVE_WRITES_MAX", 5)
    assert LIVE_WRITES_MAX > 5
    stream = Stream(watching)
    stream.watch(1)
    watching.puts(*[b"%d" % n for n in range(9)])
    await stream.take()
    watching.puts(b"x")
    await stream.take()
    assert [revision for revision, _ in stream.heard(1)] == list(range(1, 11))


async def test_a_watch_that_is_cancelled_hears_nothing_more(watching):
    stream = Stream(watching)
    for id_ in (1, 2):
        stream.watch(id_)
    await stream.take()
    watching.watches.cancel(stream.attachment, 1)
    watching.watches.cancel(stream.attachment, 77)
    watching.puts(b"a")
    await stream.take()
    assert (stream.heard(1), stream.heard(2)) == ([], [(1, [b"a"])])


async def test_nothing_is_kept_of_streams_that_are_gone(watching):
    streams = [Stream(watching) for _ in range(3)]
    watching.puts(b"a", b"b")
    for stream in streams:
        stream.watch(1)
        stream.watch(2, b"a", revision=1)
        stream.watch(3, b"a", revision=100)
    await settle()
    for stream in streams:
        watching.watches.detach(stream.attachment)
    watches = watching.watches
    assert (len(watches), watches.behind, watches.untaken_bytes, watches.active) == (0, 0, 0, False)
    assert not watches._groups
    assert not list(watches._index._all())
    watching.puts(b"c")
    await settle()


async def test_watches_far_ahead_that_were_given_up_do_not_pile_up(watching):
    stream = Stream(watching)
    for id_ in range(1000):
        stream.watch(id_, revision=10_000)
        watching.watches.cancel(stream.attachment, id_)
    assert len(watching.watches._ahead) < 100


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (wire.Watch(id=1, first=b"b", last=b"a"), "INVALID"),
        (wire.Watch(id=1, first=b"k" * 251), "INVALID"),
        (wire.Watch(id=1, no_puts=True, no_deletes=True), "INVALID"),
        (wire.Watch(id=1, revision=1 << 63), "INVALID"),
        (wire.Watch(id=7), "INVALID"),  # taken
    ],
)
async def test_a_watch_that_makes_no_sense_is_refused(watching, asked, code):
    stream = Stream(watching)
    stream.watch(7)
    watching.watches.open(stream.attachment, asked)
    await stream.take()
    assert [end for end, _ in stream.ends(asked.id)] == [code]
    assert len(watching.watches) == 1


async def test_there_are_only_so_many_watches():
    watching = Watching(session_watches_max=2, watches_max=3)
    streams = [Stream(watching) for _ in range(2)]
    for stream in streams:
        for id_ in (1, 2, 3):
            stream.watch(id_)
        await stream.take()
    assert [stream.ends(id_) for stream in streams for id_ in (1, 2, 3)] == [
        [], [], [("OVERLOADED", 0)], [], [("OVERLOADED", 0)], [("OVERLOADED", 0)],
    ]  # fmt: skip


async def test_where_nothing_can_be_watched_it_is_said_why(watching):
    watching.refusal = wire.Code.UNSUPPORTED, "no order"
    stream = Stream(watching)
    stream.watch(1, revision=4)
    await stream.take()
    assert stream.ends(1) == [("UNSUPPORTED", 4)]


async def test_a_replica_that_can_tell_nothing_sends_its_watches_elsewhere(watching):
    stream = Stream(watching)
    watching.puts(b"a", b"b")
    stream.watch(1)
    stream.watch(2, revision=9)
    await stream.take()
    watching.watches.end_all(wire.Code.UNAVAILABLE, "out of touch")
    await stream.take()
    assert (stream.ends(1), stream.ends(2)) == ([("UNAVAILABLE", 3)], [("UNAVAILABLE", 9)])


async def test_live_watches_hear_how_far_they_have_come_though_nothing_concerned_them():
    watching = Watching(progress_s=0.01)
    stream = Stream(watching)
    stream.watch(1, b"a/")
    watching.puts(b"b", b"c")
    while ("progress", 2) not in stream.told.get(1, ()):
        await stream.take()
        await asyncio.sleep(0.005)
    before = len(stream.told[1])
    await asyncio.sleep(0.05)
    await stream.take()
    assert len(stream.told[1]) == before  # nothing has changed, so there is nothing to say


async def test_with_many_streams_news_are_held_back_and_travel_together(monkeypatch):
    monkeypatch.setattr(replica.node.watches, "STREAM_S", 0.02)
    watching = Watching()
    stream = Stream(watching)
    stream.watch(1)
    await stream.take()
    watching.puts(b"first")
    await stream.take()
    for n in range(10):
        watching.puts(b"%d" % n)
        await settle()
    stream.frames = 0
    while len(stream.heard(1)) < 11:
        await stream.take()
        await asyncio.sleep(0.001)
    assert stream.frames <= 2
