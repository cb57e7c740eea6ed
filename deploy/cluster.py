"""A cluster that lives in a folder: brought up, looked at, disturbed, repaired, taken down.

Every method that changes something saves the layout, so that the next command (or a person) finds the cluster as it
is. Methods raise `ClusterError` with one clear line.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploy import admin, shaping
from deploy.drivers import DriverError, find_driver
from deploy.drivers.base import HOST
from deploy.drivers.docker import place_address
from deploy.layout import CERTIFICATES, FILE_NAME, ClusterLayout, LayoutError, PlaceLayout, ReplicaLayout, load, save
from deploy.shaping import LinkRoundTrip, ShapingError, named
from deploy.topology import TopologyError, load_topology
from replica.consensus.interface import ConfigurationError
from replica.wire.v1 import admin_pb2

if TYPE_CHECKING:
    from replica.node.config import NodeConfig

BASE_PORT = 7001
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.05
CLIENT = "client"
"""The name in the certificate of whoever uses a cluster with TLS from its folder."""


class ClusterError(Exception):
    """What went wrong, and what to do."""


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (LayoutError, DriverError, TopologyError, ConfigurationError, ShapingError, admin.AdminError) as error:
        raise ClusterError(str(error)) from error


class ReplicaStatus(msgspec.Struct, kw_only=True):
    """What `Cluster.status` tells of one replica. ``problem`` says why it is not ready, in words."""

    replica: int
    running: bool
    client: str
    peer: str
    region: str = ""
    ready: bool = False
    role: str = ""
    leader: int = 0
    epoch: int = 0
    ballot: str = ""
    applied: int = 0
    decided: int = 0
    revision: int = 0
    disk: str = ""
    sync_mode: str = ""
    durability: str = ""
    snapshot_frontier: int = 0
    log_first: int = 0
    problem: str = ""


class Cluster:
    """One cluster and its driver."""

    def __init__(self, folder: Path, layout: ClusterLayout) -> None:
        self.folder = folder
        self.layout = layout
        self._refusal = "no replica leads at the moment"
        self.notes: list[str] = []
        """What a person should know of what was done otherwise than expected."""
        with _one_line():
            self._driver = find_driver(layout.driver)

    # ------------------------------------------------------------------------------------------------------- making

    @classmethod
    def open(cls, folder: str | Path) -> Cluster:
        """The cluster in ``folder``."""
        with _one_line():
            return cls(Path(folder), load(Path(folder)))

    @classmethod
    def exists(cls, folder: str | Path) -> bool:
        """Does the folder hold a cluster?"""
        return (Path(folder) / FILE_NAME).exists()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        replicas: int = 3,
        protocol: str = "multipaxos",
        options: dict[str, int | float | str | bool] | None = None,
        driver: str = "process",
        topology: str = "",
        base_port: int = BASE_PORT,
        node: dict[str, Any] | None = None,
        metrics: bool = False,
        tls: bool = False,
        image: str = "",
        shaping: str = "auto",
    ) -> Cluster:
        """Describe a new cluster; nothing is started.

        ``base_port`` is the first client port (peers listen 100 above, metrics 200 above); 0 takes free ports.
        ``shaping`` is one of `deploy.shaping.SHAPINGS`. ``image`` is what containers are made from.
        With ``tls`` the folder gets an authority of its own, and replicas and clients know each other by its
        certificates alone. ``node`` holds further fields of every replica's configuration. The whole configuration is
        validated here, so that a mistake is one line and not a process that dies.
        """
        folder = Path(folder)
        if cls.exists(folder):
            raise ClusterError(f"{folder} holds a cluster already: `synod cluster up` without options resumes it")
        if replicas < 1:
            raise ClusterError(f"replicas: {replicas} is not a positive number")
        if tls and driver == "docker":
            raise ClusterError(
                "tls: not with --driver docker, whose replicas do not see the folder's certificates: make some with "
                "`synod certs`, mount them, and name them in the configuration (security.peer, security.client)"
            )
        node = dict(node or {})
        with _one_line():
            shape = load_topology(topology) if topology else None
            if shape is not None and shape.shaped:
                node["enable_fault_injection"] = True  # the delays of the topology are link faults
        with _one_line():
            found = find_driver(driver)
            layout = ClusterLayout(
                cluster=uuid.uuid4().hex,
                driver=driver,
                protocol=protocol,
                options=dict(options or {}),
                topology=topology,
                node=node,
                tls=tls,
                last_replica=replicas,
                image=image,
                shaping=named(shaping),
            )
            found.plan(layout, ())
            if shape is not None and not found.device and layout.shaping == "netem":
                raise ShapingError(
                    f"shaping: replicas under driver {driver!r} share the network of this machine, which netem would "
                    f"shape as a whole (--driver docker or namespace has a network for each)"
                )
            for index in range(replicas):
                entry = ReplicaLayout(
                    replica=index + 1, client="", peer="", region=shape.region_of(index) if shape else ""
                )
                found.place(layout, entry, base_port=base_port, metrics=metrics)
                layout.replicas.append(entry)
            found.check(layout)
        cluster = cls(folder, layout)
        cluster._certify()
        cluster._validate()
        cluster._save()
        return cluster

    def configurations(self) -> list[NodeConfig]:
        """The configuration of each replica as it will be at its first start, read by its own reader."""
        from deploy.node_config import render
        from replica.node.config import load_config

        certificates = self.folder.resolve() / CERTIFICATES if self.layout.tls else None
        found = []
        with tempfile.TemporaryDirectory() as scratch:
            for replica in self.layout.replicas:
                path = Path(scratch, f"replica-{replica.replica}.toml")
                home = self.folder.resolve() / f"replica-{replica.replica}"
                path.write_text(render(self.layout, replica, data=home / "data", certificates=certificates))
                with _one_line():
                    found.append(load_config(path, flags={"bootstrap": True}))
        return found

    def formatted(self) -> None:
        """The data folders have been formatted: they are not formatted again at the first start."""
        for replica in self.layout.replicas:
            replica.formatted = True
        self._save()

    def _validate(self) -> None:
        """Let the reader of the replicas' configuration judge it before anything is started."""
        self.configurations()

    def _certify(self) -> None:
        """See that every replica, and whoever uses the cluster from here, has a certificate."""
        if not self.layout.tls:
            return
        from deploy.certificates import Authority, CertificateError

        try:
            authority = Authority(self.folder / CERTIFICATES)
            for replica in self.layout.replicas:
                hosts = dict.fromkeys([replica.client.rpartition(":")[0], HOST, "localhost"])
                authority.replica(replica.replica, list(hosts))
            authority.client(CLIENT)
        except CertificateError as error:
            raise ClusterError(str(error)) from None

    @property
    def access(self) -> admin.Access:
        """What the replicas are shown by whoever uses the cluster from its folder."""
        if not self.layout.tls:
            return admin.Access(token=os.environ.get("SYNOD_TOKEN", ""))
        folder = self.folder.resolve() / CERTIFICATES
        return admin.Access(
            authority=str(folder / "authority.pem"),
            certificate=str(folder / f"{CLIENT}.pem"),
            key=str(folder / f"{CLIENT}.key"),
            token=os.environ.get("SYNOD_TOKEN", ""),
        )

    # --------------------------------------------------------------------------------------------------- whole cluster

    @property
    def endpoints(self) -> list[str]:
        """The client addresses of all replicas."""
        return [replica.client for replica in self.layout.replicas]

    def up(self, *, wait: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start every replica that is not running; with ``wait``, return once all of them serve."""
        with _one_line():
            self._driver.check(self.layout)
        for replica in self.layout.replicas:
            if not self._driver.alive(self.folder, replica):
                self._start(replica)
        if wait:
            self.wait_ready(timeout_s=timeout_s)
            self.apply_topology()
            self._apply_partition()

    def down(self, *, timeout_s: float = STOP_TIMEOUT_S) -> list[int]:
        """Shut every replica down and take away what was made for the cluster; returns those that had to be killed.

        The data stays. Works on whatever there is: a cluster that came up only in part, or whose tool has crashed.
        """
        killed = [replica.replica for replica in self.layout.replicas if not self._stop(replica, timeout_s)]
        self._release(wipe=False)
        return killed

    def remove(self) -> None:
        """Delete the folder and the data. Raises unless everything is down."""
        running = [str(r.replica) for r in self.layout.replicas if self._driver.alive(self.folder, r)]
        if running:
            raise ClusterError(f"replicas {', '.join(running)} are running: take the cluster down first")
        self._release(wipe=True)
        shutil.rmtree(self.folder)

    def discard_volumes(self) -> None:
        """Delete the data that lies outside the folder, which stays. Call it when everything is down."""
        self._release(wipe=True)

    def abandon(self) -> None:
        """End a cluster that never came up: kill what runs, and delete all of it."""
        for replica in self.layout.replicas:
            self._stop(replica, 0.0)
        self.remove()

    def _release(self, *, wipe: bool) -> None:
        with _one_line():
            self._driver.release(self.folder, self.layout, wipe=wipe)
        self.layout.groups = []
        self.layout.places = []
        self._save()

    def status(self) -> list[ReplicaStatus]:
        """One entry a replica, running or not."""
        return [self._status(replica) for replica in self.layout.replicas]

    def leader(self) -> int | None:
        """The replica that says that it leads, the latest epoch and ballot first; None when none does."""
        leading = [s for s in self.status() if s.ready and s.leader == s.replica]
        return max(leading, key=lambda s: (s.epoch, s.decided)).replica if leading else None

    def wait_ready(
        self, replicas: Sequence[int] | None = None, *, timeout_s: float = READY_TIMEOUT_S
    ) -> list[ReplicaStatus]:
        """Wait until these replicas (all, by default) serve. A replica that dies meanwhile ends the wait at once."""
        wanted = set(replicas) if replicas is not None else {r.replica for r in self.layout.replicas}
        deadline = time.monotonic() + timeout_s
        while True:
            found = [s for s in self.status() if s.replica in wanted]
            dead = [s for s in found if not s.running]
            if dead:
                raise ClusterError("; ".join(self._obituary(s.replica) for s in dead))
            if all(s.ready for s in found):
                return found
            if time.monotonic() > deadline:
                late = "; ".join(f"replica {s.replica}: {s.problem or 'not ready'}" for s in found if not s.ready)
                raise ClusterError(f"not ready after {timeout_s:g} s: {late}")
            time.sleep(POLL_S)

    def apply_topology(self, replicas: Sequence[int] | None = None) -> None:
        """Shape the links of these replicas (all, by default) as the topology says. Faults that are set stay."""
        if not self.layout.topology:
            return
        with _one_line():
            topology = load_topology(self.layout.topology)
            if not topology.shaped:
                return
            if replicas is None or not self.layout.shaped_by:
                self.layout.shaped_by, note = shaping.choose(self._driver, self.folder, self.layout)
                if note and note not in self.notes:
                    self.notes.append(note)
            shaping.shape(self._driver, self.folder, self.layout, topology, self._entries(replicas), access=self.access)
            if replicas is None:
                shaping.shape_places(self._driver, self.folder, self.layout, topology)
        self._save()

    def _entries(self, replicas: Sequence[int] | None) -> list[ReplicaLayout]:
        return [each for each in self.layout.replicas if replicas is None or each.replica in replicas]

    def place_clients(self, regions: Sequence[str]) -> str:
        """Make a place for clients in each of these regions, in the cluster's own network, with the region's links.

        A place that is there stays; all are taken away with the cluster. Returns why clients run on this machine
        instead, in words, and then there are no places; empty when there are.
        """
        if not self._driver.device:
            return f"replicas under driver {self.layout.driver!r} share the network of this machine"
        known = {place.region: place for place in self.layout.places}
        with _one_line():
            for region in regions:
                if region not in known:
                    number = len(known)
                    known[region] = PlaceLayout(
                        region=region,
                        address=place_address(self.layout, number),
                        unit=f"synod-{self.layout.cluster[:8]}-clients-{number + 1}",
                    )
            added = len(known) > len(self.layout.places)
            for place in known.values():
                if refused := self._driver.make_place(self.layout, place):
                    return refused
        self.layout.places = list(known.values())
        self._save()
        if added:
            self.apply_topology()
        return ""

    def python_in(self, region: str, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """The command that runs Python with these arguments in the place for clients of that region, with our standard
        streams. Who runs there is to end when its standard input does."""
        place = next(place for place in self.layout.places if place.region == region)
        with _one_line():
            return self._driver.python_in(place, arguments, environment)

    def round_trips(self) -> list[LinkRoundTrip]:
        """What the topology declares between each two replicas, and what is measured now."""
        with _one_line():
            topology = load_topology(self.layout.topology) if self.layout.topology else None
            return shaping.measure(self.layout, topology, access=self.access)

    def partition(self, groups: Sequence[Sequence[int]]) -> None:
        """Let no message cross between these groups of replicas, or those that none of them names (each by itself).

        Clients still reach everybody. Stays until `heal`, also over restarts of replicas.
        """
        named = [replica for group in groups for replica in group]
        if len(set(named)) != len(named):
            raise ClusterError("a partition's groups have no replica in common")
        with _one_line():
            for replica in named:
                self.layout.replica(replica)
        self._set_groups([sorted(group) for group in groups])

    def heal(self) -> None:
        """End the partition."""
        self._set_groups([])

    def _set_groups(self, groups: list[list[int]]) -> None:
        self.layout.groups = groups
        self._save()  # first: what starts meanwhile keeps to it
        with _one_line():
            running = [each for each in self.layout.replicas if self._driver.alive(self.folder, each)]
            shaping.partition(self._driver, self.folder, self.layout, running, access=self.access)

    def _apply_partition(self, replicas: Sequence[int] | None = None) -> None:
        if self.layout.groups:
            with _one_line():
                shaping.partition(self._driver, self.folder, self.layout, self._entries(replicas), access=self.access)

    # ----------------------------------------------------------------------------------------------------- one replica

    def start(self, replica: int, *, wait: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start one replica; with a topology, its links are shaped as soon as it answers."""
        with _one_line():
            entry = self.layout.replica(replica)
        self._start(entry)
        if self.layout.topology or self.layout.groups:
            self._wait_answering(entry, timeout_s)
            self.apply_topology([replica])
            self._apply_partition([replica])
        if wait:
            self.wait_ready([replica], timeout_s=timeout_s)

    def stop(self, replica: int, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Shut one replica down; False when it had to be killed."""
        with _one_line():
            entry = self.layout.replica(replica)
        clean = self._stop(entry, timeout_s)
        self._save()
        return clean

    def kill(self, replica: int) -> None:
        """``kill -9``."""
        with _one_line():
            self._driver.kill(self.folder, self.layout.replica(replica))
        self._save()

    def pause(self, replica: int) -> None:
        """Take the replica's processor away."""
        with _one_line():
            self._driver.pause(self.folder, self.layout.replica(replica))

    def resume(self, replica: int) -> None:
        """Undo `pause`."""
        with _one_line():
            self._driver.resume(self.folder, self.layout.replica(replica))

    def restart(self, replica: int, *, wait: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Shut one replica down if it runs, and start it again from its data."""
        self.stop(replica)
        self.start(replica, wait=wait, timeout_s=timeout_s)

    def log_tail(self, replica: int, lines: int = 20) -> list[str]:
        """The last lines that the replica printed."""
        with _one_line():
            return self._driver.log_tail(self.folder, self.layout.replica(replica), lines)

    def replace(self, old: int, new: int | None = None, *, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Put a new replica in the place of ``old`` while the cluster works; returns its id.

        The new one starts empty, the leader decides the next configuration, the new one fetches the state and votes
        once its peers have taken its disk on record. Only then is the old one stopped. If the change is refused for
        certain, the new replica is stopped again and nothing has changed. If it is not known whether the change was or
        will be decided, the new replica is kept running, and another call for ``old`` goes on from there.
        """
        with _one_line():
            leaving = self.layout.replica(old)
        entry = self._unfinished(old, new) or self._newcomer(new, leaving)
        if not self._driver.alive(self.folder, entry):
            self._start(entry)
        if not self._decide(_request(entry), timeout_s, f"synod member replace {old}"):
            self._stop(entry, STOP_TIMEOUT_S)
            self.layout.replicas.remove(entry)
            self._save()
            raise ClusterError(f"{self._refusal}: nothing was changed, replica {old} is still a member")
        self.wait_ready([entry.replica], timeout_s=timeout_s)
        self.apply_topology()  # the others have a link to the new one now
        with _one_line():
            if self._driver.alive(self.folder, leaving):
                self._driver.stop(self.folder, leaving, STOP_TIMEOUT_S)
        self.layout.replicas.remove(entry)
        self.layout.replicas[self.layout.replicas.index(leaving)] = entry
        entry.replaces = 0
        self._save()
        return entry.replica

    def add(self, new: int | None = None, *, region: str = "", timeout_s: float = READY_TIMEOUT_S) -> int:
        """Make the cluster larger by one while it works; returns the id of the new replica.

        It goes as `replace` does: the new replica starts empty, the leader decides, and this returns when the new one
        has the state, votes and serves. A refusal leaves everything as it was; after a doubtful end another call goes
        on.
        """
        entry = self._unfinished(0, new) or self._newcomer(
            new, ReplicaLayout(replica=0, peer="", client="", region=region)
        )
        if not self._driver.alive(self.folder, entry):
            self._start(entry)
        if not self._decide(_request(entry), timeout_s, "synod member add"):
            self._stop(entry, STOP_TIMEOUT_S)
            self.layout.replicas.remove(entry)
            self._save()
            raise ClusterError(f"{self._refusal}: nothing was changed, replica {entry.replica} is gone again")
        self.wait_ready([entry.replica], timeout_s=timeout_s)
        self.apply_topology()
        entry.arriving = False
        self._save()
        return entry.replica

    def remove_member(self, replica: int, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Make the cluster smaller by one while it works. The replica is stopped once the others have gone on without
        it; its folder stays.

        Raises `ClusterError`, and nothing is changed, for the last member, and where the others would be no majority of
        what is up.
        """
        with _one_line():
            leaving = self.layout.replica(replica)
        if unfinished := next((e for e in self.layout.replicas if e.replaces or e.arriving), None):
            raise ClusterError(f"replica {unfinished.replica} is still being added: finish that first")
        request = admin_pb2.ReplaceMemberRequest(remove=replica)
        if not self._decide(request, timeout_s, f"synod member remove {replica}"):
            raise ClusterError(f"{self._refusal} (replica {replica} is still a member)")
        with _one_line():
            if self._driver.alive(self.folder, leaving):
                self._driver.stop(self.folder, leaving, STOP_TIMEOUT_S)
        self.layout.replicas.remove(leaving)
        self._save()
        self.wait_ready(timeout_s=timeout_s)

    def _unfinished(self, old: int, new: int | None) -> ReplicaLayout | None:
        """The replica of a call that was cut short, to stand in the place of ``old`` (0: in nobody's)."""
        for entry in self.layout.replicas:
            same = entry.replaces == old if old else entry.arriving
            if same and new in {None, entry.replica}:
                return entry
            if entry.replaces:
                raise ClusterError(
                    f"replica {entry.replica} is still taking the place of replica {entry.replaces}: "
                    f"`synod member replace {entry.replaces}` finishes that first"
                )
            if entry.arriving:
                raise ClusterError(
                    f"replica {entry.replica} is still being added: `synod member add` finishes that first"
                )
        return None

    def _newcomer(self, new: int | None, like: ReplicaLayout) -> ReplicaLayout:
        """A new replica in the place of ``like``, if that is one, and where it is."""
        new = self.layout.last_replica + 1 if new is None else new
        if new <= self.layout.last_replica:
            raise ClusterError(
                f"replica id {new} was given before (the next free one is {self.layout.last_replica + 1})"
            )
        if self.leader() is None:
            raise ClusterError("no replica leads at the moment, so that no change can be decided: nothing was changed")
        entry = ReplicaLayout(
            replica=new,
            client="",
            peer="",
            region=like.region,
            zone=like.zone,
            joining=True,
            replaces=like.replica,
            arriving=not like.replica,
        )
        with _one_line():
            self._driver.place(self.layout, entry, base_port=0, metrics=bool(like.metrics))
        self.layout.last_replica = new
        self.layout.replicas.append(entry)
        self._certify()
        self._save()
        return entry

    def _decide(self, request: admin_pb2.ReplaceMemberRequest, timeout_s: float, again: str) -> bool:
        """Have the leader of the moment decide the change; False when it was refused for certain (`_refusal`).

        Raises `ClusterError` when it is not known how it ended.
        """
        deadline = time.monotonic() + timeout_s
        doubtful = False
        while True:
            # The membership, not an answer, is what counts: asking again is safe.
            if self._is_made(request):
                return True
            leader = self.leader()
            if leader is not None:
                if request.add:
                    request.catch_up_s = max(1.0, deadline - time.monotonic())
                try:
                    admin.replace_member(
                        self.layout.replica(leader).client,
                        request,
                        timeout_s=request.catch_up_s + admin.DECIDE_TIMEOUT_S,
                        access=self.access,
                    )
                    return True
                except admin.AdminError as error:
                    self._refusal = str(error)
                    doubtful = doubtful or error.unreachable
                    if not error.unreachable and not doubtful:
                        return False
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{self._refusal}: it is not known whether the change was or will be made; nothing was stopped, "
                    f"and `{again}` goes on from here"
                )
            time.sleep(POLL_S)

    def _is_made(self, request: admin_pb2.ReplaceMemberRequest) -> bool:
        """Does a replica, other than those that come and go, know that the change was made?"""
        for entry in self.layout.replicas:
            if entry.replica in {request.add, request.remove}:
                continue
            try:
                reply = admin.status(entry.client, access=self.access)
            except admin.AdminError:
                continue
            members = {member.replica for member in reply.members}
            # Ids are never used again: who is no member any more will not be one.
            if members and (not request.add or request.add in members) and request.remove not in members:
                return True
        return False

    # -------------------------------------------------------------------------------------------------------- internal

    def _start(self, replica: ReplicaLayout) -> None:
        with _one_line():
            self._driver.start(self.folder, self.layout, replica)
        self._save()

    def _stop(self, replica: ReplicaLayout, timeout_s: float) -> bool:
        with _one_line():
            return self._driver.stop(self.folder, replica, timeout_s)

    def _save(self) -> None:
        with _one_line():
            save(self.folder, self.layout)

    def _wait_answering(self, replica: ReplicaLayout, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                admin.status(replica.client, timeout_s=1.0, access=self.access)
                return
            except admin.AdminError as error:
                if not self._driver.alive(self.folder, replica):
                    raise ClusterError(self._obituary(replica.replica)) from None
                if time.monotonic() > deadline:
                    raise ClusterError(f"{error} ({timeout_s:g} s after its start)") from None
            time.sleep(POLL_S)

    def _status(self, replica: ReplicaLayout) -> ReplicaStatus:
        found = ReplicaStatus(
            replica=replica.replica,
            running=self._driver.alive(self.folder, replica),
            client=replica.client,
            peer=replica.peer,
            region=replica.region,
        )
        if not found.running:
            found.problem = "not running"
            return found
        try:
            reply = admin.status(replica.client, timeout_s=2.0, access=self.access)
        except admin.AdminError as error:
            found.problem = str(error)
            return found
        if (reply.cluster, reply.replica) != (self.layout.cluster, replica.replica):
            found.problem = f"{replica.client} is answered by replica {reply.replica} of cluster {reply.cluster}"
            return found
        for name in (*found.__struct_fields__[5:],):
            setattr(found, name, getattr(reply, name))
        return found

    def _obituary(self, replica: int) -> str:
        lines = [line for line in self.log_tail(replica, 5) if line.strip()]
        return f"replica {replica} is not running; its last line: {lines[-1] if lines else '(it printed nothing)'}"


def _request(entry: ReplicaLayout) -> admin_pb2.ReplaceMemberRequest:
    """Have the replica be a member, in the place of the one that it replaces, if any."""
    return admin_pb2.ReplaceMemberRequest(
        remove=entry.replaces,
        add=entry.replica,
        peer_address=entry.peer,
        client_address=entry.client,
        region=entry.region,
        zone=entry.zone,
    )


def default_folder() -> Path:
    """Where a cluster lives unless told otherwise: ``SYNOD_CLUSTER``, else ``data/cluster`` below this folder."""
    return Path(os.environ.get("SYNOD_CLUSTER") or "data/cluster")
