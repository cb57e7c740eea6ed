"""What is going to go wrong in a run: drawn from the seed before the run begins, as plain data.

*Swarm testing*: which kinds of fault take part, how often, and how the machines and the network behave is drawn anew
for each seed. A run with everything at once hides what a run with one kind brings out. Because a plan is data, a
failing run can be repeated with faults taken out of it.
"""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec

from replica.consensus.interface import Options, ProtocolSpec
from replica.kv.sessions import SESSIONS_MAX
from replica.simulation.clients import ClientProfile
from replica.simulation.host import HostProfile
from replica.simulation.network import LinkProfile

LEADER: Final = "leader"
ANY: Final = "any"
SAME: Final = "same"
"""The host that the last fault with a target struck."""
OTHER: Final = "other"
"""Any but that one."""

POINTS: Final = (
    "",
    "",
    "",
    "before the sends",
    "between two sends",
    "before a commit",
    "before a commit is reported",
    "after a commit",
    "before a delivery is applied",
    "after a delivery is applied",
    "before the state is committed",
    "before an answer",
    "before a snapshot is staged",
    "after a snapshot is staged",
    "before the anchor is committed",
    "after the anchor is committed",
    "after the state is switched",
    "start",
)
"""The boundaries at which a process may be made to die; "" is whichever comes."""

TIMERS_LAST: Final = "timers last"
"""A pause after which a process looks at what has arrived before it looks at its timers."""

PARTITIONS: Final = (
    "isolate",
    "deaf",
    "mute",
    "halves",
    "chain",
    "hub",
    "one link",
    "one direction",
    "random directions",
    "clients",
)
"""Shapes of partitions: one replica cut off; one that hears nothing; one that nobody hears; two groups; a chain in
which only neighbours hear each other; all connected through one alone; one pair; one direction of one pair; any set
of directions; one replica cut off from all clients."""


ENDURED: Final = ("isolate", "deaf", "mute", "chain", "hub", "one link", "one direction")
"""Partitions that leave some replica in touch with a majority: a cluster has to make progress under them, and must not
keep changing its leader."""


VARIANTS: Final = {"multipaxos": ("fpaxos", "multipaxos"), "raft": ("multipaxos", "raft", "raft")}
"""Where a cluster may be moved to without leaving what its witness understands."""


FAULTS_MIN: Final = 6
"""Faults that a plan holds at least; some of them may find nobody to strike."""


OUTSTANDING_MAX: Final = 24
"""Operations that a client has outstanding at most: all of them are lost to it when it gives its session up."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that goes wrong (or that an operator does) at ``at``; the other fields depend on the kind."""

    at: float
    kind: str
    target: str = ANY
    seconds: float = 0.0
    detail: str = ""
    number: float = 0.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run, before it happens."""

    seed: int
    unit_s: float
    """The protocol's election timeout: what all durations are relative to."""
    chaos_s: float
    options: Options
    links: LinkProfile
    client_links: LinkProfile
    hosts: tuple[HostProfile, ...]
    """Drawn from in the order in which hosts come into being, again from the first when they are used up."""
    clock_rates: tuple[float, ...]
    clients: tuple[ClientProfile, ...]
    faults: tuple[Fault, ...]
    demand: int = 10
    """Operations that every client has to complete once everything is healed."""
    sessions_max: int = SESSIONS_MAX
    """Sessions that the cluster keeps open."""
    spread: float = 0.0
    """How unlike the links are: the delays of each are multiplied by a factor between ``e**-spread`` and ``e**spread``.
    """
    rivals: float = 0.0
    """How often a second operator wants something else whenever a member is replaced."""
    protocols: tuple[str, ...] = ()
    """Protocols to which a change of members may move the cluster as well."""
    endurance: str = ""
    """A partition of `ENDURED` under which the healed cluster has to prove itself; empty for none."""


class FaultProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Which kinds of fault may be drawn."""

    network: bool = True
    partitions: bool = True
    crashes: bool = True
    disks: bool = True
    losses: bool = True
    """Records that rot, disks that are wiped: replicas that never come back."""
    clocks: bool = True
    endurance: bool = True
    """Partitions under which a healed cluster has to make progress: for protocols whose leader can be replaced."""
    changes: bool = True
    """Replacement of members, snapshots on demand, changes of leader."""


PROFILES: Final = {
    "none": FaultProfile(
        network=False,
        partitions=False,
        crashes=False,
        disks=False,
        losses=False,
        clocks=False,
        changes=False,
        endurance=False,
    ),
    "network": FaultProfile(crashes=False, disks=False, losses=False, clocks=False, changes=False),
    "crashes": FaultProfile(
        network=False, partitions=False, losses=False, clocks=False, changes=False, endurance=False
    ),
    # Everything but lost disks and lasting partitions, which a protocol with one fixed leader cannot outlive.
    "recoverable": FaultProfile(losses=False, endurance=False),
    "all": FaultProfile(),
}

_OPTION_SWARM: Final[dict[str, tuple[Any, ...]]] = {
    "batch_max": (1, 1, 4, 64, 4096),
    "window_slots": (1, 3, 16, 1024, 1024),
    "tail_slots": (0, 2, 10, 50),
    "chunk_bytes_max": (1, 100, 1000, 1 << 20),
    "queue_max": (16, 16384, 16384),
}
"""Values that are tried for options of these names, where a protocol has them: bounds so low that they are met."""

_OWN_SWARM: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "epaxos": {
        "window_instances": (4, 16, 128, 128),  # one at a time, of one operation each, is less than is asked for
        "tail_instances": (1, 2, 10, 50, 4096),
        "tail_bytes_max": (0, 1000, 64 << 20, 64 << 20),
        "recovery_s": (0.05, 0.2, 0.5, 0.5, 1.0),
    },
}
"""By the name of a protocol, the same for options with names of its own. They are drawn apart, so that what else a seed
stands for is the same with them and without."""


def unit_of(spec: ProtocolSpec, options: Options) -> float:
    """The election timeout of a protocol, in seconds, or one second for a protocol that names none."""
    names = ("election_timeout_max_s", "election_timeout_s")
    defaults = {field.name: field.default for field in msgspec.structs.fields(spec.options)}
    for name in names:
        if name in options:
            return float(options[name])
        if name in defaults:
            return float(defaults[name])
    return 1.0


def draw_plan(
    draw: random.Random,
    seed: int,
    spec: ProtocolSpec,
    replicas: int,
    faults: FaultProfile,
    *,
    options: Options | None = None,
    operations: int = 500,
) -> Plan:
    """The plan of a seed. ``operations`` is how many the clients issue together during the chaos."""
    chosen: Options = dict(options or {})
    known = {field.name for field in msgspec.structs.fields(spec.options)}
    for name, values in _OPTION_SWARM.items():
        value = draw.choice(values)
        if name in known and name not in chosen:
            chosen[name] = value
    apart = random.Random(f"{seed}/options of {spec.name}")
    for name, values in _OWN_SWARM.get(spec.name, {}).items():
        value = apart.choice(values)
        if name in known and name not in chosen:
            chosen[name] = value
    unit = unit_of(spec, chosen)
    chaos = unit * draw.uniform(8.0, 18.0)
    clients = _clients(draw, unit, chaos, operations)
    calm = not (faults.disks or faults.network)
    plan = Plan(
        seed=seed,
        unit_s=unit,
        chaos_s=chaos,
        options=chosen,
        links=_links(draw, unit, faults),
        client_links=LinkProfile(
            delay_s=0.0001 * unit,
            jitter_s=_log(draw, 0.0001, 0.01) * unit,
            loss=0.0 if calm else draw.choice((0.0, 0.0, 0.02)),
        ),
        hosts=tuple(_host(draw, unit, faults) for _ in range(replicas)),
        clock_rates=tuple(
            draw.choice((1.0, 1.0, draw.uniform(0.9, 1.1), draw.uniform(0.6, 1.6))) if faults.clocks else 1.0
            for _ in range(replicas)
        ),
        clients=clients,
        faults=_faults(draw, unit, chaos, spec, faults),
        demand=draw.randrange(5, 15),
        sessions_max=draw.choice((SESSIONS_MAX, SESSIONS_MAX, SESSIONS_MAX, 4, 8)),
        spread=draw.choice((0.0, 0.0, 1.0, 2.0)) if faults.network else 0.0,
        rivals=draw.choice((0.0, 0.5)),
        protocols=draw.choice(((), VARIANTS.get(spec.name, ()))),
        endurance=draw.choice(ENDURED) if faults.endurance and draw.random() < 0.3 else "",
    )
    if chosen.get("lease_s") and faults.partitions and faults.crashes:
        plan = msgspec.structs.replace(plan, faults=_with_leases(plan.faults, seed, unit, chaos))
    return plan


def _with_leases(faults: tuple[Fault, ...], seed: int, unit: float, chaos: float) -> tuple[Fault, ...]:
    """What leases have to be tried with besides; drawn apart, so that the rest of a plan is the same without."""
    draw = random.Random(f"{seed}/leases")
    more = [fault for _ in range(2) for fault in _entranced(draw, unit, draw.uniform(0.1, 0.8) * chaos)]
    return tuple(sorted((*faults, *more), key=lambda fault: fault.at))


def _log(draw: random.Random, low: float, high: float) -> float:
    """A number between two bounds, every order of magnitude as likely as any other."""
    return float(low * (high / low) ** draw.random())


def _links(draw: random.Random, unit: float, faults: FaultProfile) -> LinkProfile:
    if not faults.network:
        return LinkProfile(delay_s=0.0005 * unit, jitter_s=0.0005 * unit)
    return LinkProfile(
        delay_s=_log(draw, 0.0002, 0.02) * unit,
        jitter_s=_log(draw, 0.0001, 0.02) * unit,
        tail=draw.choice((0.0, 0.0, 0.01, 0.05)),
        tail_s=_log(draw, 0.05, 2.0) * unit,
        loss=draw.choice((0.0, 0.0, 0.01, 0.05, 0.15)),
        duplication=draw.choice((0.0, 0.0, 0.02, 0.2)),
        reordering=draw.choice((0.0, 0.0, 0.05, 0.5, 1.0)),
    )


def _host(draw: random.Random, unit: float, faults: FaultProfile) -> HostProfile:
    slow = faults.disks
    return HostProfile(
        sync_mode=draw.choice(("inline", "thread")),
        sync_s=_log(draw, 0.0002, 0.01 if slow else 0.001) * unit,
        sync_jitter_s=_log(draw, 0.0001, 0.01 if slow else 0.001) * unit,
        sync_tail=draw.choice((0.0, 0.0, 0.01, 0.1)) if slow else 0.0,
        sync_tail_s=_log(draw, 0.02, 1.0) * unit,
        sync_max_s=2.0 * unit,
        turn_s=_log(draw, 0.00001, 0.002) * unit,
        turn_tail=draw.choice((0.0, 0.0, 0.02)),
        turn_tail_s=_log(draw, 0.01, 0.3) * unit,
        apply_first=draw.random() < 0.5,
        frames=draw.random() < 0.7,
        snapshot_every=int(_log(draw, 8, 400)),
        snapshot_s=_log(draw, 0.001, 0.3) * unit,
        state_commit_every=int(_log(draw, 1, 100)),
        boot_s=_log(draw, 0.001, 0.3) * unit,
        adversarial=draw.random() < 0.3,
        greeting_s=0.1 * unit,
        fetch_timeout_s=1.0 * unit,
        check_every=4,
    )


def _clients(draw: random.Random, unit: float, chaos: float, operations: int) -> tuple[ClientProfile, ...]:
    number = draw.randrange(3, 8)
    each = -(-operations // number)
    run = draw.choice((1, 2, 4, 8))
    index = draw.choice((0.0, 0.15, 0.4))
    think = 0.7 * chaos / max(1.0, each / ((1 + run) / 2 * (1 - index) + index))
    keys = draw.choice((2, 6, 12, 40))
    return tuple(
        ClientProfile(
            operations=each,
            window=min(draw.choice((1, 2, 4, 16)), max(1, OUTSTANDING_MAX // run)),
            run_operations=run,
            think_s=think * draw.choice((0.0, 0.8, 1.0)),
            attempt_s=unit * draw.uniform(0.2, 1.0),
            backoff_s=unit * _log(draw, 0.005, 0.1),
            give_up_s=unit * draw.choice((4.0, 8.0, 100.0)),
            keys=keys,
            read_index=index,
            stale=draw.choice((0.0, 0.05)),
            believe=draw.choice((0.0, 0.3, 1.0)),
        )
        for _ in range(number)
    )


def _faults(
    draw: random.Random, unit: float, chaos: float, spec: ProtocolSpec, profile: FaultProfile
) -> tuple[Fault, ...]:
    kinds: dict[str, float] = {}
    if profile.crashes:
        kinds |= {"crash": 6.0, "power cut": 0.7, "pause": 3.0, "shut down": 1.0, "rolling restart": 0.4}
    if profile.partitions:
        kinds |= {"partition": 6.0, "reset": 3.0, "slow link": 1.5}
    if profile.disks:
        kinds |= {"slow disk": 1.5, "failed sync": 1.0}
    if profile.losses:
        kinds |= {"corrupt": 0.5, "wipe": 0.5}
    if profile.clocks:
        kinds |= {"clock jump": 1.5, "clock rate": 1.0}
    if profile.changes:
        kinds |= {"snapshot": 1.0, "yield": 1.0, "client crash": 1.0, "client move": 1.5}
        if spec.capabilities.reconfiguration:
            kinds |= {"replace": 1.0}
    if not kinds:
        return ()
    taken = [kind for kind in kinds if draw.random() < 0.65]
    intensity = _log(draw, 0.4, 2.0)
    faults: list[Fault] = []
    for kind in taken:
        mean = kinds[kind] * intensity
        number = sum(draw.random() < mean / 12 for _ in range(12)) if mean < 12 else int(mean)
        faults.extend(_fault(draw, kind, unit, chaos) for _ in range(number))
    while len(faults) < FAULTS_MIN:
        faults.append(_fault(draw, draw.choice(sorted(kinds)), unit, chaos))
    if profile.partitions and profile.crashes and draw.random() < 0.6:
        for _ in range(draw.randrange(1, 4)):
            faults.extend(_STORIES[draw.randrange(len(_STORIES))](draw, unit, draw.uniform(0.05, 0.8) * chaos))
    if not profile.clocks:
        faults = [fault for fault in faults if not fault.kind.startswith("clock")]
    faults.sort(key=lambda fault: fault.at)
    return tuple(fault for fault in faults if fault.at < chaos)


# ------------------------------------------------------------------------------------------------------------ stories
#
# Faults by themselves seldom meet. Each of these puts several together, as they have been seen to do.


def _usurped(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A leader is cut off and does not notice; those who replace it crash; then its old messages arrive."""
    lasts = unit * draw.uniform(0.8, 3.0)
    return [
        Fault(at=at, kind="clock rate", target=LEADER, number=draw.uniform(0.2, 1.0), seconds=2 * lasts),
        Fault(at=at, kind="partition", target=SAME, detail="isolate", seconds=lasts, number=1.0),
        *(
            Fault(
                at=at + lasts * draw.uniform(0.3, 1.0),
                kind="crash",
                target=OTHER,
                detail=draw.choice(("process/", "power/")),
                number=float(draw.randrange(1, 6)),
                seconds=unit * _log(draw, 0.01, 0.2),
            )
            for _ in range(draw.randrange(1, 4))
        ),
    ]


