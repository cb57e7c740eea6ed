"""`synod check`: exit status and messages."""

import json

import pytest
from click.testing import CliRunner

from replica.cli import main
from replica.verification import Header, Recorder


@pytest.fixture
def run(tmp_path):
    """Run `synod check` on lines, or on a history that reads one of the values that were written."""

    def invoke(*arguments, content=None, value="1"):
        path = tmp_path / "history.jsonl"
        if content is None:
            with path.open("wb") as sink:
                recorder = Recorder(Header(model="register"), sink)
                for number in range(12):
                    recorder.invoke(number, "write", 0.0, key="x", arguments={"value": str(number)})
                recorder.ok(recorder.invoke("reader", "read", 1.0, key="x"), 2.0, {"value": value})
                recorder.close()
        else:
            path.write_bytes(content)
        return CliRunner().invoke(main, ["check", str(path), *arguments])

    return invoke


def test_a_linearizable_history_exits_with_zero(run):
    result = run()
    assert result.exit_code == 0
    assert "verdict     ok" in result.output


def test_a_violation_exits_with_one_and_says_what_is_stuck(run, tmp_path):
    result = run("--html", str(tmp_path / "out.html"), value="other")
    assert result.exit_code == 1
    assert "violation" in result.output
    assert "it read 'other'" in result.output
    assert "line 14" in result.output
    assert "<svg" in (tmp_path / "out.html").read_text()


def test_a_violation_as_json_is_one_object(run):
    result = run("--json", value="other")
    facts = json.loads(result.output)
    assert (result.exit_code, facts["verdict"]) == (1, "violation")
    assert facts["violation"]["stuck"] == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1"),
        (b'{"type":"header"}\n{"type":\n', "line 2"),
        (b'{"type":"header"}\n{"type":"invoke","id":1', "line 2: the history is truncated"),
    ],
)
def test_a_malformed_history_exits_with_two_and_names_the_line(run, content, message):
    result = run(content=content)
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_unknown_model_exits_with_two_and_lists_what_there_is(run):
    result = run("--model", "set")
    assert result.exit_code == 2
    assert "cas-register, kv, register" in result.stderr


def test_a_history_of_another_model_exits_with_two(run):
    result = run("--model", "kv")
    assert result.exit_code == 2
    assert "line 2" in result.stderr


def test_a_missing_history_exits_with_two(tmp_path):
    result = CliRunner().invoke(main, ["check", str(tmp_path / "none.jsonl")])
    assert result.exit_code == 2


def test_out_of_budget_exits_with_three(tmp_path):
    path = tmp_path / "history.jsonl"
    with path.open("wb") as sink:
        recorder = Recorder(Header(model="register"), sink)
        writes = [recorder.invoke(each, "write", 0.0, key="x", arguments={"value": each}) for each in range(12)]
        for each in writes:
            recorder.ok(each, 1.0)
        recorder.ok(recorder.invoke("reader", "read", 2.0, key="x"), 3.0, {"value": 99})
        recorder.close()
    result = CliRunner().invoke(main, ["check", str(path), "--budget", "100"])
    assert result.exit_code == 3
    assert "unknown" in result.output
