"""The engine of watches, fed by hand."""

from typing import Any

import msgspec
import pytest

from replica.client import watches
from replica.client.errors import Compacted, InvalidArgument, Overloaded, Unsupported
from replica.client.watches import RETRY_S, Watch, WatchEngine, WatchOptions
from replica.kv.operations import KeyValue, WatchBatch, WatchEvent
from replica.wire.typed import (
    WIRE_VERSION,
    ClientFrame,
    Code,
    Endpoint,
    Limits,
    Rejection,
    ServerFrame,
    WatchEnded,
    WatchNews,
)

EVERYTHING = WatchOptions(b"", b"")


def batch(revision: int, *keys: bytes) -> WatchBatch:
    return WatchBatch(revision, tuple(WatchEvent(KeyValue(key, b"", revision, revision, 1)) for key in keys))


class Driven:
    """An engine at a replica that is played by hand."""

    def __init__(self, **options: Any) -> None:
        self.engine = WatchEngine(**options)
        self.now = 0.0

    def attach(self, watches_max: int = 100) -> ClientFrame | None:
        """A stream is made and welcomed; what the client says next."""
        self.engine.attaching()
        welcome = ServerFrame.Welcome(wire_version=WIRE_VERSION, replica=1, limits=Limits(watches_max=watches_max))
        self.engine.received(ServerFrame(welcome=welcome), self.now)
        return self.engine.next_frame(self.now)

    def open(self, revision: int = 0, options: WatchOptions = EVERYTHING) -> Watch:
        return self.engine.open(options, revision, lambda: None)

    def tell(self, *ids: int, partial: bool = False, **content: Any) -> None:
        if "batches" in content:
            content["batches"] = msgspec.msgpack.encode(content["batches"])
        self.engine.received(ServerFrame(watch_news=[WatchNews(ids=ids, partial=partial, **content)]), self.now)

    def end(self, id_: int, code: Code, revision: int = 0) -> None:
        self.tell(id_, ended=WatchEnded(code=code, message="why", revision=revision))


def asked(frame: ClientFrame | None) -> list[tuple[int, int]]:
    assert frame is not None
    return [(watch.id, watch.revision) for watch in frame.watches]


def taken(watch: Watch) -> list[int]:
    revisions = []
    while (item := watch.take()) is not None:
        revisions.append(item.revision)
    return revisions


@pytest.fixture
def driven() -> Driven:
    return Driven()


def test_watches_are_asked_for_once_the_stream_is_welcomed(driven):
    driven.open(7)
    assert driven.engine.next_frame(0.0) is None
    assert asked(driven.attach()) == [(1, 7)]
    assert driven.engine.next_frame(0.0) is None
    driven.open()
    assert asked(driven.engine.next_frame(0.0)) == [(2, 0)]


def test_on_another_stream_a_watch_goes_on_behind_the_last_revision_it_heard_of(driven):
    watch = driven.open(3)
    driven.attach()
    driven.tell(1, started=3)
    driven.tell(1, batches=[batch(3, b"a"), batch(5, b"b")])
    driven.engine.detached()
    assert asked(driven.attach()) == [(2, 6)]
    driven.tell(2, batches=[batch(6, b"c")])
    assert taken(watch) == [3, 5, 6]


def test_a_watch_of_what_comes_next_goes_on_where_it_began(driven):
    driven.open()
    driven.attach()
    driven.tell(1, started=12)
    driven.engine.detached()
    assert asked(driven.attach()) == [(2, 12)]


def test_what_is_told_twice_is_passed_over(driven):
    watch = driven.open(1)
    driven.attach()
    driven.tell(1, batches=[batch(1, b"a"), batch(2, b"b")])
    driven.tell(1, batches=[batch(2, b"b"), batch(3, b"c")])
    driven.tell(77, batches=[batch(4, b"nobody's")])
    assert taken(watch) == [1, 2, 3]


def test_a_revision_in_pieces_is_put_together_and_begun_again_when_the_stream_breaks_within(driven):
    watch = driven.open(1)
    driven.attach()
    driven.tell(1, batches=[batch(1, b"a")])
    driven.tell(1, batches=[batch(2, b"b")], partial=True)
    assert taken(watch) == [1]
    driven.engine.detached()
    assert asked(driven.attach()) == [(2, 2)]
    driven.tell(2, batches=[batch(2, b"b")], partial=True)
    driven.tell(2, batches=[batch(2, b"c")], partial=True)
    driven.tell(2, batches=[WatchBatch(2, ()), batch(3, b"d")])
    whole = watch.take()
    assert whole is not None
    assert (whole.revision, [event.key for event in whole.events]) == (2, [b"b", b"c"])
    assert taken(watch) == [3]


def test_progress_moves_the_place_on_and_is_shown_to_whoever_asked(driven):
    quiet = driven.open(1)
    shown = driven.open(1, WatchOptions(b"", b"", progress=True))
    driven.attach()
    driven.tell(1, 2, progress=9)
    driven.tell(1, 2, progress=9)
    assert (taken(quiet), taken(shown)) == ([], [9])
    driven.engine.detached()
    assert asked(driven.attach()) == [(3, 10), (4, 10)]


