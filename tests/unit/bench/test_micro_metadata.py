"""What the commands that measure the metadata store load and ask."""

from collections import Counter
from itertools import islice

from bench.micro_metadata.databases import SQLite
from bench.micro_metadata.scale import LAYER, fill
from bench.micro_metadata.work import metadata_mix, steps
from replica.client import connect_async
from replica.metadata import AsyncMetadata
from replica.metadata.check import check


async def test_what_is_loaded_at_scale_is_whole():
    """The same as a hundred thousand artifacts, with fewer: the checker finds every name, entry and end of an edge."""
    artifacts, told = LAYER + 200, []
    async with connect_async("memory:") as store:
        md = AsyncMetadata(store)
        linked = await fill(md, artifacts, 5 * artifacts, lambda made, links: told.append((made, links)))
        report = await check(store)
        assert not report.count, report.faults
        assert (report.edges, report.entries, report.names) == (linked, artifacts, artifacts + 100)
        assert report.objects == artifacts + artifacts // 10 + 100
        # A transaction takes some ten artifacts; one each would be slow.
        assert report.records < artifacts / 5
        assert told[0] == (0, 0)
        assert told[-1][0] == artifacts - 10
        last = await md.by_name("Step", f"step {artifacts - 1}")
        found = await md.lineage(last, direction="up", hops=2)
        assert {node.name.removeprefix("step ") for node in found.nodes.values() if node.name} > {f"{artifacts - 1}"}
        assert len(found.nodes) == 12


def test_every_side_is_asked_for_the_same():
    one, again, other = (list(islice(steps(worker, 0), 2000)) for worker in (3, 3, 4))
    assert one == again != other
    assert one[0].kind == "create-run"
    for kind, share in metadata_mix().mix.items():
        assert abs(sum(each.kind == kind for each in one) / len(one) - share) < 0.05


def test_the_work_in_sql_is_counted_as_it_is_kept(tmp_path):
    database = SQLite(str(tmp_path / "metadata.sqlite"))
    database.prepare("INTEGER PRIMARY KEY")
    made, runs, experiments = Counter[str](), list[int](), database.experiments()
    assert len(experiments) == metadata_mix().keys
    for step in islice(steps(0, 0), 200):
        created = database.carry_out(step, runs[-1] if runs else 0, experiments[step.experiment], "w", made)
        runs += [created] if created else []
    assert database.judge() == dict(made)
    assert made["runs"] == len(runs)
    database.close()
