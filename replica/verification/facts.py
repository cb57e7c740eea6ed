"""What the answers of one part show of single keys, whatever the operations of unknown outcome did.

An item carries the revision at which its key was last written and, where recorded, that of its creation and the number
of writes since. So it *pins* whoever wrote it to a revision; it says that nobody wrote the key from then until it was
seen; and where versions have jumped by more than the known writes, it says that somebody unseen wrote in between.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from .models import Entry, Part, Place
from .replay import Gaps
from .verdict import Violation
from .vocabulary import Add, Answer, Put, Range, RecordedItem, Transaction, items_of, parts_of


class Pin(msgspec.Struct, frozen=True):
    """Items that were seen to have been written at one revision."""

    items: dict[str, RecordedItem]
    seen_by: Entry


class Jump(msgspec.Struct):
    """Between two revisions, so many writes of a key are missing that its versions count."""

    first: int
    last: int
    missing: int


class Facts:
    """What the answers of one part show of single keys."""

    def __init__(self, part: Part, gaps: Gaps) -> None:
        self.part = part
        self.uncertain = sorted((entry for entry in part.entries if not entry.certain), key=floor_of)
        self.settled: set[int] = set()
        self.pins: dict[int, Pin] = {}
        """Gaps at which somebody saw a key written."""
        self._gaps = gaps
        self._makers: dict[int, Entry] = {}
        """Who made a revision."""
        self._writes: dict[str, list[int]] = defaultdict(list)
        """Revisions at which a key is known to have been put, in order once all are known."""
        self._versions: dict[str, dict[int, tuple[int, int, int]]] = defaultdict(dict)
        """Revisions at which a key was seen to have been written: its creation and version, and until when it was seen
        like that."""
        self._mods: dict[str, list[int]] = {}
        self._puts: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        self._others: list[Entry] = []
        for entry in self.uncertain:
            if isinstance(entry.action, Put):
                self._puts[entry.action.key, entry.action.value].append(entry)
            else:
                self._others.append(entry)
        for entry in part.entries:
            if entry.certain and entry.place is not None and entry.place[1] == 0:
                self._makers[entry.place[0]] = entry
                for key in keys_written(entry):
                    self._writes[key].append(entry.place[0])
        for revisions in self._writes.values():
            revisions.sort()

    def contradiction(self) -> Violation | None:
        """An item that cannot have been seen, whatever the uncertain did. Notes all others."""
        for entry in self.part.entries:
            if entry.answer is None or entry.place is None:
                continue
            revision, seen = entry.place
            found = revision if seen else revision - 1  # the state that it found, before any writes of its own
            for key, item in shown_items(entry.action, entry.answer):
                if item.mod is None:
                    continue
                if (refutation := self._refutation(key, item, found)) is not None:
                    return self._violation(entry, *refutation)
                self._note(entry, key, item, found)
        return None

    def _refutation(self, key: str, item: RecordedItem, found: int) -> tuple[str, int] | None:
        """Why nobody can have seen the item at the revision ``found``, and the operation that shows it."""
        assert item.mod is not None
        writes = self._writes[key]
        later = bisect_right(writes, item.mod)
        if later < len(writes) and writes[later] <= found:
            maker = self._makers[writes[later]].operation
            return (
                f"it shows {key!r} as of revision {item.mod}, at revision {found}, but {maker} (operation {maker.id}) "
                f"wrote it at revision {writes[later]}"
            ), maker.id
        by = self._makers.get(item.mod)
        if by is not None and isinstance(by.action, Put):
            action = by.action
            if action.key != key or item.value not in {None, action.value}:
                return (
                    f"it shows {key!r} with the value {item.value!r} of revision {item.mod}, but that revision was "
                    f"made by {by.operation} (operation {by.operation.id})"
                ), by.operation.id
        return None

    def _note(self, entry: Entry, key: str, item: RecordedItem, found: int) -> None:
        mod, create = item.mod, item.create
        assert mod is not None
        if mod in self._gaps:
            self._add_pin(mod, key, item, entry)
        if create is None:
            return
        if create != mod and create in self._gaps:
            self._add_pin(create, key, RecordedItem(key=key, create=create, mod=create), entry)
        if item.version is not None:
            known = self._versions[key].get(mod, (create, item.version, mod))
            self._versions[key][mod] = (*known[:2], max(known[2], found))

    def _add_pin(self, gap: int, key: str, item: RecordedItem, entry: Entry) -> None:
        pin = self.pins.get(gap)
        if pin is None:
            pin = self.pins[gap] = Pin({}, entry)
        known = pin.items.get(key)
        if known is None or known.value is None:
            pin.items[key] = item

    def is_quiet(self, key: str, revision: int) -> bool:
        """Is it known that nobody put the key at this revision, since it was seen unchanged across it?"""
        seen = self._versions.get(key)
        if not seen:
            return False
        if self._mods.get(key) is None or len(self._mods[key]) != len(seen):
            self._mods[key] = sorted(seen)
        mods = self._mods[key]
        index = bisect_right(mods, revision) - 1
        return index >= 0 and mods[index] < revision <= seen[mods[index]][2]

    def candidates(self, pin: Pin) -> list[Entry]:
        """The uncertain entries that could have written all items of the pin, by floor."""
        others = [entry for entry in self._others if could_write(entry, pin.items)]
        if len(pin.items) > 1:
            return others
        ((key, item),) = pin.items.items()
        if item.value is not None:
            puts = self._puts.get((key, item.value), [])
        else:
            puts = [entry for entry in self.uncertain if isinstance(entry.action, Put) and entry.action.key == key]
        return sorted([*puts, *others], key=floor_of) if others else puts

    def unwritten(self, gap: int, pin: Pin) -> Violation:
        """Nobody can have written what the pin shows."""
        key, item = next(iter(pin.items.items()))
        value = "" if item.value is None else f" with the value {item.value!r}"
        return self._violation(
            pin.seen_by, f"it shows {key!r}{value} of revision {gap}, but nobody who could can have made that revision"
        )

    def settle(self, gap: int, entry: Entry) -> None:
        """From now on ``entry`` is taken to have made the revision ``gap``."""
        self.settled.add(id(entry))
        action = entry.action
        for key in keys_put((action,) if isinstance(action, Put | Add) else getattr(action, "then", ())):
            insort(self._writes[key], gap)

    def jumps(self) -> dict[str, list[Jump]]:
        """Where keys have had more writes than are known, in the order of revisions."""
        found: dict[str, list[Jump]] = {}
        for key, versions in self._versions.items():
            known = self._writes[key]
            creation = counted = since = until = 0  # the last version that is accounted for, and its time
            for mod, (create, version, last_seen) in sorted(versions.items()):
                if create != creation:
                    creation = since = until = create
                    counted = 1
                missing = version - counted - (bisect_right(known, mod) - bisect_right(known, since))
                if missing > 0:
                    found.setdefault(key, []).append(Jump(until, mod, missing))
                counted, since, until = version, mod, last_seen
        return found

    def _violation(self, entry: Entry, reason: str, *related: int) -> Violation:
        """``entry`` cannot be explained; what stands before it, of those that are certain, serves as the prefix."""
        stands = sorted(
            (each for each in self.part.entries if each.place is not None and each.place < place_of(entry)),
            key=place_of,
        )
        return Violation(
            where=self.part.label,
            reason=f"{entry.operation} cannot have answered so: {reason}",
            stuck=entry.operation.id,
            prefix=tuple(each.operation.id for each in stands),
            related=related,
            concerned=tuple(each.operation.id for each in self.part.near(entry)),
        )


def shown_items(action: Any, answer: Answer) -> Iterator[tuple[str, RecordedItem]]:
    """The items in an answer, by key; an item of an operation on one key need not name it."""
    if isinstance(action, Transaction):
        branch = action.then if answer.succeeded else action.otherwise
        for each, result in zip(branch, answer.results or (), strict=False):
            yield from shown_items(each, result)
        return
    for item in items_of(answer):
        key = item.key if item.key is not None else getattr(action, "key", None)
        if key is not None:
            blank = isinstance(action, Range) and action.keys_only
            yield (
                key,
                RecordedItem(
                    key=key, value=None if blank else item.value, create=item.create, mod=item.mod, version=item.version
                ),
            )


def keys_put(operations: Iterable[Any]) -> list[str]:
    return [each.key for each in operations if isinstance(each, Put | Add)]


def keys_written(entry: Entry) -> list[str]:
    """The keys that a certain entry which changed something is known to have put."""
    action = entry.action
    if isinstance(action, Transaction):
        if entry.answer is not None:
            return keys_put(action.then if entry.answer.succeeded else action.otherwise)
        return [] if action.conditions else keys_put(action.then)
    return keys_put((action,))


def could_write(entry: Entry, seen: dict[str, RecordedItem]) -> bool:
    """Could the uncertain entry have written all these?"""
    parts = list(parts_of(entry.action))
    for key, item in seen.items():
        for part in parts:
            if isinstance(part, Add) and part.key == key:
                break
            if isinstance(part, Put) and part.key == key and item.value in {None, part.value}:
                break
        else:
            return False
    return True


def place_of(entry: Entry) -> Place:
    assert entry.place is not None
    return entry.place


def floor_of(entry: Entry) -> int:
    return entry.floor