def test_whoever_does_not_take_rests_until_it_has(driven, monkeypatch):
    monkeypatch.setattr(watches, "BUFFERED_BYTES_MAX", 40)
    watch = driven.open(1)
    driven.attach()
    for revision in range(1, 10):
        driven.tell(1, batches=[batch(revision, b"a" * 20)])
    assert watch.resting
    frame = driven.engine.next_frame(0.0)
    assert frame is not None
    assert (list(frame.unwatch), list(frame.watches)) == ([1], [])
    heard = taken(watch)
    assert heard == list(range(1, len(heard) + 1))
    assert len(heard) < 9
    assert driven.engine.taken(watch)
    assert asked(driven.engine.next_frame(0.0)) == [(2, len(heard) + 1)]


def test_compaction_ends_a_watch_with_the_revision_to_resume_from(driven):
    watch = driven.open(1)
    driven.attach()
    driven.end(1, Code.COMPACTED, 8)
    assert isinstance(watch.error, Compacted)
    assert (watch.error.revision, watch.ended, driven.engine.idle) == (8, True, True)


@pytest.mark.parametrize(("code", "error"), [(Code.INVALID, InvalidArgument), (Code.UNSUPPORTED, Unsupported)])
def test_what_no_replica_will_do_ends_a_watch(driven, code, error):
    watch = driven.open()
    driven.attach()
    driven.end(1, code)
    assert isinstance(watch.error, error)


def test_a_watch_that_was_too_slow_is_asked_for_again_at_once(driven):
    driven.open(1)
    driven.attach()
    driven.tell(1, batches=[batch(1, b"a")])
    driven.end(1, Code.SLOW, 2)
    assert asked(driven.engine.next_frame(0.0)) == [(2, 2)]


def test_a_replica_without_room_is_asked_again_after_a_while(driven):
    driven.open(1)
    driven.attach()
    driven.end(1, Code.OVERLOADED)
    assert driven.engine.next_frame(0.0) is None
    assert driven.engine.next_retry() == RETRY_S
    assert asked(driven.engine.next_frame(RETRY_S)) == [(2, 1)]


def test_a_replica_that_can_tell_nothing_is_left_for_another(driven):
    driven.open(4)
    driven.attach()
    driven.end(1, Code.UNAVAILABLE)
    assert driven.engine.take_wish() is not None
    driven.engine.detached()
    assert asked(driven.attach()) == [(2, 4)]


def test_a_replica_that_refuses_the_stream_is_left_for_another(driven):
    driven.open()
    driven.engine.attaching()
    rejection = Rejection(code=Code.WRONG_CLUSTER, definite=True, message="another one")
    driven.engine.received(ServerFrame(rejections=[rejection]), 0.0)
    wish = driven.engine.take_wish()
    assert wish is not None
    assert wish.mismatch


def test_replicas_of_a_release_without_watches_are_named_as_such(driven):
    watch = driven.open()
    driven.attach(watches_max=0)
    assert isinstance(watch.error, Unsupported)


def test_a_nearer_replica_is_gone_to_once():
    driven = Driven(region="here")
    driven.open()
    driven.engine.attaching()
    endpoints = [Endpoint(replica=1, address="far", region="there"), Endpoint(replica=2, address="near", region="here")]
    welcome = ServerFrame.Welcome(
        wire_version=WIRE_VERSION, replica=1, limits=Limits(watches_max=9), endpoints=endpoints
    )
    driven.engine.received(ServerFrame(welcome=welcome), 0.0)
    wish = driven.engine.take_wish()
    assert wish is not None
    assert wish.hint == "near"
    driven.engine.received(ServerFrame(welcome=welcome), 0.0)
    assert driven.engine.take_wish() is None


def test_a_closed_watch_is_cancelled_at_the_replica(driven):
    watch = driven.open(1)
    driven.attach()
    driven.engine.close(watch)
    frame = driven.engine.next_frame(0.0)
    assert frame is not None
    assert list(frame.unwatch) == [1]
    driven.tell(1, batches=[batch(1, b"late")])
    assert taken(watch) == []


def test_there_are_only_so_many_watches_and_so_many_at_one_replica(driven, monkeypatch):
    monkeypatch.setattr(watches, "WATCHES_MAX", 3)
    opened = [driven.open(1) for _ in range(3)]
    with pytest.raises(Overloaded):
        driven.open(1)
    assert len(asked(driven.attach(watches_max=2))) == 2
    driven.engine.close(opened[0])
    assert len(asked(driven.engine.next_frame(0.0))) == 1


def test_changes_that_cannot_be_read_are_a_reason_to_leave(driven):
    driven.open(1)
    driven.attach()
    with pytest.raises(ValueError, match="cannot be read"):
        driven.engine.received(ServerFrame(watch_news=[WatchNews(ids=[1], batches=b"\xc1")]), 0.0)
