"""Learning what one has missed: comparing how far objects are, and handing over those that somebody lacks.

A decision is announced once. Every replica counts the changes of its objects; whoever sees that a peer's objects stand
elsewhere than its own asks which have changed since it last asked, by name, and an object that stays behind for a while
is fetched as it stands there: value, version and sessions, made durable and then installed. So a replica that has
missed everything is brought up object by object, and nothing that it knows better is ever taken back.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from replica.consensus.interface import Objects, ReplicaId

from .contacts import Contacts
from .log import Logs, ObjectLog
from .messages import Alive, Changes, Compare, Fetch, Handed, Handing, Reached
from .state import ITEMS_MAX, Core

LACKING_MAX: Final = 8192
"""Objects known to be behind; while there are so many nobody is asked for more."""

FETCHED_MAX: Final = 256
"""Objects asked for in one tick."""

HANDED_BYTES_MAX: Final = 8 << 20
"""Bytes of images handed out for one question; the rest is asked for again."""

_MASK: Final = (1 << 64) - 1


class _Lack:
    __slots__ = ("peer", "position", "due")

    def __init__(self, peer: ReplicaId, position: int, due: float) -> None:
        self.peer = peer
        self.position = position
        self.due = due


class CatchUps:
    """What this replica tells, asks for and is asked for."""

    def __init__(self, core: Core, logs: Logs, contacts: Contacts, objects: Objects) -> None:
        self._core = core
        self._logs = logs
        self._contacts = contacts
        self._objects = objects
        self._feed: list[str] = []
        """Objects in the order in which they changed."""
        self._base = 0
        """Changes before the feed begins."""
        self._latest: dict[str, int] = {}
        """By object, the number of its last change."""
        self._peers: dict[ReplicaId, Alive] = {}
        self._cursors: dict[ReplicaId, tuple[int, int]] = {}
        """By peer: its incarnation, and up to which change it has told."""
        self._lacking: dict[str, _Lack] = {}
        self._compare_at = 0.0

    def start(self) -> None:
        """Everything that there is counts as changed."""
        for log in self._logs.by_name.values():
            if log.delivered:
                self.changed(log)

    def changed(self, log: ObjectLog) -> None:
        """An object has got further."""
        self._feed.append(log.name)
        self._latest[log.name] = self._base + len(self._feed)
        if len(self._feed) > 2 * len(self._latest) + ITEMS_MAX:
            # Only the last change of each object counts; those that are kept get numbers of their own.
            kept = sorted(self._latest, key=lambda name: self._latest[name])
            self._base += len(self._feed)
            self._feed = kept
            self._latest = {name: self._base + number for number, name in enumerate(kept, 1)}

    # --------------------------------------------------------------------------------------------------------- telling

    def tick(self) -> None:
        """Give a sign of life; ask a peer what has changed, and for what has been lacking for a while."""
        core = self._core
        core.broadcast(
            Alive(
                core.incarnation,
                self._base + len(self._feed),
                self._logs.standing & _MASK,
                self._contacts.present(),
            )
        )
        if core.now >= self._compare_at and len(self._lacking) < LACKING_MAX:
            self._compare_at = core.now + core.options.retransmit_s / 2
            for peer in self._peers:
                self._compare(peer)
        due = [name for name, lack in self._lacking.items() if lack.due <= core.now]
        for name in islice(due, FETCHED_MAX):
            lack, log = self._lacking[name], self._logs[name]
            if log.delivered >= lack.position:
                del self._lacking[name]
            else:
                self._fetch(log, lack)

    def on_alive(self, sender: ReplicaId, message: Alive) -> None:
        """How a peer's objects stand."""
        self._peers[sender] = message

    def _compare(self, peer: ReplicaId) -> None:
        alive = self._peers[peer]
        incarnation, told = self._cursors.get(peer, (0, 0))
        if incarnation != alive.incarnation:
            told = 0
        if alive.standing == self._logs.standing & _MASK:
            told = alive.sequence
        self._cursors[peer] = (alive.incarnation, told)
        if told < alive.sequence:
            self._core.send(peer, Compare(alive.incarnation, told))

    def on_compare(self, sender: ReplicaId, message: Compare) -> None:
        """A peer asks which objects have changed."""
        core = self._core
        if message.incarnation != core.incarnation:
            return
        start = max(0, message.after - self._base)
        stretch = self._feed[start : start + ITEMS_MAX]
        first = self._base + start + 1
        reached = tuple(
            Reached(name, self._logs.by_name[name].delivered)
            for number, name in enumerate(stretch, first)
            if self._latest[name] == number
        )
        core.send(sender, Changes(core.incarnation, message.after, first + len(stretch) - 1, reached))

    def on_changes(self, sender: ReplicaId, message: Changes) -> None:
        """Which have. What is only on its way will have come before it is asked for."""
        if self._cursors.get(sender) != (message.incarnation, message.after):
            return
        self._cursors[sender] = (message.incarnation, message.upto)
        due = self._core.now + self._core.options.retransmit_s
        for reached in message.reached:
            log = self._logs[reached.name]
            lack = self._lacking.get(reached.name)
            if reached.position > log.delivered and (lack is None or lack.position < reached.position):
                self._lacking[reached.name] = _Lack(sender, reached.position, due if lack is None else lack.due)
        alive = self._peers.get(sender)
        if alive is not None and message.upto < alive.sequence and len(self._lacking) < LACKING_MAX:
            self._core.send(sender, Compare(message.incarnation, message.upto))

    # -------------------------------------------------------------------------------------------------------- fetching

    def lacks(self, log: ObjectLog, peer: ReplicaId, position: int) -> None:
        """A claim can't go on without what ``peer`` has delivered up to ``position``."""
        lack = self._lacking.get(log.name)
        if lack is None or lack.position < position:
            self._lacking[log.name] = lack = _Lack(peer, position, self._core.now)
        if lack.due <= self._core.now:
            lack.peer = peer
            self._fetch(log, lack)

    def _fetch(self, log: ObjectLog, lack: _Lack) -> None:
        core = self._core
        lack.due = core.now + core.options.retransmit_s
        peer = lack.peer
        if self._contacts.suspects(peer):
            # Whoever told may be gone; what is decided, others may have heard of as well.
            present = self._contacts.present()
            if present:
                peer = present[core.randomness.randrange(0, len(present))]
        core.post(peer, Fetch, Reached(log.name, log.delivered))

    def on_fetch(self, sender: ReplicaId, message: Fetch) -> None:
        """A peer can't go on: hand it the objects that are further here."""
        size = 0
        for reached in message.reached:
            position, image = self._objects.export(reached.name)
            if position > reached.position:
                self._core.post(sender, Handed, Handing(reached.name, position, image), len(image))
                size += len(image)
                if size >= HANDED_BYTES_MAX:
                    return

    def on_handed(self, sender: ReplicaId, message: Handed) -> None:
        """Objects have come."""
        for handing in message.objects:
            self._logs.keep_image(self._logs[handing.name], handing.position, handing.image)

    def check(self) -> None:
        """Assert the bounds of what is kept."""
        assert len(self._feed) <= 2 * len(self._latest) + ITEMS_MAX
        assert len(self._lacking) <= LACKING_MAX + len(self._peers) * ITEMS_MAX + len(self._latest) + ITEMS_MAX
