"""`synod md`: what it prints."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from replica.cli import main
from replica.client import connect
from replica.metadata import Metadata
from replica.metadata.picture import NoGraphviz, dot, svg, tree
from tests.support.alone import replica_alone

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with replica_alone(tmp_path_factory.mktemp("md")) as address:
        with connect(address) as store:
            md = Metadata(store, actor="tester")
            md.define_type("Data", properties={"rows": int}, index=["rows"])
            md.define_type("Model", properties={"acc": float})
            md.define_type("Train", kind="execution")
            data = md.put_artifact("Data", name="iris", uri="file:iris", properties={"rows": 150})
            with md.execution("Train", name="t1", inputs={"train": data}, context="exp7") as run:
                run.output("Model", name="m1", properties={"acc": 0.93})
                run.log(1, {"loss": 0.5})
            md.update(data, custom={"seen": True})
            md.alias("prod", md.by_name("Model", "m1"))
            md.publish(md.draft("dataset", "hospital", uri="s3://h"))
            md.draft("dataset", "hospital")
        yield address


@pytest.fixture
def run(endpoint) -> Run:
    def call(*arguments: str, status: int = 0) -> Any:
        result = CliRunner().invoke(main, ["md", *arguments, "--endpoints", endpoint])
        assert result.exit_code == status, result.output
        if "--json" in arguments and not status:
            return json.loads(result.output)
        return result.output

    return call


def test_types_are_listed_with_their_indexes(run: Run) -> None:
    assert ["artifact", "Data", "rows:int*"] in [line.split() for line in run("types").splitlines()]
    assert {each["name"] for each in run("types", "--kind", "execution", "--json")} == {"Train"}


def test_objects_are_listed_and_found(run: Run) -> None:
    assert "iris" in run("ls", "Data")
    assert "acc=0.93" in run("find", "Model", "properties.acc > 0.9 AND context = 'exp7'")
    assert run("find", "Model", "properties.acc > 0.95", "--json")["items"] == []
    assert "there are more" in run("find", "-", "", "--limit", "1")


def test_an_object_is_shown_by_any_of_its_names(run: Run) -> None:
    shown = run("show", "Data:iris")
    assert "property      rows = 150" in shown
    assert "input       → Train:t1 [train]" in shown
    facts = run("show", "prod", "--json")
    assert facts["aliases"] == ["prod"]
    identity = facts["object"]["id"]
    assert run("show", str(identity), "--json") == run("show", f"Model:{identity}", "--json")
    assert "hospital@1.0.0" in run("show", "hospital@latest")
    assert "metric        loss" in run("show", "Train:t1")


def test_lineage_is_a_tree_or_a_graph(run: Run) -> None:
    lines = run("lineage", "prod", "--direction", "up").splitlines()
    assert [line.split(" (")[0] for line in lines] == ["Model:m1", "└─ Train:t1", "   └─ [train] Data:iris"]
    graph = run("lineage", "prod", "--dot")
    assert graph.startswith("digraph lineage {")
    assert graph.count("->") == 2
    assert len(run("lineage", "prod", "--json")["nodes"]) == 3


def test_history_and_versions_are_tables(run: Run) -> None:
    lines = run("history", "Data:iris").splitlines()
    assert 'custom: null → {"seen": true}' in lines[1]
    assert "created" in lines[2]
    assert "1.0.0    PUBLISHED" in run("versions", "hospital")
    assert "DRAFT" in run("versions", "hospital")
    assert "dataset  hospital  1.0.0" in run("versions")


def test_the_audit_trail_and_the_checker_can_be_asked(run: Run) -> None:
    assert "tester\tupdate" in run("audit", "Data:iris")
    assert "no faults" in run("check")


def test_what_is_wrong_is_said_with_a_status(run: Run) -> None:
    assert "position 12" in run("find", "Model", "properties. > 1", status=2)
    assert "nothing is called" in run("show", "nobody", status=3)
    assert json.loads(run("show", "Data:nobody", "--json", status=3))["error"] == "NotFound"
    assert "no such type is called 'Nothing'" in run("ls", "Nothing", status=2)


def test_a_tree_names_what_was_shown_already_and_does_not_go_round_in_circles() -> None:
    with connect("memory:") as store:
        md = Metadata(store)
        md.define_type("D")
        md.define_type("E", kind="execution")
        data, other = md.put_artifact("D", name='a "quoted"\\name'), md.put_artifact("D", name="b")
        for name in ("one", "two"):
            made = md.put_execution("E", name=name)
            md.put_input(made, data)
            md.put_output(made, other)
        md.put_output(made, data)
        found = md.lineage(data, direction="down")
    lines = tree(found)
    assert len(lines) == 6
    assert sum("D:b" in line for line in lines) == 2
    graph = dot(found)
    assert "a &quot;quoted&quot;\\name" in graph
    assert '\\"quoted\\"\\\\name' in graph


def test_without_graphviz_a_picture_is_refused_with_advice(monkeypatch) -> None:
    monkeypatch.setattr("replica.metadata.picture.shutil.which", lambda _name: None)
    with pytest.raises(NoGraphviz, match="install Graphviz"):
        svg("digraph {}")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_with_graphviz_there_is_a_picture(run: Run, tmp_path: Path) -> None:
    run("lineage", "prod", "--svg", str(tmp_path / "lineage.svg"))
    assert "Data" in (tmp_path / "lineage.svg").read_text()


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_a_picture_bears_whatever_names_there_are() -> None:
    names = ["<b>bold</b> & more", "tab\tand\x01control\nline", 'quote " and \\ \\n', "日本", "]>;"]
    with connect("memory:") as store:
        md = Metadata(store)
        md.define_type("<D&>", properties={"p<": str})
        md.define_type("E", kind="execution")
        run = md.put_execution("E")
        for name in names:
            md.put_output(run, md.put_artifact("<D&>", name=name, properties={"p<": name}), role=name)
        picture = svg(dot(md.lineage(run, direction="down")))
    texts = ["".join(each.itertext()) for each in ET.fromstring(picture).iter() if each.tag.endswith("}text")]
    assert texts.count("<D&>") == len(names)
    for name in ("<b>bold</b> & more", "tab\N{REPLACEMENT CHARACTER}and", "日本", "]>;"):
        assert any(name in text for text in texts), name
