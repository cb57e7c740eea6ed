"""What operators ask of a replica: the service `Admin`, on the clients' listener."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import grpc
import grpc.aio
import msgspec
from prometheus_client import generate_latest

from replica import __version__
from replica.consensus.frontiers import reach
from replica.consensus.interface import (
    Configuration,
    ConfigurationError,
    Member,
    Reason,
    Reconfigure,
    RejectRead,
    Yield,
    validate_configuration,
)
from replica.kv.objects import ObjectDigest, RegisterMachine
from replica.transport import LinkFault
from replica.wire import typed as wire

from .config import split_address
from .errors import NodeFailure
from .shapes import progress_of

if TYPE_CHECKING:
    from .replica import Replica

__all__ = ["AdminService"]

DIGEST_TIMEOUT_S: Final = 10.0
"""How long a digest waits for its frontier when the caller does not say."""

RECONFIGURE_TIMEOUT_S: Final = 30.0
"""How long a change of members may take, the snapshot at the seal included."""

CATCH_UP_TIMEOUT_S: Final = 300.0
"""How long who is to become a member may take to catch up, when the caller does not say."""

CATCH_UP_MAX_S: Final = 86_400.0

YIELD_TIMEOUT_S: Final = 5.0

MEASURE_SAMPLES: Final = 10
MEASURE_TIMEOUT_S: Final = 10.0
"""Round trips that are measured when the caller does not say, and how long they may take."""


class AdminService(wire.AdminServicer):
    """Answers for one replica. Errors are gRPC statuses whose text says what happened and what to do."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def Status(self, request: wire.StatusRequest, context: Any) -> wire.StatusReply:  # noqa: N802
        """What the replica says of itself; never refused."""
        replica = self._replica
        storage = replica.storage
        reply = wire.StatusReply(
            cluster=storage.identity.cluster,
            replica=storage.identity.replica,
            disk=storage.identity.disk,
            incarnation=storage.incarnation,
            durability=replica.config.durability,
            sync_mode=replica.writer.mode,
            version=__version__,
            uptime_s=replica.uptime_s,
            problem=replica.problem(),
        )
        reply.ready = not reply.problem
        if not replica.begun:
            return reply
        status = replica.coordinator.status()
        anchor = replica.coordinator.anchor
        leader, leader_address = replica.leader()
        reply.epoch = replica.coordinator.epoch
        reply.protocol = anchor.configuration.protocol
        reply.role = status.role
        reply.leader = leader
        reply.leader_address = leader_address
        reply.ballot = status.ballot
        reply.accepting = status.accepting
        # By object these count the positions of all objects together.
        reply.decided = reach(status.decided)
        reply.applied = progress_of(replica.machine)
        reply.revision = replica.machine.revision
        reply.compacted = replica.machine.compacted
        reply.log_first = status.log_first
        reply.log_bytes = storage.log.usage().used_bytes
        reply.state_bytes = storage.state.usage().used_bytes
        reply.snapshot_frontier = reach(anchor.frontier) if anchor.snapshot else 0
        reply.sessions = len(replica.machine.sessions)
        peers = replica.transport.peers()
        for member in anchor.configuration.members:
            peer_address, client_address = replica.address_of(member)
            peer = peers.get(member.replica)
            reply.members.add(
                replica=member.replica,
                peer_address=peer_address,
                client_address=client_address,
                region=member.region,
                zone=member.zone,
                connected=member.replica == storage.identity.replica or (peer is not None and peer.connected),
                round_trip_ms=1000 * (peer.round_trip_s or 0.0) if peer is not None else 0.0,
            )
        return reply

    async def Digest(self, request: wire.DigestRequest, context: Any) -> wire.DigestReply:  # noqa: N802
        """The digest of the state once it has reached the frontier asked for."""
        replica = self._replica
        await self._require_member(context)
        if isinstance(replica.machine, RegisterMachine):
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "a replica's own registers may be old ones, so their digest would tell nothing: compare what "
                "linearizable reads of the keys answer",
            )
        timeout_s = request.timeout_s or DIGEST_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                await replica.loop.until(lambda: progress_of(replica.machine) >= request.at_least)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"position {request.at_least} was not applied within {timeout_s} s: this replica stands at "
                f"{progress_of(replica.machine)}",
            )
        try:
            digest = await replica.transitions.digest()
        except NodeFailure as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"no digest: {error}")
            raise
        if isinstance(digest, ObjectDigest):
            # Equal digests of equal length say more than equal numbers: `standing` is over every position applied.
            return wire.DigestReply(
                applied=digest.progress, digest=f"{digest.standing}-{digest.digest}", keys=digest.keys
            )
        return wire.DigestReply(
            applied=digest.applied, revision=digest.revision, digest=digest.digest, keys=digest.keys
        )

    async def TakeSnapshot(  # noqa: N802
        self, request: wire.TakeSnapshotRequest, context: Any
    ) -> wire.TakeSnapshotReply:
        """Take a snapshot now; the log is truncated behind it."""
        await self._require_member(context)
        try:
            report = await self._replica.transitions.take_snapshot()
        except NodeFailure as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            raise
        frontier = reach(report.frontier)
        return wire.TakeSnapshotReply(
            frontier=frontier, bytes=report.bytes, log_first=self._replica.coordinator.status().log_first
        )

    async def ReplaceMember(  # noqa: N802
        self, request: wire.ReplaceMemberRequest, context: Any
    ) -> wire.ReplaceMemberReply:
        """Have the next configuration decided, in which one member stands for another.

        Who comes is taught first, without a vote; when it is near, the change is proposed. Returns once that holds
        here, on the leader: the other members follow by themselves, and the new one has yet to be admitted. Keep the
        disk of the member that was removed until the new replica reports itself ready. See "Changing the members" in
        this folder's README.
        """
        replica = self._replica
        await self._require_member(context)
        configuration = replica.coordinator.configuration
        if not replica.coordinator.capabilities.reconfiguration:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED, f"protocol {configuration.protocol!r} cannot change its members"
            )
        try:
            following = self._following(configuration, request)
        except ConfigurationError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{error}; nothing was changed")
            raise
        if problem := self._stranded(configuration, following):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{problem}; nothing was changed")
        if not request.add:
            return await self._change(following, context)
        with replica.teaching.expecting(request.add):
            await self._catch_up(request, configuration, context)
            if problem := self._stranded(configuration, following):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{problem}; nothing was changed")
            return await self._change(following, context)

    async def _catch_up(self, request: wire.ReplaceMemberRequest, configuration: Configuration, context: Any) -> None:
        """Return once the newcomer is near enough to vote; what goes wrong until then has changed nothing."""
        replica = self._replica
        limit = request.catch_up_s or CATCH_UP_TIMEOUT_S
        if not 0 < limit <= CATCH_UP_MAX_S:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"catch_up_s: {limit:g} is not above 0 and at most {CATCH_UP_MAX_S:g}; nothing was changed",
            )

        def deposed() -> bool:
            return replica.coordinator.status().leader != replica.config.replica or self._moved(configuration)

        if deposed():
            await self._abort_refused(context, RejectRead(0, Reason.NOT_LEADER))
        tasks = [
            asyncio.ensure_future(replica.teaching.near(request.add)),
            asyncio.ensure_future(replica.loop.until(deposed)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if tasks[0] in done:
            return
        account = replica.teaching.account(request.add)
        if tasks[1] not in done:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"replica {request.add} did not catch up within {limit:g} s ({account}); nothing was changed",
            )
        if problem := replica.unavailable():
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{problem}; nothing was changed")
        if self._moved(configuration):
            await context.abort(
                grpc.StatusCode.ABORTED, "another change of the members was decided first; this one was not made"
            )
        await self._abort_refused(context, RejectRead(0, Reason.NOT_LEADER))

    def _moved(self, configuration: Configuration) -> bool:
        """Has another epoch begun, or the seal of the present one been decided?"""
        return self._present().epoch != configuration.epoch or self._replica.loop.sealed

    async def _change(self, following: Configuration, context: Any) -> wire.ReplaceMemberReply:
        """Have ``following`` decided, and wait until it holds here."""
        replica = self._replica
        refusals: list[RejectRead] = []

        def answered(answer: RejectRead | None) -> None:
            # Between the seal and the next epoch every question is refused, this one included: that is no answer.
            if answer is not None and answer.reason != Reason.SEALED:
                refusals.append(answer)

        token = replica.loop.ask(lambda token: Reconfigure(token, following), answered)
        try:
            async with asyncio.timeout(RECONFIGURE_TIMEOUT_S):
                await replica.loop.until(lambda: bool(refusals) or self._present().epoch >= following.epoch)
            if refusals:
                await self._abort_refused(context, refusals[0])
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"epoch {following.epoch} has not begun here within {RECONFIGURE_TIMEOUT_S} s; it may yet: look at the "
                "status before asking again",
            )
        finally:
            replica.loop.forget(token)
        present = self._present()
        if present.epoch < following.epoch:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{replica.unavailable()}; the change may yet be made")
        if present.members != following.members:
            await context.abort(
                grpc.StatusCode.ABORTED, "another change of the members was decided first; this one was not made"
            )
        return wire.ReplaceMemberReply(epoch=present.epoch)

    def _present(self) -> Configuration:
        """The configuration that is durable here; a replica that it leaves out does not enter its epoch any more."""
        anchor = self._replica.storage.anchor
        assert anchor is not None, "asked of members alone"
        return anchor.configuration

    def _stranded(self, configuration: Configuration, following: Configuration) -> str:
        """Why the next members could not decide anything, as far as this replica sees who is up; empty when they could.

        Who comes counts as up: it is what asks to be let in.
        """
        peers = self._replica.transport.peers()
        up = {replica for replica, peer in peers.items() if peer.connected} | {self._replica.config.replica}
        up |= set(following.replicas) - set(configuration.replicas)
        standing = sorted(up & set(following.replicas))
        needed = len(following.members) // 2 + 1
        if len(standing) >= needed:
            return ""
        return (
            f"of the members that there would be ({', '.join(map(str, following.replicas))}) only "
            f"{', '.join(map(str, standing)) or 'none'} can be reached, and {needed} are a majority: bring the others "
            "up first, or remove one that is down"
        )

    def _following(self, configuration: Configuration, request: wire.ReplaceMemberRequest) -> Configuration:
        """The configuration that is asked for. Raises `ConfigurationError`."""
        if not request.remove and not request.add:
            raise ConfigurationError("remove: neither who leaves nor who comes was named")
        members = [each for each in configuration.members if each.replica != request.remove]
        if request.remove and len(members) == len(configuration.members):
            raise ConfigurationError(
                f"remove: replica {request.remove} is not a member (members: "
                f"{', '.join(map(str, configuration.replicas))})"
            )
        if request.add:
            members.append(self._newcomer(configuration, request))
        elif not members:
            raise ConfigurationError(
                f"remove: replica {request.remove} is the last member, and a cluster without members is lost: to end "
                "the cluster, stop the replica"
            )
        following = msgspec.structs.replace(
            configuration,
            epoch=configuration.epoch + 1,
            members=tuple(sorted(members, key=lambda each: each.replica)),
            retired=tuple(sorted({*configuration.retired, *([request.remove] if request.remove else [])})),
        )
        validate_configuration(self._replica.coordinator.spec, following)
        return following

    def _newcomer(self, configuration: Configuration, request: wire.ReplaceMemberRequest) -> Member:
        known = {*configuration.replicas, *configuration.retired, *self._replica.storage.log.peer_disks}
        if request.add in known:
            raise ConfigurationError(
                f"add: replica id {request.add} has been used in this cluster; ids are never used again"
            )
        for name in ("peer_address", "client_address"):
            try:
                split_address(getattr(request, name))
            except ValueError as error:
                raise ConfigurationError(f"{name}: {error}") from None
        return Member(
            replica=request.add,
            peer_address=request.peer_address,
            client_address=request.client_address,
            region=request.region,
            zone=request.zone,
        )

    async def Yield(self, request: wire.YieldRequest, context: Any) -> wire.YieldReply:  # noqa: N802
        """Give up leadership; returns once this replica does not lead."""
        replica = self._replica
        await self._require_member(context)
        if request.successor and replica.coordinator.configuration.member(request.successor) is None:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"successor: replica {request.successor} is not a member"
            )
        if replica.coordinator.status().leader != replica.config.replica:
            return wire.YieldReply()
        replica.loop.post(Yield(request.successor or None))
        try:
            async with asyncio.timeout(YIELD_TIMEOUT_S):
                await replica.loop.until(lambda: replica.coordinator.status().leader != replica.config.replica)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"nobody else has taken over within {YIELD_TIMEOUT_S} s"
            )
        return wire.YieldReply()

    async def InjectFaults(  # noqa: N802
        self, request: wire.InjectFaultsRequest, context: Any
    ) -> wire.InjectFaultsReply:
        """Faults of links and disk, for experiments."""
        replica = self._replica
        if not replica.config.enable_fault_injection:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "this replica was started without enable_fault_injection; nothing was changed",
            )
        try:
            faults = {link.peer: _fault_of(link) for link in request.links}
            shapes = {link.peer: _fault_of(link) for link in request.shapes}
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        if not 0 <= request.sync_delay_ms < 60_000:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"sync_delay_ms: {request.sync_delay_ms} is not from 0 to 60000"
            )
        if request.reshape:
            replica.transport.set_shapes(shapes)
            if not (faults or request.heal or request.sync_delay_ms or request.disk_full):
                replica.log.info("links shaped", links=sorted(shapes))
                return wire.InjectFaultsReply()
        replica.transport.set_faults(faults, heal=request.heal)
        replica.writer.sync_delay_s = request.sync_delay_ms / 1000
        replica.storage.space.pretend_full = request.disk_full
        replica.log.warning(
            "faults injected",
            links=sorted(faults),
            heal=request.heal,
            sync_delay_ms=request.sync_delay_ms,
            disk_full=request.disk_full,
        )
        return wire.InjectFaultsReply()

    async def MeasureLinks(  # noqa: N802
        self, request: wire.MeasureLinksRequest, context: Any
    ) -> wire.MeasureLinksReply:
        """The round trips to all peers, measured now."""
        await self._require_member(context)
        found = await self._replica.transport.measure_round_trips(
            request.samples or MEASURE_SAMPLES, request.timeout_s or MEASURE_TIMEOUT_S
        )
        return wire.MeasureLinksReply(
            links=[
                wire.LinkMeasurement(peer=peer, round_trip_ms=[1000 * sample for sample in samples])
                for peer, samples in found.items()
            ]
        )

    async def Metrics(self, request: wire.MetricsRequest, context: Any) -> wire.MetricsReply:  # noqa: N802
        """What a scrape would yield."""
        replica = self._replica
        replica.refresh_gauges()
        return wire.MetricsReply(exposition=generate_latest(replica.metrics.registry).decode())

    async def _require_member(self, context: Any) -> None:
        if not self._replica.begun:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self._replica.unavailable())

    async def _abort_refused(self, context: Any, refused: RejectRead) -> NoReturn:
        leader, address = self._replica.leader(refused.hint)
        whom = f"; ask the leader, replica {leader} at {address}" if leader else ""
        if not refused.definite:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"this replica lost its leadership while the change was being decided; it may yet be made: look at the "
                f"status before asking again{whom}",
            )
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION, f"the members were not changed: {refused.reason}{whom}"
        )
        raise AssertionError("abort always raises")


def _fault_of(link: wire.LinkFault) -> LinkFault:
    """Raises `ValueError`, which names the field."""
    return LinkFault(
        delay_s=link.delay_ms / 1000,
        jitter_s=link.jitter_ms / 1000,
        jitter_shape=cast("Any", link.jitter_shape or "uniform"),  # judged by the struct itself
        loss=link.loss,
        blocked=link.blocked,
        rate_bytes_s=link.rate_bytes_s,
    )
