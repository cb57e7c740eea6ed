"""A network that delays, loses, duplicates, reorders, partitions and resets, between any two endpoints.

Endpoints are replicas (their ids) and clients (negative numbers). A *frame* is whatever one side hands over at once; it
arrives whole or not at all. Between two endpoints there is a *link* in each direction, and over it runs a stream, which
is known by its connection number: once a frame of a later connection has arrived, older frames are dropped on arrival,
as the transport does by its greetings.

What a blocked link does with a frame is drawn when the link is blocked: it *drops* frames (a firewall), or *holds* them
and lets them go when it is unblocked (TCP keeps sending: a burst of old messages follows a short partition).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from math import exp
from typing import Any, TypeAlias

import msgspec

from replica.simulation.world import World

Endpoint: TypeAlias = int
"""A replica's id, or a negative number for a client."""

HELD_FRAMES_MAX = 256
"""Frames that a holding link keeps, per direction; beyond that the oldest are lost, as from a bounded queue."""


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How a link behaves while nothing in particular is wrong. Times in seconds, rates as probabilities a frame."""

    delay_s: float = 0.001
    """The least time that a frame takes."""
    jitter_s: float = 0.0005
    """Mean of the exponential delay that is added."""
    tail: float = 0.0
    """How often a frame takes `tail_s` longer."""
    tail_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """How often a frame may overtake and be overtaken; the others keep their order."""

    def healed(self) -> LinkProfile:
        """The same link without faults."""
        return LinkProfile(delay_s=self.delay_s, jitter_s=self.jitter_s)


class _Link:
    """One direction between two endpoints."""

    __slots__ = ("accepted", "blocked", "connection", "factor", "held", "last_arrival", "profile")

    def __init__(self, profile: LinkProfile, factor: float) -> None:
        self.profile = profile
        self.factor = factor
        self.blocked = ""  # "", "drop" or "hold"
        self.held: list[tuple[int, Any]] = []
        self.connection = 1
        self.accepted = 0
        self.last_arrival = 0.0


class Network:
    """Carries frames between endpoints of one world."""

    def __init__(
        self,
        world: World,
        profile: LinkProfile,
        client_profile: LinkProfile | None = None,
        *,
        spread: float = 0.0,
    ) -> None:
        """``profile`` is that of links between replicas, ``client_profile`` of those with a client at one end.

        The delays of each link are multiplied by a factor of its own between ``e**-spread`` and ``e**spread``.
        """
        self._spread = spread
        self._world = world
        self._random: random.Random = world.generator("network")
        self._profile = profile
        self._client_profile = client_profile or profile
        self._links: dict[tuple[Endpoint, Endpoint], _Link] = {}
        self._receivers: dict[Endpoint, Callable[[Endpoint, Any], None]] = {}

    # ------------------------------------------------------------------------------------------------------ frames

    def register(self, endpoint: Endpoint, receive: Callable[[Endpoint, Any], None]) -> None:
        """Frames for ``endpoint`` are handed to ``receive(sender, frame)``."""
        self._receivers[endpoint] = receive

    def send(self, source: Endpoint, target: Endpoint, frame: Any, *, transfer_s: float = 0.0) -> None:
        """Hand over a frame; ``transfer_s`` is what its size adds to the delay."""
        link = self._link(source, target)
        if link.blocked:
            self._stop(link, link.connection, frame)
            return
        draw = self._random.random
        profile = link.profile
        if profile.loss and draw() < profile.loss:
            self._world.count("frames lost")
            return
        self._carry(source, target, link, frame, transfer_s)
        if profile.duplication and draw() < profile.duplication:
            self._world.count("frames duplicated")
            self._carry(source, target, link, frame, transfer_s)

    def _carry(self, source: Endpoint, target: Endpoint, link: _Link, frame: Any, transfer_s: float) -> None:
        profile = link.profile
        draw = self._random
        delay = (profile.delay_s + draw.expovariate(1.0) * profile.jitter_s) * link.factor + transfer_s
        if profile.tail and draw.random() < profile.tail:
            delay += draw.uniform(0.0, 2.0) * profile.tail_s
        arrival = self._world.now + delay
        if profile.reordering and draw.random() < profile.reordering:
            if arrival < link.last_arrival:
                self._world.count("frames reordered")
        else:
            arrival = max(arrival, link.last_arrival)
            link.last_arrival = arrival
        self._world.at(arrival, self._arrive, source, target, link.connection, frame)

    def _arrive(self, source: Endpoint, target: Endpoint, connection: int, frame: Any) -> None:
        link = self._link(source, target)
        if link.blocked:
            self._stop(link, connection, frame)
            return
        if connection < link.accepted:
            self._world.count("frames of an older connection dropped")
            return
        link.accepted = connection
        self._receivers[target](source, frame)

    def _stop(self, link: _Link, connection: int, frame: Any) -> None:
        if link.blocked == "drop":
            self._world.count("frames lost in a partition")
            return
        link.held.append((connection, frame))
        if len(link.held) > HELD_FRAMES_MAX:
            del link.held[0]

    # ------------------------------------------------------------------------------------------------------ faults

    def block(self, pairs: Iterable[tuple[Endpoint, Endpoint]], *, hold: bool) -> None:
        """Let nothing through in these directions."""
        for source, target in pairs:
            self._link(source, target).blocked = "hold" if hold else "drop"

    def unblock(self, pairs: Iterable[tuple[Endpoint, Endpoint]]) -> None:
        """Let frames through again; what was held sets out now."""
        for source, target in pairs:
            link = self._link(source, target)
            link.blocked = ""
            held, link.held = link.held, []
            for connection, frame in held:
                self._world.count("frames released after a partition")
                self._world.after(
                    link.profile.delay_s * (1.0 + self._random.random()),
                    self._arrive,
                    source,
                    target,
                    connection,
                    frame,
                )

    def blocked(self, source: Endpoint, target: Endpoint) -> bool:
        """Is nothing let through in this direction?"""
        link = self._links.get((source, target))
        return link is not None and bool(link.blocked)

    def reset(self, one: Endpoint, other: Endpoint) -> None:
        """Break the streams between two endpoints; what comes after runs over new connections."""
        for source, target in ((one, other), (other, one)):
            link = self._link(source, target)
            link.connection += 1
            link.held.clear()

    def shape(self, source: Endpoint, target: Endpoint, profile: LinkProfile) -> None:
        """Give one direction a profile of its own."""
        self._link(source, target).profile = profile

    def heal(self) -> None:
        """Remove every fault: unblock all, and let links behave."""
        self._profile = self._profile.healed()
        self._client_profile = self._client_profile.healed()
        for pair in sorted(self._links):
            link = self._links[pair]
            link.profile = self._client_profile if min(pair) < 0 else self._profile
            link.last_arrival = 0.0  # nothing has to queue behind what a slow link still carries
            if link.blocked:
                self.unblock([pair])

    def _link(self, source: Endpoint, target: Endpoint) -> _Link:
        link = self._links.get((source, target))
        if link is None:
            profile = self._client_profile if source < 0 or target < 0 else self._profile
            factor = exp(self._random.uniform(-self._spread, self._spread)) if self._spread else 1.0
            link = self._links[source, target] = _Link(profile, factor)
        return link
