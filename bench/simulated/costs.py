"""What things cost a replica of Synod: the constants of simulated runs, and how they are measured.

``synod bench calibrate`` measures a frame by itself, between two transports (`bench.model.calibration`): in a cluster
a turn and its frames always come together, and nothing tells the two apart. Then it starts clusters of `SIZES` replicas
on this machine, loads each lightly, heavily, and with large values, and reads what each replica counted meanwhile. The
other costs are the non-negative least-squares solution of

    processor time - frames * frame = turns * turn + messages * message + commits * commit
                                      + applied * apply + served * serve + bytes * byte + idle

over all replicas and loads, each equation scaled by its processor time, so that light loads count as much as heavy
ones. *idle* is what a replica uses in the time of a load without being asked anything. A commit's processor time is
part of ``sync_s``, which is the median over the loads of what a commit of the log took. A cost that the data do not
tell apart from others comes out as 0 and is part of those; what fits is their sum, and `Costs.misfit` says how well. A
machine that does other things meanwhile makes everything cost more.

The constants belong to a machine and a release. They are kept in a file, and every simulated run carries those that it
used.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bench.attribution import Reading, read
from bench.model.calibration import measure_frames
from bench.results import Machine, this_machine, timestamp
from deploy import Cluster, ClusterError
from replica import __version__
from replica.client import connect_async

__all__ = ["DEFAULT_FILE", "Costs", "calibrate", "fit", "load_costs"]

DEFAULT_FILE: Final = Path("data/costs.json")
"""Where ``synod bench calibrate`` leaves them and simulated runs look for them."""

LOADS: Final = ((1, 128), (16, 128), (256, 128), (32, 4096))
"""Operations in flight and bytes of a value."""

SIZES: Final = (1, 3, 5)
"""Replicas of the clusters that are measured."""

SECONDS: Final = 1.5
"""Of each load."""

KEYS: Final = 1000


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one processor.

    The defaults were measured on two cores of a cloud machine that was not idle, the sync on one that was; they are
    used where nothing was measured.
    """

    turn_s: float = 13e-6
    """A turn of the loop, whatever is in it."""
    frame_s: float = 51e-6
    """A frame to or from a peer or a client, at either end."""
    message_s: float = 1e-6
    """A message of the protocol, at either end."""
    apply_s: float = 1.5e-6
    """An operation, at every replica that applies it."""
    serve_s: float = 1.0e-6
    """An operation, at the replica that its client asks, in addition."""
    byte_s: float = 2e-9
    """A byte of a frame, at either end."""
    client_frame_s: float = 50e-6
    client_operation_s: float = 3e-6
    """At the client."""
    sync_s: float = 700e-6
    """A commit of the log to the disk."""
    commit_s: float = 245e-6
    """Its processor time, which is part of it."""
    misfit: float = 0.0
    """The root mean square of how far the fit is off, as a share of the processor time."""
    measured: str = ""
    """When; empty for the defaults."""
    machine: Machine = Machine()
    version: str = ""


def load_costs(path: Path = DEFAULT_FILE) -> Costs:
    """The costs in a file, or the defaults where there is none. Raises `ValueError` for one that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Costs)
    except FileNotFoundError:
        return Costs()
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: no costs can be read from it: {error}") from None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica did under one load."""

    processor_s: float
    turns: float
    frames: float
    messages: float
    applied: float
    served: float
    bytes: float
    commits: float = 0.0


class ClientSample(msgspec.Struct, frozen=True, kw_only=True):
    """What the client did under one load; its frames are taken to be the turns that served it, there and back."""

    processor_s: float
    frames: float
    operations: float


def fit(samples: Sequence[Sample], clients: Sequence[ClientSample], syncs_s: Sequence[float], frame_s: float) -> Costs:
    """Costs from what was counted. Pure, but for the machine and the date. Raises `ValueError` without samples."""
    if not samples or not clients or not syncs_s:
        raise ValueError("nothing was measured")
    names = ("turns", "messages", "applied", "served", "bytes", "commits")
    rows = [[*(float(getattr(each, name)) for name in names), 1.0] for each in samples]
    # Frames cannot have taken it all, whatever they took between two transports that did nothing else.
    rest = [max(each.processor_s - each.frames * frame_s, each.processor_s / 10) for each in samples]
    found, misfit = _solve(rows, rest)
    at_client, _ = _solve(
        [[each.frames, each.operations, 1.0] for each in clients], [each.processor_s for each in clients]
    )
    turn, message, apply, serve, byte, commit, _idle = found
    return Costs(
        turn_s=turn,
        frame_s=frame_s,
        message_s=message,
        apply_s=apply,
        serve_s=serve,
        byte_s=byte,
        client_frame_s=at_client[0],
        client_operation_s=at_client[1],
        sync_s=statistics.median(syncs_s),
        commit_s=commit,
        misfit=misfit,
        measured=timestamp(),
        machine=this_machine(),
        version=__version__,
    )


