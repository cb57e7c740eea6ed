"""Snapshots from one transport to another."""

import asyncio
import threading

import grpc
import pytest

from replica.transport import (
    LinkFault,
    SnapshotError,
    SnapshotInterrupted,
    SnapshotQuery,
    SnapshotRefused,
    SnapshotUnserved,
    bind,
    create_server,
)
from replica.wire.typed import LearnChunk, PeerServicer, SnapshotChunk, add_peer_servicer
from tests.support.transports import PATIENCE_S, Party, eventually, running

CONTENT = bytes(range(256)) * 10_000
"""2.5 MB: several chunks."""


class Source:
    """A snapshot in memory that may be slow, short or broken."""

    def __init__(self, content: bytes, *, total_bytes: int | None = None, error_at: int | None = None) -> None:
        self.total_bytes = len(content) if total_bytes is None else total_bytes
        self.go_on = threading.Event()
        self.go_on.set()
        self.closed = 0
        self.reads = 0
        self._content = content
        self._at = 0
        self._error_at = error_at

    def read(self, size: int, /) -> bytes:
        assert not self.closed
        self.go_on.wait(PATIENCE_S)
        self.reads += 1
        if self._error_at is not None and self._at >= self._error_at:
            raise OSError(5, "Input/output error")
        data = self._content[self._at : self._at + size]
        self._at += len(data)
        return data

    def close(self) -> None:
        self.closed += 1


class Sink:
    def __init__(self) -> None:
        self.content = b""

    def write(self, data: bytes, /) -> int:
        self.content += data
        return len(data)


class Told:
    """A lesson of a snapshot and some news."""

    def __init__(self, source: Source, news: list[bytes | Exception]) -> None:
        self.snapshot = source
        self.heard: list[int] = []
        self.closed = 0
        self._news = news

    async def news(self) -> bytes | None:
        if not self._news:
            return None
        told = self._news.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    def applied(self, position: int, /) -> None:
        self.heard.append(position)

    def close(self) -> None:
        self.closed += 1


