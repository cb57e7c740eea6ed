"""The data commands of the program: output, exit statuses, bytes of every kind."""

import base64
import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from replica.cli import main
from replica.cli.text import escaped, jsonable
from replica.wire.typed import StatusReply


@pytest.fixture
def synod(served):
    """Runs the program against the cluster."""
    runner = CliRunner()

    def run(*arguments: str, stdin: Any = None) -> Result:
        return runner.invoke(main, arguments, input=stdin, env={"SYNOD_ENDPOINTS": ",".join(served.endpoints)})

    run("delete", "--prefix", "")
    return run


def test_put_and_get(synod):
    assert synod("put", "key", "value").exit_code == 0
    result = synod("get", "key")
    assert (result.exit_code, result.stdout_bytes) == (0, b"value")


def test_any_bytes_pass_through_unchanged(synod):
    content = bytes(range(256)) * 3
    assert synod("put", "key", stdin=content).exit_code == 0
    assert synod("get", "key").stdout_bytes == content
    facts = json.loads(synod("get", "key", "--json").stdout)
    assert base64.b64decode(facts["value"]["base64"]) == content


def test_a_value_comes_from_a_file(synod, tmp_path):
    (tmp_path / "value").write_bytes(b"\x00\xff")
    assert synod("put", "key", "--file", str(tmp_path / "value")).exit_code == 0
    assert synod("get", "key").stdout_bytes == b"\x00\xff"
    assert synod("put", "key", "value", "--file", str(tmp_path / "value")).exit_code == 2


def test_a_key_that_is_not_there_exits_with_three(synod):
    result = synod("get", "nothing")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "nothing" in result.stderr
    assert synod("get", "nothing", "--json").stdout == "null\n"
    assert synod("delete", "nothing").exit_code == 3


def test_a_condition_that_does_not_hold_exits_with_four(synod):
    assert synod("put", "key", "1", "--if-revision", "0").exit_code == 0
    result = synod("put", "key", "2", "--if-revision", "0", "--json")
    assert result.exit_code == 4
    error = json.loads(result.stderr)
    assert (error["error"], error["may_have_taken_effect"]) == ("ConditionFailed", False)


def test_unreachable_replicas_exit_with_five(synod):
    result = synod("put", "key", "1", "--endpoints", "127.0.0.1:1", "--timeout", "0.2")
    assert result.exit_code == 5
    assert "it had no effect" in result.stderr


def test_an_open_outcome_exits_with_six(synod, served):
    synod("put", "key", "1")
    served.replicas[0].scripts.append(lambda _stream, _frame: True)
    result = synod("put", "key", "2", "--timeout", "0.2", "--json")
    assert result.exit_code == 6
    assert json.loads(result.stderr)["may_have_taken_effect"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "", "v"),
        ("put", "k" * 300, "v"),
        ("get", "k", "--endpoints", "nowhere:x"),
        ("range", "p", "--first", "a"),
    ],
)
def test_wrong_usage_exits_with_two(synod, arguments):
    assert synod(*arguments).exit_code == 2


def test_range_prints_a_line_a_key_with_nothing_lost(synod):
    synod("put", "a\tb", stdin=b"line\nline\\ \xff")
    synod("put", "é", "ü")
    assert synod("range").stdout == "a\\tb\tline\\nline\\\\ \\xff\né\tü\n"
    assert synod("range", "--keys-only", "--reverse").stdout == "é\na\\tb\n"
    assert synod("range", "--count").stdout == "2\n"
    assert synod("range", "--first", "b").stdout == "é\tü\n"
    lines = [json.loads(line) for line in synod("range", "--json").stdout.splitlines()]
    assert [line["key"] for line in lines] == ["a\tb", "é"]
    assert [line["mod_revision"] for line in lines] == sorted(line["mod_revision"] for line in lines)


def test_delete_removes_a_key_or_a_prefix(synod):
    for key in ("a/1", "a/2", "b"):
        synod("put", key, "x")
    assert synod("delete", "b").stdout == "removed 1\n"
    assert json.loads(synod("delete", "--prefix", "a/", "--json").stdout)["count"] == 2
    assert synod("delete", "a", "--prefix", "--if-revision", "1").exit_code == 2


