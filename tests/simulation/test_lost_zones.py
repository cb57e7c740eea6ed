"""A whole zone of WPaxos is lost under load: how long its objects stall, how long those of others, and what is kept.

In virtual time, over links as long as those between regions. The bounds are what the protocol promises: objects that
are owned elsewhere stall no longer than a retry timeout, and those of the lost zone are written again, by owners in the
other zones, within three suspicion timeouts. Objects do not move for any other reason here (`steal_rest_s`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest

from replica.consensus.interface import Options, ReplicaId
from replica.consensus.quorums import Grid
from replica.consensus.wpaxos import PROTOCOL, WPaxosOptions
from replica.consensus.wpaxos.contacts import Contacts
from replica.consensus.wpaxos.options import zones_of
from replica.kv import operations as kv
from replica.simulation.clients import Client, ClientProfile
from replica.simulation.host import HostProfile
from replica.simulation.network import LinkProfile
from replica.simulation.runner import LIVENESS_UNITS, Simulation, plan_of
from replica.simulation.seen import OK

OPTIONS = WPaxosOptions()

WITHIN = LinkProfile(delay_s=0.0005, jitter_s=0.0001)
"""Links inside a zone."""

BETWEEN = LinkProfile(delay_s=0.02, jitter_s=0.001)
"""Links between the nearest zones; the delay grows with how far they are apart."""

ASKED_AT_S = 0.7
"""When the owners' own clients have made them owners, and the others begin to ask."""

LOST_AT_S = 1.2
ASKED_UNTIL_S = LOST_AT_S + 3.5 * OPTIONS.suspicion_timeout_s

SHAPES = [(9, {"zones": 3}), (5, {})]
"""Three zones of three; five zones of one."""


class Writer(Client):
    """Writes one key without a pause, through one replica; through another when that is lost."""

    key = b""
    home: ReplicaId = 0

    def _any_operation(self) -> kv.AnyOperation:
        return kv.Put(self.key, self._value())

    def _choose(self, hint: ReplicaId | None) -> None:
        there = self._directory()
        self._target = self.home if self.home in there else there[0]


class Loss:
    """A cluster with writers, of which a zone is lost while they write; everything is measured when it is made."""

    def __init__(self, replicas: int, options: dict[str, int], zone: int, seed: int) -> None:
        rare: Options = {"steal_rest_s": 3000.0, **options}
        plan = plan_of(seed, PROTOCOL, replicas, "none", options=rare, operations=1)
        self.simulation = Simulation(
            msgspec.structs.replace(plan, clients=(), hosts=(HostProfile(),)), PROTOCOL, replicas
        )
        self.world = self.simulation.world
        zones = zones_of(self.simulation.configuration, msgspec.convert(options, WPaxosOptions))
        names = sorted(set(zones.values()))
        self.zones = {replica: names.index(name) for replica, name in zones.items()}
        self.lost = [replica for replica in self.zones if self.zones[replica] == zone]
        self.left = [replica for replica in self.zones if self.zones[replica] != zone]
        self.round_trip_s = 0.0
        self._stretch()
        self.writers: list[Writer] = []
        for host in self.simulation.hosts.values():
            self.world.after(0.0, host.start)
        # An owner in each zone, and writers for each owner's key: at the owner, and in the two zones that follow.
        firsts = [min(replica for replica in self.zones if self.zones[replica] == each) for each in range(len(names))]
        for owner in firsts:
            self._write(b"of %d" % owner, owner, 0.5)
        lasts = [max(replica for replica in self.zones if self.zones[replica] == each) for each in range(len(names))]
        for index, owner in enumerate(firsts):
            for further in (1, 2):
                self._write(b"of %d" % owner, lasts[(index + further) % len(lasts)], ASKED_AT_S)
        self.world.run(LOST_AT_S)
        self.owners = self._owners()
        for replica in self.lost:
            self.simulation.hosts[replica].crash(power=True, why="its zone is lost")
        self.in_flight = {writer.key for writer in self.writers if writer.outstanding}
        self.world.run(ASKED_UNTIL_S)
        self._settle_up()

    def _stretch(self) -> None:
        for one, here in self.zones.items():
            for other, there in self.zones.items():
                if one != other:
                    far = abs(here - there)
                    profile = msgspec.structs.replace(BETWEEN, delay_s=BETWEEN.delay_s * (1 + far) / 2)
                    self.simulation.network.shape(one, other, profile if far else WITHIN)
                    self.round_trip_s = max(self.round_trip_s, 2 * (profile.delay_s + 10 * profile.jitter_s))

    def _write(self, key: bytes, home: ReplicaId, at: float) -> None:
        simulation = self.simulation
        # What a client does on its own account is not to be measured: it turns elsewhere only when its replica is lost.
        patience = 0.3 if home in self.lost else 100.0
        writer = Writer(
            self.world,
            simulation.network,
            simulation.oracle,
            number=len(self.writers) + 1,
            profile=ClientProfile(
                operations=1_000_000,
                window=1,
                run_operations=1,
                read_index=0.0,
                stale=0.0,
                attempt_s=patience,
                give_up_s=200.0,
                believe=0.0,
            ),
            directory=lambda: [replica for replica, host in sorted(simulation.hosts.items()) if host.up],
            history=simulation.history,
            around_the_log=False,
        )
        writer.key, writer.home = key, home
        simulation.clients.append(writer)
        self.writers.append(writer)
        self.world.at(at, writer.start)

    def _owners(self) -> dict[bytes, ReplicaId]:
        """Who owns each key, phase 1 behind it."""
        owners = {}
        for replica, host in self.simulation.hosts.items():
            assert host.process is not None
            assert host.process.coordinator is not None
            tenures = host.process.coordinator.protocol._replication.tenures  # type: ignore[attr-defined]
            owners.update({name.encode("latin-1"): replica for name in tenures})
        return owners

    def _settle_up(self) -> None:
        """The load ends, the zone comes back, all is answered; judge, and have every key read through every replica."""
        simulation = self.simulation
        for writer in self.writers:
            writer.hurry(0)
        for replica in self.lost:
            simulation.hosts[replica].start()
        simulation._settle(LIVENESS_UNITS)
        self.report = simulation._judge(0.0)
        self.history = list(simulation.history)
        for writer in self.writers:
            writer.read_through(writer.home, writer.key)
        simulation._settle(LIVENESS_UNITS)
        self.reads: list[tuple[bytes, kv.KeyValue]] = []
        for seen in simulation.history[len(self.history) :]:
            assert isinstance(seen.result, kv.Got)
            assert seen.result.item is not None
            self.reads.append((seen.result.item.key, seen.result.item))

    def stall_s(self, owners: Iterable[ReplicaId]) -> float:
        """The longest time without an answer for any writer in the zones that are left, of the keys of ``owners``."""
        wanted = set(owners)
        chosen = [each for each in self.writers if each.home in self.left and self.owners[each.key] in wanted]
        assert chosen
        return max(self._gap(writer) for writer in chosen)

    def _gap(self, writer: Writer) -> float:
        answered = [
            seen.completed
            for seen in self.history
            if seen.client == writer.number and seen.outcome == OK and seen.completed is not None
        ]
        before = [at for at in answered if at <= LOST_AT_S]
        assert before, f"nothing was answered at {writer.home} before the zone was lost"
        moments = [before[-1], *(at for at in answered if LOST_AT_S < at <= ASKED_UNTIL_S), ASKED_UNTIL_S]
        return max(after - at for at, after in pairwise(moments))

    def lost_writes(self) -> list[kv.Put]:
        """Acknowledged writes that the keys' last values contradict, by the revisions that were acknowledged."""
        newest = dict(self.reads)
        gone = []
        for seen in self.history:
            if seen.outcome == OK and isinstance(seen.operation, kv.Put) and isinstance(seen.result, kv.Written):
                item = newest[seen.operation.key]
                overwritten = seen.result.revision < item.mod_revision
                if not overwritten and (seen.result.revision, seen.operation.value) != (item.mod_revision, item.value):
                    gone.append(seen.operation)
        return gone


