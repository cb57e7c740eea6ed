"""Watches: who is told of which changes, and how far each has been told.

Theory of operation
-------------------
What a watch is told is a function of the history and of a place in it (`replica.kv.events`), so a watch costs the
replicated state nothing and any replica can serve it, or go on with it. This module decides when to tell whom.

A watch is in one of three states. It is *live* when it has been told everything up to ``told``, the one place where
all live watches stand. It is *behind* when it stands before that: it is read to from the history, a piece at a time,
as fast as its client takes them. It is *ahead* when it wants to begin at a revision that this replica has not reached.

Live watches that want the same (`Group`) are told together: what a turn has written is looked at once, each write
finds its groups by key, prefix or interval, and what a group is told is encoded once, however many watches and streams
it has. Telling a stream has its price, whatever is told (a message of gRPC), so with many streams news are held back
for as long as telling all of them takes; what comes meanwhile travels along. That leaves half of the time to everything
else, and a few streams hear at once.

**Everything is bounded.** What a client has not taken is counted a stream. A live watch whose stream is full is ended
as *slow*, with the revision to resume from; so are all others of the stream. Nobody is read to before there is room, so
a client that resumes, and takes its time, costs its place in the history and no more.

**Compaction** may overtake a watch that is behind. It is ended with the first revision that can still be told of.

Nothing here runs while there are no watches, but for one question a turn.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from replica.kv.events import Place, Selection, piece_of, size_of
from replica.kv.history import History
from replica.kv.operations import KEY_BYTES_MAX, REVISION_MAX, SYSTEM_PREFIX, WatchBatch, WatchEvent, prefix_end
from replica.wire import typed as wire

from .attachment import Attachment, News
from .config import Limits
from .metrics import NodeMetrics

__all__ = ["Watches"]

PIECE_BYTES_MAX: Final = 1 << 20
"""What is told at once, in bytes; a single event may be larger."""

PIECE_WRITES_MAX: Final = 2048
"""So many writes are looked at for one piece of the history."""

LIVE_WRITES_MAX: Final = 1 << 16
"""When more were written at once (a snapshot was installed), live watches are read to like those that are behind."""

ROOM_BYTES: Final = 2 << 20
"""A stream with less than this untaken is read to."""

PIECES_A_PASS: Final = 4
"""Pieces that are read in one pass of the event loop; turns come in between."""

STREAM_S: Final = 0.0001
"""About what it takes to tell one stream something."""

PROGRESS_S: Final = 5.0
"""How often live watches are told how far they have been told, though nothing concerned them."""

SLACK: Final = 64
"""So many watches that have ended may be kept among those ahead, beside one for each that has not."""

_encode: Final = msgspec.msgpack.Encoder().encode


class Watch:
    """One watch of one stream."""

    __slots__ = ("attachment", "ended", "group", "id", "place")

    def __init__(self, attachment: Attachment, id_: int, group: Group, place: Place) -> None:
        self.attachment = attachment
        self.id = id_
        self.group = group
        self.place = place
        """Up to where it has been told, unless it is live."""
        self.ended = False


class Group:
    """The watches that want the same: by stream, those of them that are live."""

    __slots__ = ("batches", "live", "selection", "size", "watches")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.watches = 0
        """All of them, live or not."""
        self.live: dict[Attachment, dict[int, Watch]] = {}
        self.batches: list[tuple[int, list[WatchEvent]]] = []
        """What is about to be told."""
        self.size = 0


class Index:
    """Finds the groups that a key concerns."""

    def __init__(self) -> None:
        self._keys: dict[bytes, list[Group]] = {}
        self._prefixes: dict[int, dict[bytes, list[Group]]] = {}
        self._intervals: list[Group] = []

    def add(self, group: Group) -> None:
        """Have the group found."""
        self._list_of(group.selection).append(group)

    def remove(self, group: Group) -> None:
        """Have it found no more."""
        selection = group.selection
        found = self._list_of(selection)
        found.remove(group)
        if found:
            return
        if _is_key(selection):
            del self._keys[selection.first]
        elif _is_prefix(selection):
            of_length = self._prefixes[len(selection.first)]
            del of_length[selection.first]
            if not of_length:
                del self._prefixes[len(selection.first)]

    def _list_of(self, selection: Selection) -> list[Group]:
        if _is_key(selection):
            return self._keys.setdefault(selection.first, [])
        if _is_prefix(selection):
            return self._prefixes.setdefault(len(selection.first), {}).setdefault(selection.first, [])
        return self._intervals

    def find(self, key: bytes) -> Iterator[Group]:
        """The groups that want to hear of the key."""
        if key.startswith(SYSTEM_PREFIX):
            yield from (group for group in self._all() if group.selection.holds(key))
            return
        if self._keys:
            yield from self._keys.get(key, ())
        for length, prefixes in self._prefixes.items():
            yield from prefixes.get(key[:length], ())
        for group in self._intervals:
            if group.selection.holds(key):
                yield group

    def _all(self) -> Iterator[Group]:
        for groups in self._keys.values():
            yield from groups
        for prefixes in self._prefixes.values():
            for groups in prefixes.values():
                yield from groups
        yield from self._intervals


def _is_key(selection: Selection) -> bool:
    return selection.last == selection.first + b"\x00"


def _is_prefix(selection: Selection) -> bool:
    return bool(selection.first) and selection.last == prefix_end(selection.first)


class Watches:
    """All watches of one replica. Called from the loop's thread alone."""

    def __init__(
        self,
        history: Callable[[], History],
        refusal: Callable[[], tuple[wire.Code, str] | None],
        *,
        limits: Limits,
        metrics: NodeMetrics,
        progress_s: float = PROGRESS_S,
    ) -> None:
        """``history`` gives that of the present state; ``refusal`` says why nothing can be watched here, if so."""
        self._history = history
        self._refusal = refusal
        self._limits = limits
        self._metrics = metrics
        self._progress_s = progress_s
        self._piece_bytes_max = min(PIECE_BYTES_MAX, limits.frame_bytes_max // 2)
        self._streams: dict[Attachment, dict[int, Watch]] = {}
        self._groups: dict[Selection, Group] = {}
        self._index = Index()
        self._live = 0
        self._told = 0
        """All live watches have been told everything up to here."""
        self._behind: dict[Watch, None] = {}
        self._ahead: list[tuple[int, int, Watch]] = []
        self._count = 0
        self._minted = 0
        self._untaken = 0
        self._telling: asyncio.TimerHandle | asyncio.Handle | None = None
        self._reading: asyncio.Handle | None = None
        self._progressing: asyncio.TimerHandle | None = None
        self._progressed = 0

    # ---------------------------------------------------------------------------------------------- coming and going

    def __len__(self) -> int:
        return self._count

    @property
    def active(self) -> bool:
        """Are there any? If not, `applied` need not be called."""
        return self._count > 0

    @property
    def behind(self) -> int:
        """Watches that are read to."""
        return len(self._behind)

    @property
    def untaken_bytes(self) -> int:
        """What clients have not taken, over all streams."""
        return self._untaken

    def open(self, attachment: Attachment, asked: wire.Watch, denied: tuple[wire.Code, str] | None = None) -> None:
        """A client asks for a watch; ``denied``: why it may not have it."""
        watches = self._streams.get(attachment, {})
        refusal = denied or self._refusal()
        if refusal is None and asked.id in watches:
            refusal = wire.Code.INVALID, f"watch {asked.id} of this stream exists already"
        if refusal is None and (wrong := _wrong(asked)):
            refusal = wire.Code.INVALID, wrong
        if refusal is None and len(watches) >= self._limits.session_watches_max:
            refusal = wire.Code.OVERLOADED, f"this stream has {len(watches)} watches already"
        if refusal is None and self._count >= self._limits.watches_max:
            refusal = wire.Code.OVERLOADED, f"this replica has {self._count} watches already"
        if refusal is not None:
            self._put(attachment, News.ended((asked.id,), refusal[0], refusal[1], asked.revision))
            attachment.wake()
            return
        history = self._history()
        first = asked.revision or history.revision + 1
        selection = Selection(asked.first, asked.last, not asked.no_puts, not asked.no_deletes, asked.previous)
        group = self._groups.get(selection)
        if group is None:
            group = self._groups[selection] = Group(selection)
        watch = Watch(attachment, asked.id, group, Place(first - 1))
        group.watches += 1
        if not watches:
            self._streams[attachment] = watches
            attachment.on_taken = self._taken
        watches[asked.id] = watch
        self._count += 1
        self._metrics.watches_opened += 1
        if first <= history.compacted:
            self._end(watch, wire.Code.COMPACTED, *_compacted(first, history.compacted))
            attachment.wake()
            return
        self._put(attachment, News.started((asked.id,), first))
        attachment.wake()
        self._place(watch)
        if self._progressing is None:
            self._progress_later()

    def _place(self, watch: Watch) -> None:
        """The watch is neither live nor behind nor ahead: find out which it is to be."""
        if not self._live:
            self._told = self._history().revision
        after = watch.place.after
        if after > self._told:
            self._minted += 1
            heapq.heappush(self._ahead, (after, self._minted, watch))
        elif after < self._told or watch.place.writes:
            self._behind[watch] = None
            self._read_soon()
        else:
            self._join(watch)

    def _join(self, watch: Watch) -> None:
        group = watch.group
        if not group.live:
            self._index.add(group)
        group.live.setdefault(watch.attachment, {})[watch.id] = watch
        self._live += 1
        if self._told < self._history().revision:
            self._tell_soon()

    def _leave(self, watch: Watch) -> None:
        """The watch is not live any more, if it was."""
        group = watch.group
        stream = group.live.get(watch.attachment)
        if stream is None or watch.id not in stream:
            return
        del stream[watch.id]
        self._live -= 1
        if not stream:
            del group.live[watch.attachment]
            if not group.live:
                self._index.remove(group)

    def cancel(self, attachment: Attachment, id_: int) -> None:
        """A client wants no more of a watch; of one that has ended, it may not have heard yet."""
        watch = self._streams.get(attachment, {}).get(id_)
        if watch is not None:
            self._forget(watch)

    def detach(self, attachment: Attachment) -> None:
        """The stream is gone, and its watches with it."""
        for watch in list(self._streams.get(attachment, {}).values()):
            self._forget(watch)
        self._untaken -= attachment.drop_news()

    def _forget(self, watch: Watch) -> None:
        self._leave(watch)
        self._behind.pop(watch, None)
        watch.ended = True  # it may still be found among those ahead
        group = watch.group
        group.watches -= 1
        if not group.watches:
            del self._groups[group.selection]
        watches = self._streams[watch.attachment]
        del watches[watch.id]
        if not watches:
            del self._streams[watch.attachment]
        self._count -= 1
        if len(self._ahead) > 2 * self._count + SLACK:
            self._ahead = [each for each in self._ahead if not each[2].ended]
            heapq.heapify(self._ahead)

    def _end(self, watch: Watch, code: wire.Code, message: str, revision: int) -> None:
        self._put(watch.attachment, News.ended((watch.id,), code, message, revision))
        self._forget(watch)

    def end_all(self, code: wire.Code, message: str) -> None:
        """This replica cannot tell anybody anything for now: clients are to turn to another."""
        for watches in list(self._streams.values()):
            for watch in list(watches.values()):
                self._end(watch, code, message, self._next(watch))
                watch.attachment.wake()

    def _next(self, watch: Watch) -> int:
        """The first revision that the watch was not told of as a whole."""
        return (self._told if _is_live(watch) else watch.place.after) + 1

    # ------------------------------------------------------------------------------------------------------- telling

    def applied(self) -> None:
        """Something was applied, or a snapshot installed."""
        if self._live:
            if self._telling is None and self._told < self._history().revision:
                self._tell_soon()
        elif self._count:
            self._told = self._history().revision
            self._promote()

    def _tell_soon(self) -> None:
        if self._telling is None:
            # In a pass of its own: what a turn has answered leaves first.
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """Tell live watches what was written since they were told last, and then no more for as long as that takes."""
        self._telling = None
        history = self._history()
        if not self._live:
            # Those that were to be told have gone meanwhile; whoever was ahead of them is not any more.
            self._told = history.revision
            self._promote()
            return
        if history.revision == self._told:
            return
        streams = self._tell_live(history)
        self._promote()
        self._telling = asyncio.get_running_loop().call_later(streams * STREAM_S, self._tell)

    def _tell_live(self, history: History) -> int:
        """Tell live watches everything up to the present revision; returns how many streams heard something."""
        first, revision = self._told + 1, history.revision
        if self._told < history.scavenged or revision - self._told > LIVE_WRITES_MAX:
            self._demote([watch for group in self._groups.values() for watch in _watches_of(group)])
            self._told = revision
            return 0
        heard: dict[Attachment, None] = {}
        too_much: list[Watch] = []
        for group in self._sort_out(history):
            batches, size = group.batches, group.size
            group.batches, group.size = [], 0
            if size > self._piece_bytes_max:
                too_much.extend(_watches_of(group))
                continue
            data = _encode([WatchBatch(each, tuple(events)) for each, events in batches])
            for attachment, watches in list(group.live.items()):
                if self._has_room(attachment, len(data)):
                    self._put(attachment, News.told(tuple(watches), data))
                else:
                    self._end_slow(list(watches.values()), first)
                heard[attachment] = None
        self._demote(too_much)  # they stand where all stood: the rest moves on
        self._told = revision
        for attachment in heard:
            attachment.wake()
        return len(heard)

    def _sort_out(self, history: History) -> Iterable[Group]:
        """Give each group the events that concern it; returns those that got any."""
        touched: dict[Group, None] = {}
        find = self._index.find
        # A list, because looking for previous values must not disturb the scan.
        for revision, key in list(history.changes(self._told)):
            for group in find(key):
                event = group.selection.event(history, revision, key)
                if event is None:
                    continue
                touched[group] = None
                if not group.batches or group.batches[-1][0] != revision:
                    group.batches.append((revision, []))
                group.batches[-1][1].append(event)
                group.size += size_of(event)
        return touched

    def _demote(self, watches: Iterable[Watch]) -> None:
        """Live watches are read to from here on, until they are live again."""
        for watch in watches:
            self._leave(watch)
            watch.place = Place(self._told)
            self._behind[watch] = None
            self._read_soon()

    def _has_room(self, attachment: Attachment, size: int) -> bool:
        untaken = attachment.news_bytes + size
        if untaken > self._limits.watch_stream_bytes_max:
            return False
        return untaken <= ROOM_BYTES or self._untaken + size <= self._limits.watch_bytes_max

    def _end_slow(self, watches: list[Watch], first: int) -> None:
        self._metrics.watches_ended_slow += len(watches)
        message = "the client does not take what it is told; it may resume when it has taken the rest"
        for watch in watches:
            self._end(watch, wire.Code.SLOW, message, first)

    def _promote(self) -> None:
        """See to those that wanted to begin where the others have come to now."""
        while self._ahead and (self._ahead[0][2].ended or self._ahead[0][0] <= self._told):
            _, _, watch = heapq.heappop(self._ahead)
            if not watch.ended:
                self._place(watch)

    # ------------------------------------------------------------------------------------------------------- reading

    def _read_soon(self) -> None:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        """Read to those that are behind and take it, those at one place together."""
        self._reading = None
        history = self._history()
        if not self._live:
            self._told = history.revision
        together: dict[tuple[Group, Place], list[Watch]] = {}
        for watch in self._behind:
            if watch.attachment.news_bytes < ROOM_BYTES:
                together.setdefault((watch.group, watch.place), []).append(watch)
        for (group, place), watches in islice(together.items(), PIECES_A_PASS):
            self._read_piece(history, group, place, watches)
        if together:
            self._read_soon()  # until there is nobody left, or no room

    def _read_piece(self, history: History, group: Group, place: Place, watches: list[Watch]) -> None:
        if place.after < history.scavenged:
            for watch in watches:
                self._end(watch, wire.Code.COMPACTED, *_compacted(place.after + 1, history.compacted))
                watch.attachment.wake()
            return
        piece = piece_of(
            history,
            group.selection,
            place,
            until=self._told,
            writes_max=PIECE_WRITES_MAX,
            bytes_max=self._piece_bytes_max,
        )
        if piece.batches:
            data = _encode(piece.batches)
            streams: dict[Attachment, list[int]] = {}
            for watch in watches:
                streams.setdefault(watch.attachment, []).append(watch.id)
            for attachment, ids in streams.items():
                self._put(attachment, News.told(tuple(ids), data, partial=piece.partial))
                attachment.wake()
        for watch in watches:
            watch.place = piece.place
            del self._behind[watch]
            self._place(watch)

    # ------------------------------------------------------------------------------------------------------ progress

    def _progress_later(self) -> None:
        self._progressing = asyncio.get_running_loop().call_later(self._progress_s, self._progress)

    def _progress(self) -> None:
        """Say how far they have come to those who have heard nothing because nothing concerned them."""
        self._progressing = None
        if not self._count:
            return
        self._progress_later()
        if not self._live or self._told == self._progressed:
            return
        self._progressed = self._told
        for attachment, watches in self._streams.items():
            ids = tuple(watch.id for watch in watches.values() if _is_live(watch))
            if ids and attachment.news_bytes < ROOM_BYTES:
                self._put(attachment, News.progressed(ids, self._told))
                attachment.wake()

    def _put(self, attachment: Attachment, news: News) -> None:
        attachment.put_news(news)
        self._untaken += news.size

    def _taken(self, size: int) -> None:
        """A stream has taken so many bytes of news."""
        self._untaken -= size
        if self._behind:
            self._read_soon()


def _watches_of(group: Group) -> list[Watch]:
    return [watch for stream in group.live.values() for watch in stream.values()]


def _is_live(watch: Watch) -> bool:
    return watch.id in watch.group.live.get(watch.attachment, ())


def _compacted(first: int, compacted: int) -> tuple[str, int]:
    """What is said of a watch that wants to begin at ``first``."""
    text = f"the changes at revision {first} have been compacted away: the first that are still known are at {{}}"
    return text.format(compacted + 1), compacted + 1


def _wrong(asked: wire.Watch) -> str:
    """What is wrong with a watch that was asked for, in words."""
    if len(asked.first) > KEY_BYTES_MAX or len(asked.last) > KEY_BYTES_MAX + 1:
        return f"an end of an interval has at most {KEY_BYTES_MAX} bytes"
    if asked.last and asked.first >= asked.last:
        return "the interval is empty"
    if asked.no_puts and asked.no_deletes:
        return "a watch without puts and without deletions would be told nothing"
    if asked.revision > REVISION_MAX:
        return f"revision {asked.revision} is none: the largest is {REVISION_MAX}"
    return ""