class Pupil:
    """Counts what it is told, until it is told of the end."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    async def begin(self, total_bytes: int, /) -> int:
        return total_bytes

    async def take(self, news: bytes, /) -> int | None:
        self.taken.append(news)
        return None if news == b"the end" else len(self.taken)


@pytest.fixture
async def pair():
    one, two = Party(1), Party(2)
    async with running(one, two):
        yield one, two


async def test_a_snapshot_arrives_whole_and_its_source_is_closed(pair):
    one, two = pair
    source, sink = Source(CONTENT), Sink()
    two.host.source = lambda _: source
    size = await one.transport.fetch_snapshot(2, frontier=7, epoch=3, sink=sink)
    assert size == len(CONTENT)
    assert sink.content == CONTENT
    await eventually(lambda: source.closed == 1)
    assert two.host.queries == [SnapshotQuery(replica=1, disk="disk-1", frontier=7, epoch=3)]


async def test_an_empty_snapshot_is_a_snapshot(pair):
    one, two = pair
    two.host.source = lambda _: Source(b"")
    assert await one.transport.fetch_snapshot(2, frontier={"a": 1}, epoch=1, sink=Sink()) == 0
    assert two.host.queries[0].frontier == {"a": 1}


async def test_a_refusal_says_why_and_whether_to_come_again(pair):
    one, two = pair
    with pytest.raises(SnapshotRefused, match="there is none") as refused:
        await one.transport.fetch_snapshot(2, frontier=7, epoch=1, sink=Sink())
    assert not refused.value.busy

    def busy(_):
        raise SnapshotUnserved("taking one right now", busy=True)

    two.host.source = busy
    with pytest.raises(SnapshotRefused, match="taking one right now") as refused:
        await one.transport.fetch_snapshot(2, frontier=7, epoch=1, sink=Sink())
    assert refused.value.busy


async def test_another_cluster_gets_no_snapshot(pair):
    _, two = pair
    two.host.source = lambda _: Source(CONTENT)
    stranger = Party(1, cluster="another")
    async with running(stranger, connected=False):
        stranger.transport.set_peers({2: two.address})
        with pytest.raises(SnapshotRefused, match="cluster 'test'"):
            await stranger.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink())
    assert not two.host.queries


async def test_a_source_that_fails_is_an_interruption_and_is_closed(pair):
    one, two = pair
    source = Source(CONTENT, error_at=1_000_000)
    two.host.source = lambda _: source
    with pytest.raises(SnapshotInterrupted):
        await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink())
    await eventually(lambda: source.closed == 1)


async def test_a_snapshot_that_ends_early_is_never_taken_for_whole(pair):
    one, two = pair
    two.host.source = lambda _: Source(CONTENT, total_bytes=len(CONTENT) + 1)
    with pytest.raises(SnapshotInterrupted, match=f"{len(CONTENT)} of {len(CONTENT) + 1}"):
        await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink())


@pytest.mark.parametrize(
    ("chunks", "complaint"),
    [
        ([SnapshotChunk(data=b"abc", offset=0, total_bytes=5, last=True)], "3 of 5 bytes"),
        ([SnapshotChunk(data=b"abc", offset=0, total_bytes=5), SnapshotChunk(offset=4)], "expected byte 3, got 4"),
        ([SnapshotChunk(data=b"abc", offset=0, total_bytes=5)], "ended after 3 bytes"),
        ([], "ended after 0 bytes"),
    ],
)
async def test_a_peer_that_breaks_the_rules_has_sent_no_snapshot(chunks, complaint):
    class Careless(PeerServicer):
        async def Connect(self, request_iterator, context):  # noqa: N802 - the name is the contract's
            await context.abort(grpc.StatusCode.UNIMPLEMENTED)
            yield

        async def FetchSnapshot(self, request, context):  # noqa: N802
            for chunk in chunks:
                yield chunk

        async def Learn(self, request_iterator, context):  # noqa: N802
            await anext(request_iterator)
            for chunk in chunks:
                yield LearnChunk(snapshot=chunk)

    server = create_server()
    add_peer_servicer(Careless(), server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    one = Party(1)
    try:
        async with running(one, connected=False):
            one.transport.set_peers({2: f"127.0.0.1:{port}"})
            with pytest.raises(SnapshotInterrupted, match=complaint):
                await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink())
            with pytest.raises(SnapshotInterrupted, match=complaint):
                await one.transport.learn(2, sink=Sink(), learning=Pupil())
    finally:
        await server.stop(None)


async def test_a_peer_that_falls_silent_is_given_up(pair):
    one, two = pair
    source = Source(CONTENT)
    source.go_on.clear()
    two.host.source = lambda _: source
    with pytest.raises(SnapshotInterrupted, match=r"nothing came for 0\.05 s"):
        await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink(), stall_s=0.05)
    source.go_on.set()
    await eventually(lambda: source.closed == 1)


async def test_a_sink_that_fails_ends_the_fetch_with_its_own_error(pair):
    one, two = pair
    source = Source(CONTENT)
    two.host.source = lambda _: source

    class FullDisk:
        def write(self, data: bytes, /) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=FullDisk())
    await eventually(lambda: source.closed == 1)


async def test_a_cancelled_fetch_writes_nothing_afterwards(pair):
    one, two = pair
    source = Source(CONTENT)
    two.host.source = lambda _: source
    written, proceed = threading.Event(), threading.Event()

    class SlowSink:
        calls = 0
        running = False

        def write(self, data: bytes, /) -> None:
            self.calls += 1
            self.running = True
            written.set()
            proceed.wait(PATIENCE_S)
            self.running = False

    sink = SlowSink()
    fetch = asyncio.create_task(one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=sink))
    await eventually(written.is_set)
    fetch.cancel()
    await asyncio.sleep(0)
    assert not fetch.done(), "the write that is under way is waited for"
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert not sink.running
    assert sink.calls == 1
    await eventually(lambda: source.closed == 1)


async def test_no_more_snapshots_are_served_at_once_than_declared(pair):
    one, two = pair
    sources = [Source(CONTENT), Source(CONTENT)]
    for source in sources:
        source.go_on.clear()
    waiting = iter(sources)
    two.host.source = lambda _: next(waiting)
    sinks = [Sink(), Sink()]
    fetches = [asyncio.create_task(one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=sink)) for sink in sinks]
    await eventually(lambda: len(two.host.queries) == 2)
    with pytest.raises(SnapshotRefused, match="2 snapshots") as refused:
        await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink())
    assert refused.value.busy
    for source in sources:
        source.go_on.set()
    assert await asyncio.gather(*fetches) == [len(CONTENT)] * 2
    assert [sink.content for sink in sinks] == [CONTENT] * 2


async def test_messages_are_not_held_up_by_a_snapshot(pair):
    one, two = pair
    source = Source(CONTENT)
    source.go_on.clear()
    two.host.source = lambda _: source
    fetch = asyncio.create_task(one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink()))
    await eventually(lambda: two.host.queries)
    two.transport.send((1,), b"meanwhile")
    await one.host.until(lambda: one.host.messages == [b"meanwhile"])
    assert not fetch.done()
    source.go_on.set()
    await fetch


async def test_a_slow_sink_holds_its_source_back(pair):
    """Neither side holds a snapshot in memory: flow control reaches from the sink to the file."""
    one, two = pair
    chunk, chunks = 512 * 1024, 200
    source = Source(b"x" * chunk * chunks)
    two.host.source = lambda _: source
    first, proceed = threading.Event(), threading.Event()

    class SlowSink:
        size = 0

        def write(self, data: bytes, /) -> None:
            first.set()
            proceed.wait(PATIENCE_S)
            self.size += len(data)

    sink = SlowSink()
    fetch = asyncio.create_task(one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=sink))
    await eventually(first.is_set)
    seen = -1
    while seen != source.reads:
        # Until the source has stopped being read: nothing moves while the sink does not.
        seen = source.reads
        await asyncio.sleep(0.3)
    assert source.reads < chunks / 2
    proceed.set()
    assert await fetch == chunk * chunks
    assert sink.size == chunk * chunks


async def test_a_blocked_link_carries_no_snapshot(pair):
    one, two = pair
    source = Source(CONTENT)
    two.host.source = lambda _: source
    one.transport.set_faults({2: LinkFault(blocked=True)})
    with pytest.raises(SnapshotInterrupted, match="blocked"):
        await one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink())
    one.transport.set_faults({}, heal=True)

    two.transport.set_faults({1: LinkFault(blocked=True)})
    fetch = asyncio.create_task(one.transport.fetch_snapshot(2, frontier=0, epoch=1, sink=Sink()))
    await eventually(lambda: source.reads == 1)
    assert not fetch.done()
    two.transport.set_faults({}, heal=True)
    assert await fetch == len(CONTENT)


async def test_whoever_is_no_peer_is_not_asked(pair):
    one, _ = pair
    with pytest.raises(SnapshotInterrupted, match="not one of the peers"):
        await one.transport.fetch_snapshot(9, frontier=0, epoch=1, sink=Sink())


async def test_a_lesson_is_a_snapshot_and_what_follows_it_and_the_learner_says_how_far_it_is(pair):
    one, two = pair
    told = Told(Source(CONTENT), [b"first", b"", b"second", b"the end"])
    two.host.lesson = lambda _: told
    pupil, sink = Pupil(), Sink()
    await one.transport.learn(2, sink=sink, learning=pupil)
    assert sink.content == CONTENT
    assert pupil.taken == [b"first", b"second", b"the end"]
    await eventually(lambda: told.closed == 1)
    assert told.snapshot.closed == 1
    assert set(told.heard) <= {len(CONTENT), 1, 2}


@pytest.mark.parametrize("news", [[b"first"], [SnapshotUnserved("it was given up", busy=True)]])
async def test_a_lesson_that_ends_early_is_an_error(pair, news, monkeypatch):
    monkeypatch.setattr("replica.transport.snapshots.LAST_WORD_S", 0.1)
    one, two = pair
    told = Told(Source(CONTENT), news)
    two.host.lesson = lambda _: told
    # Why it ended is lost where the learner was about to say something.
    with pytest.raises(SnapshotError):
        await one.transport.learn(2, sink=Sink(), learning=Pupil())
    await eventually(lambda: told.closed == 1)


async def test_who_is_not_to_be_taught_is_refused(pair):
    one, _ = pair
    with pytest.raises(SnapshotRefused, match="nothing is taught here"):
        await one.transport.learn(2, sink=Sink(), learning=Pupil())
