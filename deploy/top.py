"""``synod top``: the replicas as they work, looked at again and again.

Each line is what a replica says of itself (`Admin.Status`) and what it has counted since the last look
(`Admin.Metrics`); nothing is kept anywhere else. A replica that does not answer keeps its line and says why.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from deploy import admin
from replica.cli.connecting import connection_options
from replica.cli.status import table
from replica.wire.v1 import admin_pb2

ASK_TIMEOUT_S = 2.0
REPLICAS_MAX = 64
CLEAR = "\x1b[H\x1b[J"

HEADINGS = (
    "REPLICA", "ENDPOINT", "ROLE", "BALLOT", "EPOCH", "APPLIED", "LAG", "WRITES/S", "READS/S", "SYNC MS", "INBOX",
    "QUEUED", "IN FLIGHT", "READS WAIT", "CLIENTS", "WATCHES", "MEMORY MB", "PROBLEM",
)  # fmt: skip


class Look(msgspec.Struct, kw_only=True):
    """One replica at one moment; rates are since the look before, and 0 at the first."""

    endpoint: str
    replica: int = 0
    role: str = ""
    ballot: str = ""
    epoch: int = 0
    applied: int = 0
    lag: int = 0
    """Positions that somebody knows to be decided and this one has not applied."""
    writes_per_s: float = 0.0
    reads_per_s: float = 0.0
    sync_ms: float = 0.0
    """The mean of the syncs since the look before."""
    inbox: int = 0
    queued: int = 0
    in_flight: int = 0
    reads_waiting: int = 0
    clients: int = 0
    watches: int = 0
    memory_mb: float = 0.0
    problem: str = ""

    def row(self) -> tuple[str, ...]:
        """As a line of the table."""
        if not self.replica:
            return ("?", self.endpoint, *["-"] * (len(HEADINGS) - 3), self.problem)
        return (
            *(str(self.replica), self.endpoint, self.role, self.ballot, str(self.epoch), str(self.applied)),
            *(str(self.lag), f"{self.writes_per_s:.0f}", f"{self.reads_per_s:.0f}", f"{self.sync_ms:.2f}"),
            *(str(self.inbox), str(self.queued), str(self.in_flight), str(self.reads_waiting)),
            *(str(self.clients), str(self.watches), f"{self.memory_mb:.0f}", self.problem),
        )


class Watcher:
    """Looks at the replicas of a cluster, and remembers what they had counted the last time."""

    def __init__(self, endpoints: Sequence[str], access: admin.Access = admin.OPEN) -> None:
        self._endpoints = list(dict.fromkeys(endpoints))
        self._access = access
        self._before: dict[str, tuple[float, Mapping[str, float]]] = {}

    def look(self) -> list[Look]:
        """All replicas, now: those that were named, and those that these name."""
        found: dict[str, Look] = {}
        decided = 0
        with ThreadPoolExecutor(max_workers=REPLICAS_MAX) as pool:
            to_ask = list(self._endpoints)
            while to_ask:
                named: list[str] = []
                for endpoint, (look, reply) in zip(to_ask, pool.map(self._ask, to_ask), strict=True):
                    found[endpoint] = look
                    if reply is not None:
                        decided = max(decided, reply.decided)
                        named += [member.client_address for member in reply.members if member.client_address]
                to_ask = [each for each in dict.fromkeys(named) if each not in found][: REPLICAS_MAX - len(found)]
        for look in found.values():
            if look.replica:
                look.lag = max(0, decided - look.applied)
        return sorted(found.values(), key=lambda look: (look.replica == 0, look.replica, look.endpoint))

    def _ask(self, endpoint: str) -> tuple[Look, admin_pb2.StatusReply | None]:
        try:
            reply = admin.status(endpoint, timeout_s=ASK_TIMEOUT_S, access=self._access)
            counted = counters_of(admin.metrics(endpoint, timeout_s=ASK_TIMEOUT_S, access=self._access))
        except admin.AdminError as error:
            return Look(endpoint=endpoint, problem=str(error)), None
        now = time.monotonic()
        before_at, before = self._before.get(endpoint, (now, counted))
        self._before[endpoint] = now, counted
        passed = now - before_at

        def since(name: str) -> float:
            return max(0.0, counted.get(name, 0.0) - before.get(name, 0.0))

        def gauge(name: str) -> int:
            return int(counted.get(f"synod_{name}", 0.0))

        syncs = since("synod_sync_seconds_count")
        look = Look(
            endpoint=endpoint,
            replica=reply.replica,
            role=reply.role,
            ballot=reply.ballot,
            epoch=reply.epoch,
            applied=reply.applied,
            writes_per_s=since("synod_operations_applied_total") / passed if passed else 0.0,
            reads_per_s=since("synod_reads_served_total") / passed if passed else 0.0,
            sync_ms=1000 * since("synod_sync_seconds_sum") / syncs if syncs else 0.0,
            inbox=gauge("received_waiting"),
            queued=gauge("protocol_queued"),
            in_flight=gauge("operations_in_flight"),
            reads_waiting=gauge("reads_waiting"),
            clients=gauge("sessions_attached"),
            watches=gauge("watches"),
            memory_mb=gauge("resident_bytes") / (1 << 20),
            problem=reply.problem,
        )
        return look, reply


def counters_of(exposition: str) -> dict[str, float]:
    """Samples without labels, by name."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if not sample.labels
    }


@click.command()
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.1), default=1.0, show_default=True)
@click.option("--count", type=click.IntRange(min=0), default=0, help="End after so many looks; 0: with Ctrl-C.")
@connection_options
def top(
    *,
    interval_s: float,
    count: int,
    endpoints: str,
    timeout_s: float,
    as_json: bool,
    tls_authority: str,
    tls_certificate: str,
    tls_key: str,
    token: str,
) -> None:
    """Show the replicas as they work: role, ballot, lag, throughput, queues.

    With --json a line a look, for scripts. Rates are since the look before.
    """
    access = admin.Access(authority=tls_authority, certificate=tls_certificate, key=tls_key, token=token)
    watcher = Watcher([each.strip() for each in endpoints.split(",") if each.strip()], access)
    try:
        for looks in _looks(watcher, interval_s, count):
            if as_json:
                click.echo(json.dumps([msgspec.to_builtins(look) for look in looks]))
                continue
            if sys.stdout.isatty():
                click.echo(CLEAR, nl=False)
            for line in table([HEADINGS, *(look.row() for look in looks)]):
                click.echo(line)
    except KeyboardInterrupt:
        return


def _looks(watcher: Watcher, interval_s: float, count: int) -> Iterator[list[Look]]:
    made = 0
    while True:
        yield watcher.look()
        made += 1
        if made == count:
            return
        time.sleep(interval_s)
