"""The commands `synod model …` and `synod advise`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .errors import ModelError, Saturated

if TYPE_CHECKING:
    from .placement import NetworkTime
    from .rounds import Round
    from .system import Calibration, Deployment, Predicted

__all__ = ["advise", "model"]


class _Refusal(click.ClickException):
    """A question that cannot be answered: one line, status 1."""


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _print_json(found: Any) -> None:
    click.echo(json.dumps(msgspec.to_builtins(found), indent=2))


@click.group()
def model() -> None:
    """Predict performance: the study's analytic model, and that of this build."""


@model.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Where to store it.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="A folder on the disk that counts.")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="For each measurement.")
@click.option("--passes", type=int, default=None, help="How often everything is measured; constants are medians.")
@click.option("--strict", is_flag=True, help="Store nothing, and fail, where the constants are not to be trusted.")
@click.option("--protocol", "protocols", multiple=True, help="Whose steps to measure; default: all that are installed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def calibrate(  # noqa: PLR0917 - a click command takes its options in one list
    out: Path | None,
    folder: Path | None,
    seconds: float,
    passes: int | None,
    strict: bool,
    protocols: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what the parts of this build cost on this machine.

    Nothing of the whole is measured, only its parts alone, several times. Takes about a minute and a half; run it on a
    quiet machine: it says when other programs kept this one busy, or when the constants did not hold still.
    """
    from replica.tuning import tune_grpc

    tune_grpc(os.environ)  # as replicas and generators wait for their sockets; before anything imports grpc
    from replica.consensus.registry import available

    from .calibration import DEFAULT_FILE, PASSES, doubts, store
    from .calibration import calibrate as measure
    from .rounds import PROTOCOLS

    known = sorted(set(available()) & set(PROTOCOLS))
    for name in protocols:
        if name not in known:
            raise _Refusal(f"--protocol: {name!r} cannot be calibrated (can be: {', '.join(known)})")
    counts = {name: (1,) if name == "null" else (3, 5) for name in protocols or known}
    path = out or DEFAULT_FILE
    try:
        found = measure(
            counts,
            folder=folder,
            seconds=seconds,
            passes=PASSES if passes is None else passes,
            report=lambda text: click.echo(f"measuring {text}", err=True),
        )
        reasons = doubts(found)
        if strict and reasons:
            raise _Refusal("; ".join(reasons) + ": nothing was stored")
        store(path, found)
    except (ModelError, OSError) as error:
        raise _Refusal(str(error)) from None
    if as_json:
        _print_json(found)
    else:
        _print_calibration(found)
        click.echo(f"stored in {path}")
    for reason in reasons:
        click.echo(f"not to be trusted: {reason}", err=True)


def _print_calibration(found: Calibration) -> None:
    def moved(name: str) -> str:
        return f"{found.spread[name]:.0%}" if name in found.spread else ""

    rows = [
        (field, f"{value:.3f}" if isinstance(value, float) else str(value), moved(field))
        for field, value in msgspec.structs.asdict(found).items()
        if field not in {"steps", "format", "rounds", "synced_rounds", "spread"}
    ]
    constants = ("constant", "value", "spread")
    _print_table(f"Calibration (times in µs; medians of {found.passes} passes and their spread)", constants, rows)
    _print_table(
        "Rounds among replicas: transports alone, and transports and synced logs (µs)",
        ("replicas", "answered", "+ operation", "processor: who asks", "who answers"),
        [
            (
                f"{count}{kind}",
                ", ".join(f"{us:.0f}" for us in costs.answered_us),
                f"{costs.operation_us:.2f}",
                f"{costs.leading_us:.0f}",
                f"{costs.following_us:.0f}",
            )
            for kind, rounds in (("", found.rounds), (", synced", found.synced_rounds))
            for count, costs in sorted(rounds.items())
        ],
    )
    steps = [
        (
            name,
            *(
                f"{getattr(costs, f'{role}_{part}_us'):.2f}"
                for role in ("leading", "following")
                for part in ("turn", "command", "operation")
            ),
        )
        for name, costs in sorted(found.steps.items())
    ]
    columns = (
        "protocol/replicas",
        "leading: turn",
        "+ command",
        "+ operation",
        "following: turn",
        "+ command",
        "+ operation",
    )
    _print_table("Steps of the protocols (µs)", columns, steps)


@model.command()
@click.option("--protocol", required=True, help="Its name.")
@click.option("--replicas", type=int, default=3, show_default=True)
@click.option("--topology", default=None, help="A shipped topology or a .toml file; default: everything on loopback.")
@click.option("--leader", default=None, help="The leader's region; default: the first.")
@click.option("--workload", default=None, help="A workload's name or file: its write share, values and conflicts.")
@click.option("--in-flight", "in_flight", default="1,16,64,256,512", show_default=True, help="Of a closed loop.")
@click.option("--rate", "rates", default=None, help="Of an open loop instead, operations a second, comma-separated.")
@click.option("--durability", type=click.Choice(["sync", "none"]), default="sync", show_default=True)
@click.option("--batch-max", type=int, default=512, show_default=True)
@click.option("--q2", type=int, default=None, help="FPaxos: phase-2 quorum.")
@click.option("--zone-failures", type=int, default=0, show_default=True, help="WPaxos: f_z.")
@click.option("--conflict", type=float, default=None, help="The share of conflicting operations, 0 to 1.")
@click.option("--locality", type=float, default=None, help="The share of local operations, 0 to 1.")
@click.option("--write-share", type=float, default=None, help="0 to 1.")
@click.option("--calibration", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Of this machine.")
@click.option("--study", is_flag=True, help="The study's constants instead of this machine's (open loop, M/D/1).")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Draw latency against rate."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(  # noqa: PLR0917 - a click command takes its options in one list
    protocol: str,
    replicas: int,
    topology: str | None,
    leader: str | None,
    workload: str | None,
    in_flight: str,
    rates: str | None,
    durability: str,
    batch_max: int,
    q2: int | None,
    zone_failures: int,
    conflict: float | None,
    locality: float | None,
    write_share: float | None,
    calibration: Path | None,
    study: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Predict throughput and latency by region.

    By default of this build on this machine, from a calibration (`synod model calibrate`); with --study by the model
    and the constants of the study. A rate beyond capacity is answered with the capacity.
    """
    try:
        if study:
            given = _StudyCase(
                protocol=protocol,
                replicas=replicas,
                topology=topology,
                leader=leader,
                q2=q2,
                zone_failures=zone_failures,
                conflict=conflict or 0.0,
                locality=locality,
                write_share=1.0 if write_share is None else write_share,
            )
            _predict_study(given, rates, as_json, plot)
            return
        deployment = _deployment(
            protocol=protocol,
            replicas=replicas,
            topology=topology,
            leader=leader,
            workload=workload,
            durability=durability,
            batch_max=batch_max,
            q2=q2,
            zone_failures=zone_failures,
            conflict=conflict,
            locality=locality,
            write_share=write_share,
        )
        points = _predict_build(deployment, _calibration(calibration), in_flight, rates)
    except (ModelError, ValueError, LookupError) as error:
        raise _Refusal(str(error)) from None
    if plot is not None:
        _plot(plot, f"{protocol}, {replicas} replicas", points)
    if as_json:
        _print_json(points)
        return
    regions = [entry.region for entry in points[0].regions if entry.region]
    columns = ["in flight", "operations/s", "latency ms", "batch", "limit", *(f"{region} ms" for region in regions)]
    rows = [
        [
            f"{point.in_flight:.0f}",
            f"{point.throughput:,.0f}",
            f"{point.latency_ms:.2f}",
            f"{point.batch:.0f}",
            point.limit,
            *(f"{entry.latency_ms:.2f}" for entry in point.regions if entry.region),
        ]
        for point in points
    ]
    _print_table(f"{protocol}, {replicas} replicas, {durability}: predicted for this machine", columns, rows)
    parts = points[-1].parts_ms
    _print_table(
        f"where the latency goes at {points[-1].in_flight:.0f} in flight",
        ("part", "ms"),
        [(name, f"{value:.3f}") for name, value in parts.items()],
    )


class _StudyCase(msgspec.Struct, frozen=True, kw_only=True):
    protocol: str
    replicas: int
    topology: str | None
    leader: str | None
    q2: int | None
    zone_failures: int
    conflict: float
    locality: float | None
    write_share: float


def _study_round(case: _StudyCase) -> tuple[Round, list[NetworkTime]]:
    from deploy.topology import load_topology

    from . import quorum_latency
    from .placement import NetworkTime, network_ms
    from .rounds import round_of

    world = None if case.topology is None else load_topology(case.topology)
    zones = 3 if world is None else len(world.regions.names)
    found = round_of(
        case.protocol,
        case.replicas,
        q2=case.q2,
        zones=min(zones, case.replicas),
        zone_failures=case.zone_failures,
        conflict=case.conflict,
        write_share=case.write_share,
    )
    if world is None:
        waited = found.phases * quorum_latency.lan_ms(case.replicas, found.quorum)
        return found, [NetworkTime(region="lan", to_leader_ms=quorum_latency.STUDY_LAN_MEAN_MS, quorum_ms=waited)]
    return found, network_ms(
        case.protocol,
        world,
        case.replicas,
        leader=case.leader,
        q2=case.q2,
        zone_failures=case.zone_failures,
        conflict=case.conflict,
        locality=case.locality,
        write_share=case.write_share,
    )


def _predict_study(case: _StudyCase, rates: str | None, as_json: bool, plot: Path | None) -> None:
    from . import queueing
    from .constants import STUDY_CODE, STUDY_FIGURES
    from .figures import Figure, Series, draw
    from .rounds import capacity, service_ms

    found, networks = _study_round(case)
    answers: list[dict[str, Any]] = []
    drawn: list[Series] = []
    for costs in (STUDY_FIGURES, STUDY_CODE):
        limit = capacity(found, costs)
        asked = _numbers("--rate", rates) if rates else [limit * load for load in (0.1, 0.25, 0.5, 0.75, 0.9)]
        line: list[tuple[float, float]] = []
        for rate in asked:
            try:
                queued = queueing.md1(rate / found.leaders, service_ms(found, costs) / 1e3) * 1e3
            except Saturated:
                raise Saturated(rate, limit) from None
            served = queued + service_ms(found, costs)
            latencies = {entry.region: entry.total_ms + served for entry in networks}
            mean = sum(latencies.values()) / len(latencies)
            line.append((rate, mean))
            answers.append(
                {"constants": costs.name, "rate": rate, "capacity": limit, "latency_ms": mean, "regions_ms": latencies}
            )
        drawn.append(
            Series(
                label=costs.name, x=tuple(x for x, _ in line), y=tuple(y for _, y in line), dashed=costs is STUDY_CODE
            )
        )
    if plot is not None:
        draw(
            Figure(
                name="prediction",
                title=f"{case.protocol}, {case.replicas} replicas: the study's model",
                x_label="throughput (operations/s)",
                y_label="mean latency (ms)",
                series=tuple(drawn),
            ),
            plot,
        )
    if as_json:
        _print_json(answers)
        return
    regions = list(answers[0]["regions_ms"])
    _print_table(
        f"{case.protocol}, {case.replicas} replicas: the study's model",
        ["constants", "operations/s", "of capacity", "latency ms", *(f"{region} ms" for region in regions)],
        [
            [
                answer["constants"],
                f"{answer['rate']:,.0f}",
                f"{answer['rate'] / answer['capacity']:.0%}",
                f"{answer['latency_ms']:.2f}",
                *(f"{answer['regions_ms'][region]:.2f}" for region in regions),
            ]
            for answer in answers
        ],
    )


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ModelError(f"{option}: {text!r} is not a list of numbers, such as 1,16,64") from None
    for number in found:
        if not number > 0:
            raise ModelError(f"{option}: {number:g} is not above 0")
    return found


def _calibration(path: Path | None) -> Calibration:
    from .calibration import DEFAULT_FILE, load

    return load(path or DEFAULT_FILE)


def _deployment(*, topology: str | None, workload: str | None, **fields: Any) -> Deployment:
    from deploy.topology import load_topology

    from .errors import share
    from .system import Deployment

    given = {name: value for name, value in fields.items() if value is not None}
    if workload is not None:
        given = _from_workload(workload) | given
    for name in ("conflict", "locality", "write_share"):
        if name in given:
            share(name, given[name])
    return Deployment(topology=None if topology is None else load_topology(topology), **given)


def _from_workload(name: str) -> dict[str, Any]:
    """What the model needs of a workload: the share of writes, that of conflicts, and the size of a value."""
    from bench.workload import load_workload

    workload = load_workload(name)
    found: dict[str, Any] = {
        "write_share": sum(share for kind, share in workload.shares.items() if kind not in {"read", "scan"}),
        "value_bytes": workload.value.bytes,
    }
    if workload.conflict is not None:
        found["conflict"] = workload.conflict.percent / 100
    return found


def _predict_build(
    deployment: Deployment, constants: Calibration, in_flight: str, rates: str | None
) -> list[Predicted]:
    from .system import closed_loop, open_loop

    if rates is not None:
        return [open_loop(constants, deployment, rate) for rate in _numbers("--rate", rates)]
    return [closed_loop(constants, deployment, count) for count in _numbers("--in-flight", in_flight)]


def _plot(path: Path, title: str, points: Sequence[Predicted]) -> None:
    from .figures import Figure, Series, draw

    draw(
        Figure(
            name="prediction",
            title=f"{title}: predicted",
            x_label="throughput (operations/s)",
            y_label="mean latency (ms)",
            series=(
                Series(
                    label="predicted",
                    x=tuple(point.throughput for point in points),
                    y=tuple(point.latency_ms for point in points),
                ),
            ),
        ),
        path,
    )


@model.command("disagreements")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--calibration", type=click.Path(dir_okay=False, path_type=Path), help="Default: that of each folder.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def disagreements_command(
    folders: tuple[Path, ...], calibration: Path | None, html: Path | None, as_json: bool
) -> None:
    """Where model and measurement disagree, and by how much: every point of FOLDERS, the worst first.

    Each is a folder of results of `synod bench`. Predictions are by the calibration that lies in it, or by this
    machine's data/calibration.json.
    """
    from rich.console import Console

    from bench.report.disagreement import disagreements, page_of, print_disagreements
    from bench.results import ResultsError, read_folder

    from .beside import model_of

    given = []
    try:
        for folder in folders:
            found = model_of(folder, calibration)
            if found is None:
                raise _Refusal(
                    f"{folder}: there is no calibration of the machine: make one with: synod model calibrate"
                )
            given.append((folder.name, read_folder(folder), found))
    except (ModelError, ResultsError) as error:
        raise _Refusal(str(error)) from None
    compared = disagreements(given)
    if html is not None:
        page_of(compared, html)
    if as_json:
        _print_json(
            {
                "points": [
                    {
                        "results": source,
                        **msgspec.to_builtins(row),
                        "rate_error": row.rate_error,
                        "latency_error": row.latency_error,
                        "within_20_percent": row.good,
                    }
                    for source, row in compared.rows
                ],
                "notes": compared.notes,
            }
        )
        return
    print_disagreements(compared, Console(width=None if sys.stdout.isatty() else 140))
    if html is not None:
        click.echo(f"page: {html}")


@model.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("data/model-figures"), show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, and draw nothing.")
def figures(out: Path, as_json: bool) -> None:
    """The study's model figures and its table of formulas, from its own constants."""
    from .figures import FIGURES, distilled_table, draw

    computed = [make() for make in FIGURES.values()]
    table = distilled_table()
    if as_json:
        _print_json({"figures": computed, "formulas": table})
        return
    _print_table(
        "Load and capacity by the distilled formulas, N = 9",
        ("strategy", "Q", "L", "c", "load", "capacity"),
        [
            (
                str(row["strategy"]),
                str(row["Q"]),
                str(row["L"]),
                f"{row['c']:g}",
                f"{row['load']:.3f}",
                f"{row['capacity']:.3f}",
            )
            for row in table
        ],
    )
    for figure in computed:
        path = out / f"{figure.name}.png"
        draw(figure, path)
        click.echo(f"drawn: {path}")


@click.command()
@click.option("--consensus/--no-consensus", default=None, help="Compare-and-set, transactions, one order?")
@click.option("--wan/--lan", "wan", default=None, help="Do the replicas stand in several regions?")
@click.option("--read-heavy/--write-heavy", default=None, help="More reads than writes, and few conflicts?")
@click.option("--locality/--no-locality", default=None, help="Is an object mostly used from one region at a time?")
@click.option("--dynamic/--static", default=None, help="Does the locality move?")
@click.option("--region-failure/--no-region-failure", default=None, help="Must a lost region not stop the data?")
@click.option("--topology", default=None, help="Predict for this one; default: lan or wan5, as answered.")
@click.option("--replicas", type=int, default=None, help="Default: one a region, at least three.")
@click.option("--value-bytes", type=int, default=100, show_default=True)
@click.option("--durable/--volatile", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; questions that are open are refused.")
def advise(  # noqa: PLR0917 - a click command takes its options in one list
    consensus: bool | None,
    wan: bool | None,
    read_heavy: bool | None,
    locality: bool | None,
    dynamic: bool | None,
    region_failure: bool | None,
    topology: str | None,
    replicas: int | None,
    value_bytes: int,
    durable: bool,
    as_json: bool,
) -> None:
    """Which protocol? The study's flowchart, and the numbers behind its answer.

    Questions that the flags leave open are asked.
    """
    from .advice import Advice
    from .advice import advise as follow

    flags = {
        "consensus": consensus,
        "wan": wan,
        "read-heavy": read_heavy,
        "locality": locality,
        "dynamic": dynamic,
        "region-failure": region_failure,
    }
    answers = {name: answer for name, answer in flags.items() if answer is not None}
    while not isinstance(found := follow(answers), Advice):
        if as_json or not sys.stdin.isatty():
            raise _Refusal(f"the question is open, answer it by a flag: {found.text} (--{found.name} or its opposite)")
        answers[found.name] = click.confirm(found.text)
    try:
        numbers, notes = _numbers_behind(found, topology, replicas, value_bytes, durable, wan=answers.get("wan", False))
    except (ModelError, ValueError) as error:
        raise _Refusal(str(error)) from None
    leaf = found.leaf
    if as_json:
        _print_json(
            {
                "leaf": leaf,
                "path": [{"question": question.name, "answer": answer} for question, answer in found.path],
                "predictions": numbers,
                "extrapolating": notes,
            }
        )
        return
    for question, answer in found.path:
        click.echo(f"  {question.text} {'yes' if answer else 'no'}")
    click.echo(f"→ {' or '.join(leaf.kinds)}: {leaf.because}.")
    click.echo(f"  Synod has: {', '.join(leaf.built) or 'none of these'}.")
    if leaf.missing:
        click.echo(f"  Not in Synod: {', '.join(leaf.missing)}.")
    if numbers:
        regions = list(numbers[0]["regions_ms"])
        _print_table(
            "Predicted, by the study's model (network and message costs; no disk)",
            ["protocol", "capacity/s", *(f"{region} ms" for region in regions)],
            [
                [
                    entry["protocol"],
                    f"{entry['capacity']:,.0f}",
                    *(f"{entry['regions_ms'][region]:.1f}" for region in regions),
                ]
                for entry in numbers
            ],
        )
    for note in notes:
        click.echo(f"Extrapolating: {note}.")


def _numbers_behind(
    advice: Any, topology: str | None, replicas: int | None, value_bytes: int, durable: bool, *, wan: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predictions for what was recommended beside a single leader, and where they go beyond the study."""
    from deploy.topology import load_topology

    from .advice import extrapolations
    from .constants import STUDY_FIGURES
    from .rounds import PROTOCOLS, capacity, service_ms

    name = topology or ("wan5" if wan else None)
    world = None if name is None else load_topology(name)
    regions = 1 if world is None else len(world.regions.names)
    count = replicas if replicas is not None else max(3, regions)
    protocols = [protocol for protocol in (*advice.leaf.built, *advice.leaf.missing) if protocol in PROTOCOLS]
    if "multipaxos" not in protocols:
        protocols.append("multipaxos")
    found = []
    for protocol in protocols:
        case = _StudyCase(
            protocol=protocol,
            replicas=count,
            topology=name,
            leader=None,
            q2=2 if protocol == "fpaxos" and count > 2 else None,
            zone_failures=1 if protocol == "wpaxos" and advice.leaf.name == "wpaxos" and regions > 1 else 0,
            conflict=0.0,
            locality=0.8 if wan else None,
            write_share=0.5,
        )
        costs = msgspec.structs.replace(STUDY_FIGURES, message_bytes=100 + value_bytes)
        if protocol == "epaxos":
            costs = msgspec.structs.replace(costs, penalty=2.0)
        shape, networks = _study_round(case)
        served = service_ms(shape, costs)
        found.append(
            {
                "protocol": protocol,
                "capacity": capacity(shape, costs),
                "regions_ms": {entry.region: entry.total_ms + served for entry in networks},
            }
        )
    longest = 0.0 if world is None else max(world.round_trip_ms.values(), default=0.0)
    notes = extrapolations(replicas=count, round_trip_ms_max=longest, value_bytes=value_bytes, durable=durable)
    return found, notes