def _solve(rows: list[list[float]], totals: list[float]) -> tuple[list[float], float]:
    from scipy.optimize import nnls  # a second to import

    scale = np.array(totals)[:, None]
    matrix = np.array(rows) / scale
    # Columns of like size, for the sake of the solver's tolerances.
    sizes = np.maximum(np.abs(matrix).max(axis=0), 1e-12)
    solution, residual = nnls(matrix / sizes, np.ones(len(totals)))
    return (solution / sizes).tolist(), float(residual) / len(totals) ** 0.5


async def calibrate(seconds: float = SECONDS) -> Costs:
    """Measure on this machine; takes some twenty times ``seconds``. Raises `ClusterError`."""
    frame_s = sum(await asyncio.to_thread(measure_frames, seconds)) / 2e6
    samples: list[Sample] = []
    clients: list[ClientSample] = []
    syncs_s: list[float] = []
    for replicas in SIZES:
        with tempfile.TemporaryDirectory(prefix="synod-calibrate-") as folder:
            cluster = await asyncio.to_thread(
                Cluster.create, Path(folder) / "cluster", replicas=replicas, base_port=0, node={"sync_mode": "inline"}
            )
            try:
                await asyncio.to_thread(cluster.up)
                for in_flight, size in LOADS:
                    part, client, sync_s = await _load(cluster, in_flight, size, seconds)
                    samples += part
                    clients.append(client)
                    syncs_s.append(sync_s)
            finally:
                await asyncio.to_thread(cluster.down)
    return fit(samples, clients, syncs_s, frame_s)


async def _load(
    cluster: Cluster, in_flight: int, size: int, seconds: float
) -> tuple[list[Sample], ClientSample, float]:
    value = bytes(size)
    count = 0
    async with connect_async(",".join(cluster.endpoints)) as store:
        await store.put("calibrate", "the session is open")
        begun = [await asyncio.to_thread(read, entry) for entry in cluster.layout.replicas]
        used = time.process_time()
        end = time.monotonic() + seconds

        async def worker(number: int) -> None:
            nonlocal count
            while time.monotonic() < end:
                number = (number * 31 + 7) % KEYS
                await store.put(b"calibrate/%d" % number, value)
                count += 1

        await asyncio.gather(*(worker(number) for number in range(in_flight)))
        used = time.process_time() - used
        ended = [await asyncio.to_thread(read, entry) for entry in cluster.layout.replicas]
    samples: list[Sample] = []
    leader: Sample | None = None
    sync_s = 0.0
    for before, after in zip(begun, ended, strict=True):
        if before is None or after is None:
            raise ClusterError("a replica could not be asked for its metrics")
        sample = sample_between(before, after)
        samples.append(sample)
        if sample.served:
            leader = sample
            syncs = _grown(before, after, "synod_sync_seconds_count")
            sync_s = _grown(before, after, "synod_sync_seconds_sum") / max(1.0, syncs)
    if leader is None:
        raise ClusterError("no replica served the load")
    return samples, ClientSample(processor_s=used, frames=leader.turns, operations=count), sync_s


def _grown(before: Reading, after: Reading, name: str) -> float:
    return after.values.get(name, 0.0) - before.values.get(name, 0.0)


def sample_between(before: Reading, after: Reading) -> Sample:
    """What a replica did between two readings of its metrics. Pure."""

    def grown(name: str) -> float:
        return _grown(before, after, f"synod_{name}")

    served = grown("operations_proposed_total")
    # Frames of clients are not counted apart: a replica that serves one takes in and hands out one in most turns.
    of_clients = grown("turns_total") if served else 0.0
    return Sample(
        processor_s=(after.cpu_user_s + after.cpu_system_s) - (before.cpu_user_s + before.cpu_system_s),
        turns=grown("turns_total"),
        frames=grown("peer_frames_sent") + grown("peer_frames_received") + of_clients,
        messages=grown("peer_messages_sent") + grown("peer_messages_received"),
        applied=grown("operations_applied_total"),
        served=served,
        bytes=grown("peer_bytes_sent") + grown("peer_bytes_received"),
        commits=grown("log_syncs"),
    )
