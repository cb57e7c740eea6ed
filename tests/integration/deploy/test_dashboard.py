"""The dashboard: every query of it returns data from a Prometheus that scrapes a live cluster."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import Cluster
from replica.client import connect
from tests.support.nodes import free_addresses

OBSERVABILITY = Path(__file__).parents[3] / "deploy" / "observability"
PATIENCE_S = 120.0
RATE_INTERVAL = "15s"
"""What Grafana puts in the place of ``$__rate_interval``: several scrapes."""


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OBSERVABILITY / "synod.json").read_text())
    return found


def queries() -> list[str]:
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    found += [each["expr"] for each in dashboard()["annotations"]["list"]]
    return [query.replace("$__rate_interval", RATE_INTERVAL) for query in found]


def test_the_dashboard_shows_what_one_asks_first_and_no_panel_covers_another() -> None:
    panels = dashboard()["panels"]
    titles = " ".join(panel["title"] for panel in panels).lower()
    for subject in ("throughput", "time goes", "elections", "queues", "lag", "disk"):
        assert subject in titles
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    source = yaml.safe_load((OBSERVABILITY / "datasource.yaml").read_text())["datasources"][0]["uid"]
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {source}


@contextmanager
def prometheus(folder: Path, targets: list[str]) -> Iterator[str]:
    """Debian's Prometheus with the configuration that is shipped, and these targets; yields its address."""
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yaml").read_text())
    config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (address,) = free_addresses(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(address: str, query: str) -> list[float]:
    """The values that a query gives now; none while Prometheus is not up."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            result = json.loads(answer.read())["data"]
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        pytest.fail(f"{query}: {error.read().decode()}")
    except urllib.error.URLError:
        return []
    rows = [result["result"]] if result["resultType"] == "scalar" else [row["value"] for row in result["result"]]
    return [float(value) for _, value in rows if not math.isnan(float(value))]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_query_of_the_dashboard_returns_data(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus: apt-get install prometheus")
    cluster = Cluster.create(tmp_path / "cluster", base_port=0, metrics=True)
    stop = threading.Event()

    def load(endpoints: str) -> None:
        with connect(endpoints, timeout_s=60.0) as store:
            number = 0
            while not stop.is_set():
                number += 1
                store.put(f"key-{number % 100}", b"x" * 100)
                store.get(f"key-{number % 100}")

    worker: threading.Thread | None = None
    try:
        cluster.up()
        worker = threading.Thread(target=load, args=(",".join(cluster.endpoints),))
        worker.start()
        targets = [replica.metrics for replica in cluster.layout.replicas]
        with prometheus(tmp_path, targets) as address:
            deadline = time.monotonic() + PATIENCE_S
            silent = queries()
            moved = False
            while silent or ask(address, 'sum(up{job="synod"})') != [3.0]:
                assert time.monotonic() < deadline, "\n".join(["no data from:", *silent])
                if not moved and ask(address, "sum(synod_ready)") == [3.0]:
                    leader = cluster.leader()
                    if leader is not None:
                        cluster.restart(leader)  # so that leadership moves, which the annotation marks
                        moved = True
                silent = [query for query in silent if not ask(address, query)]
                time.sleep(0.5)
    finally:
        stop.set()
        if worker is not None:
            worker.join(timeout=90)
        cluster.down()
