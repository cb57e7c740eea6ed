"""What TLS costs: puts a second and latencies with mutual TLS beside plain text, as ratios within one run.

``python -m bench.micro_tls [--in-flight 64] [--seconds 4] [--repetitions 3] [--json]`` starts two clusters of three
replicas, one in plain text and one with mutual TLS between replicas and for clients, and loads them in turns, so that
whatever else the machine does meets both alike. The ratio is that of the medians. With ``--tokens`` a token with a
prefix is measured as a third condition, on top of TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.pipeline import KEYS, WARM_UP_S
from deploy import Cluster
from replica.client import connect_async

PREFIX = "measured/"


async def load(endpoints: str, options: dict[str, str], in_flight: int, seconds: float) -> dict[str, float]:
    """Puts for so long; puts a second and the median latency in milliseconds."""
    latencies: list[float] = []
    async with connect_async(endpoints, timeout_s=30.0, **options) as store:  # type: ignore[arg-type]
        begins = time.monotonic() + WARM_UP_S
        ends = begins + seconds

        async def one(number: int) -> None:
            key = number
            while (now := time.monotonic()) < ends:
                key = (key + in_flight) % KEYS
                await store.put(f"{PREFIX}{key}", b"x" * 128)
                if now >= begins:
                    latencies.append(time.monotonic() - now)

        await asyncio.gather(*(one(number) for number in range(in_flight)))
    return {"puts_per_s": len(latencies) / seconds, "median_ms": 1000 * statistics.median(latencies)}


def token_of(folder: Path) -> tuple[Path, str]:
    """A file of tokens with one in it, and that one."""
    from click.testing import CliRunner

    from deploy.security_cli import token

    file = folder / "tokens.toml"
    made = CliRunner().invoke(token, [str(file), "--name", "load", "--role", "write", "--prefix", PREFIX])
    assert made.exit_code == 0, made.output
    return file, made.output.strip()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all conditions in turns."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file, token = token_of(Path(folder))
        conditions: dict[str, tuple[Cluster, dict[str, str]]] = {}
        try:
            for name in ("plain", "tls", *(["tls and token"] if arguments.tokens else [])):
                node = {"security": {"tokens": str(file)}} if "token" in name else {}
                cluster = Cluster.create(Path(folder) / name, replicas=3, base_port=0, tls=name != "plain", node=node)
                options = {"token": token} if "token" in name else {}
                if cluster.layout.tls:
                    access = cluster.access
                    options |= {
                        "tls_authority": access.authority,
                        "tls_certificate": access.certificate,
                        "tls_key": access.key,
                    }
                conditions[name] = cluster, options
                cluster.up(wait="token" not in name)
            for _ in range(arguments.repetitions):
                for name, (cluster, options) in conditions.items():
                    endpoints = ",".join(cluster.endpoints)
                    one = asyncio.run(load(endpoints, options, arguments.in_flight, arguments.seconds))
                    found.setdefault(name, []).append(one)
        finally:
            for cluster, _ in conditions.values():
                cluster.down(timeout_s=5.0)
    medians = {
        name: {each: statistics.median(run[each] for run in runs) for each in runs[0]} for name, runs in found.items()
    }
    plain = medians["plain"]
    return {
        "in_flight": arguments.in_flight,
        "runs": found,
        "medians": medians,
        "ratios": {
            name: {each: value / plain[each] for each, value in each_of.items()} for name, each_of in medians.items()
        },
    }


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro_tls")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tokens", action="store_true", help="Measure TLS with tokens, too.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, medians in result["medians"].items():
        ratio = result["ratios"][name]
        sys.stdout.write(
            f"{name:14s} {medians['puts_per_s']:8.0f} puts/s ({ratio['puts_per_s']:.2f} of plain)  "
            f"{medians['median_ms']:7.2f} ms ({ratio['median_ms']:.2f})\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