# Between two answers lies a round trip to the owner and back even if nothing is wrong; what is asked for anew after a
# retry timeout travels it as well.
def bound_elsewhere_s(loss: Loss) -> float:
    return OPTIONS.retransmit_s + loss.round_trip_s


BOUND_LOST_S = 3 * OPTIONS.suspicion_timeout_s


@pytest.mark.parametrize(("replicas", "options"), SHAPES, ids=["three zones of three", "five zones of one"])
@pytest.mark.parametrize("zone", [0, 1])
def test_a_lost_zone_stalls_its_own_objects_for_three_suspicion_timeouts_and_others_for_a_retry(
    replicas, options, zone
):
    loss = Loss(replicas, options, zone, seed=zone)
    assert loss.in_flight == set(loss.owners), "of every object something is under way"
    assert loss.stall_s(loss.left) <= bound_elsewhere_s(loss)
    assert OPTIONS.suspicion_timeout_s < loss.stall_s(loss.lost) <= BOUND_LOST_S
    assert loss.report.checked > 200
    assert not loss.lost_writes()
    for key in loss.owners:
        assert len({item for read, item in loss.reads if read == key}) == 1


def test_the_measure_tells_when_the_lost_are_suspected_late(monkeypatch):
    def suspects(self: Contacts, replica: ReplicaId) -> bool:
        oldest = self._core.now - 3 * OPTIONS.suspicion_timeout_s
        return replica != self._core.replica and min(self._heard_at[replica], self._hears_at[replica]) < oldest

    monkeypatch.setattr(Contacts, "suspects", suspects)
    loss = Loss(5, {}, 0, seed=0)
    assert loss.stall_s(loss.left) <= bound_elsewhere_s(loss)
    assert loss.stall_s(loss.lost) > BOUND_LOST_S


def test_the_measure_tells_when_owners_wait_for_a_zone_that_is_lost(monkeypatch):
    monkeypatch.setattr(Grid, "phase2", lambda self, acks: len(acks) >= len(self.members))
    loss = Loss(5, {}, 0, seed=0)
    assert loss.stall_s(loss.left) > bound_elsewhere_s(loss)
