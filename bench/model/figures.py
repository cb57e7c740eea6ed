"""The study's model figures, computed and drawn: `synod model figures`.

Numbers first, pictures of them second: every figure is a table (`Figure`) of series that can be printed, written as
JSON and drawn. The study's constants are those of `constants`; where its constants and its figures do not fit each
other, both are computed and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from deploy.topology import Topology, load_topology

from . import placement, queueing, quorum_latency
from .constants import STUDY_CODE, STUDY_CODE_EPAXOS, STUDY_FIGURES, MessageCosts
from .distilled import STUDY_TABLE, Strategy, capacity, load
from .errors import Saturated
from .rounds import Round, epaxos_capacity, round_of, service_ms
from .rounds import capacity as round_capacity

__all__ = ["FIGURES", "Figure", "Series", "distilled_table", "draw", "epaxos_conflict", "lan_curves", "wan_curves"]

LAN_REPLICAS: Final = 9
CURVE_POINTS: Final = 40


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a figure."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn, and what its axes mean."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]


def _curve(label: str, found: Round, costs: MessageCosts, network_ms: float, *, dashed: bool = False) -> Series:
    """Latency against throughput up to 98 % of capacity, by M/D/1 at the leader: w_Q + s + D."""
    limit = round_capacity(found, costs)
    service = service_ms(found, costs)
    rates, latencies = [], []
    for step in range(1, CURVE_POINTS + 1):
        rate = limit * 0.98 * step / CURVE_POINTS
        try:
            waited = queueing.md1(rate / found.leaders, service / 1e3) * 1e3
        except Saturated:
            break
        rates.append(rate)
        latencies.append(waited + service + network_ms)
    return Series(label=label, x=tuple(rates), y=tuple(latencies), dashed=dashed)


def lan_curves() -> Figure:
    """Nine replicas in one LAN, with both sets of constants (the study's figures against its authors' code)."""
    series = []
    for costs, dashed in ((STUDY_FIGURES, False), (STUDY_CODE, True)):
        source = "t_in 0.0105 ms" if costs is STUDY_FIGURES else "t_in 0.025 ms"
        for label, found, epaxos in (
            ("Paxos", round_of("multipaxos", LAN_REPLICAS), False),
            ("FPaxos, q2 = 3", round_of("fpaxos", LAN_REPLICAS, q2=3), False),
            ("EPaxos, no conflict", round_of("epaxos", LAN_REPLICAS), True),
            ("WPaxos 3×3", round_of("wpaxos", LAN_REPLICAS), False),
        ):
            used = msgspec.structs.replace(costs, penalty=2.0, message_bytes=110) if epaxos else costs
            network = quorum_latency.STUDY_LAN_MEAN_MS + quorum_latency.lan_ms(LAN_REPLICAS, found.quorum)
            series.append(_curve(f"{label} ({source})", found, used, network, dashed=dashed))
    return Figure(
        name="lan",
        title="LAN, nine replicas: the study's model",
        x_label="throughput (operations/s)",
        y_label="mean latency (ms)",
        series=tuple(series),
    )


def wan_curves(topology: Topology | None = None) -> Figure:
    """Five regions with a replica each (WPaxos: three in each), the mean over the regions' clients."""
    world = topology or load_topology("wan5")
    regions = len(world.regions.names)
    series = []
    for label, protocol, replicas, options in (
        ("Paxos", "multipaxos", regions, {}),
        ("FPaxos, q2 = 2", "fpaxos", regions, {"q2": 2}),
        ("EPaxos, no conflict", "epaxos", regions, {}),
        ("EPaxos, 30 % conflicts", "epaxos", regions, {"conflict": 0.3}),
        ("WPaxos, f_z = 0, locality 0.7", "wpaxos", 3 * regions, {"locality": 0.7}),
        ("WPaxos, f_z = 1, locality 0.7", "wpaxos", 3 * regions, {"locality": 0.7, "zone_failures": 1}),
    ):
        given = dict(options)
        locality = given.pop("locality", None)
        conflict = float(given.get("conflict", 0.0))
        q2 = given.get("q2")
        failures = int(given.get("zone_failures", 0))
        times = placement.network_ms(
            protocol,
            world,
            replicas,
            q2=None if q2 is None else int(q2),
            conflict=conflict,
            locality=locality,
            zone_failures=failures,
        )
        found = round_of(
            protocol,
            replicas,
            q2=None if q2 is None else int(q2),
            conflict=conflict,
            zones=regions,
            zone_failures=failures,
        )
        costs = STUDY_FIGURES
        if found.penalty:
            costs = msgspec.structs.replace(costs, penalty=2.0, message_bytes=110)
        series.append(_curve(label, found, costs, sum(time.total_ms for time in times) / len(times)))
    return Figure(
        name="wan",
        title="WAN, five regions: the study's model",
        x_label="throughput (operations/s)",
        y_label="mean latency over the regions (ms)",
        series=tuple(series),
    )


def epaxos_conflict(replicas: int = 5) -> Figure:
    """EPaxos's capacity against the conflict probability, and Paxos beside it (as the study draws it: no wire)."""
    shares = tuple(step / 20 for step in range(21))
    paxos = round_capacity(round_of("multipaxos", replicas), STUDY_CODE, wire=False)
    doubled = msgspec.structs.replace(STUDY_CODE_EPAXOS, penalty=2.0)
    return Figure(
        name="epaxos-conflict",
        title=f"Capacity against conflicts, {replicas} replicas (t_in 0.025 ms, t_out 0.001 ms)",
        x_label="conflict probability c",
        y_label="capacity (operations/s)",
        series=(
            Series(
                label="EPaxos, no penalty",
                x=shares,
                y=tuple(epaxos_capacity(replicas, share, STUDY_CODE_EPAXOS) for share in shares),
            ),
            Series(
                label="EPaxos, processing doubled",
                x=shares,
                y=tuple(epaxos_capacity(replicas, share, doubled) for share in shares),
            ),
            Series(label="Paxos", x=shares, y=tuple(paxos for _ in shares), dashed=True),
        ),
    )


def distilled_table(conflicts: Sequence[float] = (0.0, 0.25, 0.5, 1.0)) -> list[dict[str, float | str]]:
    """Loads and capacities of the study's three strategies at N = 9; Paxos and WPaxos know no conflicts."""
    rows: list[dict[str, float | str]] = []
    for strategy in STUDY_TABLE:
        for conflict in conflicts if strategy.leaders == strategy.replicas else (0.0,):
            asked: Strategy = msgspec.structs.replace(strategy, conflict=conflict)
            rows.append(
                {
                    "strategy": strategy.name,
                    "N": strategy.replicas,
                    "Q": strategy.quorum,
                    "L": strategy.leaders,
                    "c": conflict,
                    "load": load(asked),
                    "capacity": capacity(asked),
                }
            )
    return rows


FIGURES: Final = {"lan": lan_curves, "wan": wan_curves, "epaxos-conflict": epaxos_conflict}
"""By name; each without arguments is as the study has it."""


def draw(figure: Figure, path: Path) -> None:
    """Write the figure as a picture; the kind follows the suffix (.png, .svg, .pdf)."""
    import matplotlib as mpl  # half a second to import, and only pictures need it

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    colours: dict[str, Any] = {}
    for series in figure.series:
        family = series.label.split(" (t_in")[0]
        line = axes.plot(
            series.x,
            series.y,
            linestyle="--" if series.dashed else "-",
            color=colours.get(family),
            label=series.label,
        )[0]
        colours[family] = line.get_color()
    axes.set_title(figure.title)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(visible=True, alpha=0.3)
    fig.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)
