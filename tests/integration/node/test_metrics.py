"""What a replica counts: the table that documents it, the exposition and the log say the same names."""

import asyncio
import urllib.request
from pathlib import Path
from typing import Any

import structlog
from structlog.testing import CapturingLogger

from replica.node.replica import Replica
from tests.support.nodes import eventually, free_addresses, nodes

README = Path(__file__).parents[3] / "replica" / "node" / "README.md"


def documented() -> dict[str, tuple[str, str]]:
    """Name to kind and meaning, from the table."""
    rows = (line.strip("| ").split(" | ") for line in README.read_text().splitlines() if line.startswith("| `synod_"))
    return {name.strip("`"): (kind, text) for name, kind, text in rows}


async def test_the_table_says_what_is_exposed_no_less_and_no_more(tmp_path: Path) -> None:
    address = free_addresses(1)[0]
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start(listen__metrics=address)
        await cluster.ready()
        node = cluster.running[1]
        node.refresh_gauges()
        exposed = {
            f"{family.name}_total" if family.type == "counter" else family.name: (family.type, family.documentation)
            for family in node.metrics.collect()
        }
        assert exposed == documented()

        def scrape() -> str:
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(scrape)
        missing = [name for name in exposed if f"# TYPE {name}" not in text]
        assert not missing


async def test_the_log_says_the_same_names(tmp_path: Path) -> None:
    async with nodes(tmp_path, count=1) as cluster:
        config = cluster.config(1, bootstrap=True, log__metrics_every_s=0.1)
        logger = CapturingLogger()
        cluster.running[1] = Replica(config, structlog.wrap_logger(logger, processors=[]))
        await cluster.running[1].start()

        def lines() -> list[dict[str, Any]]:
            return [call.kwargs for call in logger.calls if call.kwargs.get("event") == "metrics"]

        await eventually(lines, "a line of metrics")
    names = {name.removeprefix("synod_") for name, (kind, _) in documented().items() if kind == "gauge"}
    assert names - {"peer_round_trip_seconds"} <= lines()[-1].keys()