def test_add_prints_the_sum(synod):
    assert synod("add", "n").stdout == "1\n"
    assert synod("add", "n", "--", "-5").stdout == "-4\n"
    synod("put", "text", "x")
    assert synod("add", "text").exit_code == 2


def test_an_old_value_is_read_until_it_is_compacted(synod):
    first = json.loads(synod("put", "key", "old", "--json").stdout)["revision"]
    last = json.loads(synod("put", "key", "new", "--json").stdout)["revision"]
    assert synod("get", "key", "--revision", str(first)).stdout == "old"
    assert synod("compact", str(last)).exit_code == 0
    assert synod("get", "key", "--revision", str(first)).exit_code == 5


def test_a_transaction_from_standard_input(synod):
    synod("put", "a", "1")
    document = {
        "if": [{"check": "compare", "key": "a", "target": "value", "operand": "1"}],
        "then": [
            {"do": "put", "key": "b", "value": {"base64": "/w=="}},
            {"do": "add", "key": "n", "delta": 3},
            {"do": "range", "prefix": "", "keys_only": True},
            {"do": "delete", "key": "a"},
        ],
        "else": [{"do": "get", "key": "a"}],
    }
    result = synod("txn", "--json", stdin=json.dumps(document))
    assert result.exit_code == 0
    outcome = json.loads(result.stdout)
    assert outcome["succeeded"]
    assert outcome["results"][1]["value"] == 3
    assert [item["key"] for item in outcome["results"][2]["items"]] == ["a", "b", "n"]
    result = synod("txn", stdin=json.dumps(document))
    assert result.exit_code == 4
    assert result.stdout.startswith("else at revision")


def test_a_transaction_from_a_file_may_demand_that_a_range_is_unchanged(synod, tmp_path):
    revision = json.loads(synod("put", "job/1", "x", "--json").stdout)["revision"]
    path = tmp_path / "txn.json"
    condition = {"check": "unchanged", "prefix": "job/", "since": revision}
    path.write_text(json.dumps({"if": [condition], "then": [{"do": "delete_range", "prefix": "job/"}]}))
    assert synod("txn", str(path)).exit_code == 0
    assert synod("txn", str(path)).exit_code == 4


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        '{"then": [{"do": "putt", "key": "a", "value": "1"}]}',
        '{"then": [{"do": "put", "key": "a", "value": "1", "if_revison": 3}]}',
        '{"then": [{"do": "delete_range"}]}',
        '{"if": [{"check": "compare", "key": "a", "target": "value", "operand": 1}], "then": []}',
    ],
)
def test_a_document_that_makes_no_sense_is_wrong_usage(synod, document):
    result = synod("txn", stdin=document)
    assert result.exit_code == 2
    assert "document" in result.stderr


def test_status_shows_every_replica(synod, served):
    for replica in served.replicas:
        role = "leader" if replica.number == 1 else "follower"
        replica.status = StatusReply(
            cluster="c", replica=replica.number, role=role, leader=1, ready=True, durability="sync", sync_mode="inline"
        )
    result = synod("status")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cluster c")
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    assert json.loads(synod("status", "--json").stdout)[0]["role"] == "leader"


def test_status_of_a_cluster_that_is_not_ready_exits_with_five(synod, served):
    for replica in served.replicas:
        replica.status = StatusReply(replica=replica.number, problem="no leader is known")
    result = synod("status")
    assert result.exit_code == 5
    assert "no leader is known" in result.stdout
    assert synod("status", "--endpoints", "127.0.0.1:1", "--timeout", "0.2").exit_code == 5


@pytest.mark.parametrize("command", ["put", "get", "delete", "range", "add", "compact", "txn"])
def test_the_exit_statuses_are_documented(synod, command):
    assert "6  nobody knows whether it was done" in synod(command, "--help").stdout


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"plain", "plain"), ("ü".encode(), "ü"), (b"\n\t\\", "\\n\\t\\\\"), (b"\x00\xff", "\\x00\\xff"), (b"", "")],
)
def test_escaping(content, text):
    assert escaped(content) == text


def test_bytes_in_json_are_text_where_they_can_be():
    assert jsonable("ü".encode()) == "ü"
    assert jsonable(b"\xff") == {"base64": "/w=="}
