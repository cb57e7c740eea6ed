"""The deterministic world for protocols: virtual time, network, disks and crashes, replayed from a seed.

A public package for whoever writes a protocol. It may import `replica.consensus`, `replica.kv`,
`replica.verification` and the pure modules of `replica.storage`; it touches no real clock, socket, thread or
disk, and so never imports the node, the transport, the client, asyncio, lmdb or grpc.
"""

from replica.simulation.plan import PROFILES, Fault, FaultProfile, Plan
from replica.simulation.runner import Report, Simulation, SimulationFailure, plan_of, run
from replica.simulation.violation import Violation
from replica.simulation.witness import Controls, Witness

__all__ = [
    "run",
    "Report",
    "SimulationFailure",
    "Violation",
    "plan_of",
    "Plan",
    "Fault",
    "FaultProfile",
    "PROFILES",
    "Controls",
    "Witness",
    "Simulation",
]