def _stalled(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A leader stands still for long, is replaced, and goes on where it was; its successors crash meanwhile."""
    lasts = unit * draw.uniform(0.8, 3.0)
    return [
        Fault(at=at, kind="pause", target=LEADER, seconds=lasts, detail=draw.choice(("now", "", "before an answer"))),
        *(
            Fault(
                at=at + lasts * draw.uniform(0.5, 1.05),
                kind="crash",
                target=OTHER,
                detail="process/",
                number=float(draw.randrange(1, 6)),
                seconds=unit * _log(draw, 0.01, 0.2),
            )
            for _ in range(draw.randrange(0, 3))
        ),
    ]


def _entranced(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A leader is cut off and stands still; it goes on, with what clients sent it meanwhile, while it is still cut off.

    For protocols with leases: others lead by then, and its own lease has run out without its noticing.
    """
    lasts = unit * draw.uniform(1.5, 3.0)
    return [
        Fault(at=at, kind="pause", target=LEADER, seconds=lasts, detail=TIMERS_LAST),
        Fault(at=at, kind="partition", target=SAME, detail="isolate", seconds=lasts + unit),
        # Some of those who had turned away come back shortly before.
        *(Fault(at=at + lasts - unit * draw.uniform(0.0, 0.4), kind="client move") for _ in range(6)),
    ]


def _chased(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """Whoever leads crashes, again and again."""
    return [
        Fault(
            at=at + index * unit * draw.uniform(0.6, 1.8),
            kind="crash",
            target=LEADER,
            detail=draw.choice(("process/", "power/")) + draw.choice(POINTS),
            number=float(draw.randrange(1, 4)),
            seconds=unit * _log(draw, 0.02, 1.0),
        )
        for index in range(draw.randrange(2, 5))
    ]


def _flapping(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A link breaks and mends, breaks and mends."""
    shape = draw.choice(("isolate", "deaf", "mute", "one link"))
    step = unit * draw.uniform(0.2, 0.9)
    return [
        Fault(
            at=at + index * step,
            kind="partition",
            target=LEADER if index == 0 else SAME,
            detail=shape,
            seconds=step * draw.uniform(0.3, 0.9),
            number=float(draw.random() < 0.5),
        )
        for index in range(draw.randrange(3, 6))
    ]


def _left_behind(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A replica misses so much that the others have forgotten it; then it is needed."""
    lasts = unit * draw.uniform(2.0, 5.0)
    return [
        Fault(at=at, kind="partition", target=ANY, detail="isolate", seconds=lasts),
        *(
            Fault(at=at + lasts * draw.uniform(0.5, 1.0), kind="snapshot", target=draw.choice((LEADER, ANY)))
            for _ in range(4)
        ),
        Fault(
            at=at + lasts * draw.uniform(0.98, 1.1),
            kind="crash",
            target=LEADER,
            detail=draw.choice(("process/", "power/")),
            number=1.0,
            seconds=unit * draw.uniform(1.0, 3.0),
        ),
    ]


def _pendulum(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A leader with a slow disk is cut off, replaced, and handed the leadership again while its old writes linger."""
    lasts = unit * draw.uniform(0.9, 1.6)
    return [
        Fault(at=at, kind="slow disk", target=LEADER, number=1e6, seconds=lasts * 1.3),
        Fault(at=at + 0.02 * unit, kind="partition", target=SAME, detail="isolate", seconds=lasts),
        Fault(at=at + lasts + unit * draw.uniform(0.0, 0.3), kind="yield", target=SAME),
        Fault(
            at=at + lasts + unit * draw.uniform(0.1, 1.2),
            kind="crash",
            target=SAME,
            detail="power/",
            number=float(draw.randrange(1, 20)),
            seconds=unit * draw.uniform(0.3, 2.0),
        ),
    ]


def _aftershock(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """All lose power, and again while they recover."""
    return [
        Fault(at=at + index * unit * _log(draw, 0.03, 1.0), kind="power cut", seconds=unit * _log(draw, 0.02, 0.3))
        for index in range(draw.randrange(2, 4))
    ]


def _relapse(draw: random.Random, unit: float, at: float) -> list[Fault]:
    """A process dies while it syncs, its successor reads what was never synced, and the machine loses power."""
    soon = unit * _log(draw, 0.02, 0.5)
    return [
        Fault(
            at=at,
            kind="crash",
            target=draw.choice((LEADER, ANY)),
            detail="process/before a commit is reported",
            number=float(draw.randrange(1, 4)),
            seconds=unit * 0.01,
        ),
        Fault(at=at + soon, kind="power cut", seconds=unit * _log(draw, 0.02, 0.3)),
    ]


_STORIES: Final = (_usurped, _stalled, _chased, _flapping, _left_behind, _pendulum, _aftershock, _relapse)


def _fault(draw: random.Random, kind: str, unit: float, chaos: float) -> Fault:
    at = draw.uniform(0.05, 0.95) * chaos
    target = draw.choice((LEADER, ANY, ANY))
    seconds = 0.0
    detail = ""
    number = 0.0
    if kind == "crash":
        detail = draw.choice(("power", "process"))
        point = draw.choice(POINTS)
        detail += "/" + point
        number = float(draw.randrange(1, 40) if not point else draw.randrange(1, 4))
        seconds = _log(draw, 0.05, 4.0) * unit
    elif kind in {"power cut", "rolling restart", "shut down"}:
        seconds = _log(draw, 0.05, 2.0) * unit
    elif kind == "pause":
        seconds = _log(draw, 0.05, 3.0) * unit
        detail = draw.choice(("now", "now", *(point for point in POINTS if point != "start")))
    elif kind == "partition":
        detail = draw.choice(PARTITIONS)
        seconds = _log(draw, 0.1, 5.0) * unit
        number = float(draw.random() < 0.5)  # 1: frames are held, 0: dropped
    elif kind == "slow link":
        seconds = _log(draw, 0.5, 5.0) * unit
        number = _log(draw, 0.05, 1.5) * unit
    elif kind == "slow disk":
        seconds = _log(draw, 0.5, 5.0) * unit
        number = _log(draw, 5.0, 300.0)
    elif kind == "clock jump":
        number = _log(draw, 0.1, 20.0) * unit
    elif kind == "clock rate":
        number = draw.uniform(0.5, 2.0)
        seconds = _log(draw, 0.5, 5.0) * unit
    return Fault(at=at, kind=kind, target=target, seconds=seconds, detail=detail, number=number)
