"""The project itself: what is installed, and the check on generated code."""

import importlib.util
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import pytest

import replica

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check_protos():
    spec = importlib.util.spec_from_file_location("check_protos", ROOT / "scripts/check_protos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """A small project with one contract and the code generated from it."""
    contracts, generated = tmp_path / "protos/synod/v1", tmp_path / "replica/wire/v1"
    contracts.mkdir(parents=True)
    generated.mkdir(parents=True)
    (contracts / "peer.proto").write_text('syntax = "proto3";\n')
    (generated / "peer_pb2.py").write_text("generated = True\n")
    return tmp_path


def test_the_installed_version_is_that_of_the_package():
    assert version("synod") == replica.__version__


def test_the_typed_marker_is_where_type_checkers_look():
    assert (Path(replica.__file__).parent / "py.typed").exists()


def test_the_licence_is_declared():
    assert metadata("synod")["License-Expression"] == "Apache-2.0"


def test_protocols_are_found_by_name():
    assert {"fpaxos", "multipaxos", "null", "raft"} <= {point.name for point in entry_points(group="synod.protocols")}


def test_generated_code_of_this_tree_is_current(check_protos):
    assert check_protos.differences(ROOT) == []


def test_a_tree_without_contracts_is_current(check_protos, tmp_path):
    assert check_protos.differences(tmp_path) == []


def test_a_contract_that_was_never_generated_is_reported(check_protos, tree):
    assert any("peer.proto: new" in line for line in check_protos.differences(tree))


def test_a_tree_is_current_right_after_generating(check_protos, tree):
    check_protos.write_manifest(tree)
    assert check_protos.differences(tree) == []


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("protos/synod/v1/peer.proto", "changed"), ("replica/wire/v1/peer_pb2.py", "edited by hand")],
)
def test_a_change_on_either_side_is_reported(check_protos, tree, name, complaint):
    check_protos.write_manifest(tree)
    (tree / name).write_text("something else\n")
    (line,) = check_protos.differences(tree)
    assert name in line
    assert complaint in line


def test_a_missing_generated_file_is_reported(check_protos, tree):
    check_protos.write_manifest(tree)
    (tree / "replica/wire/v1/peer_pb2.py").unlink()
    assert check_protos.differences(tree) == ["replica/wire/v1/peer_pb2.py: missing"]
