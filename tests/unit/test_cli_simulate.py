"""The command `synod simulate`."""

import json

import pytest
from click.testing import CliRunner

from replica.cli import main


@pytest.fixture
def synod():
    return lambda *arguments: CliRunner().invoke(main, ["simulate", *arguments])


def test_clean_seeds_exit_with_zero_and_a_summary(synod):
    result = synod("--protocol", "null", "--replicas", "1", "--seeds", "0:3", "--operations", "30", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["runs"] == 3
    assert summary["operations"] >= 90
    assert summary["failures"] == []


def test_a_failing_seed_is_named_with_its_replay_and_the_replay_fails_the_same_way(synod, tmp_path):
    protocol = tmp_path / "broken.py"
    protocol.write_text(
        "from replica.consensus.multipaxos.planted import planted\nPROTOCOL = planted('phase 1b omits decided slots')\n"
    )
    name = f"{protocol}:PROTOCOL"
    result = synod("--protocol", name, "--seeds", "0:8", "--json")
    assert result.exit_code == 1
    failure = json.loads(result.stdout)["failures"][0]
    assert f"--replay {failure['seed']} --trace" in failure["text"]
    again = synod("--protocol", name, "--replay", str(failure["seed"]), "--trace")
    assert again.exit_code == 1
    assert again.stderr.strip() == failure["text"].strip()
    assert "-> r2" in again.stdout


def test_a_failing_seed_is_shrunk_to_a_plan_that_fails_the_same_way(synod, tmp_path):
    protocol = tmp_path / "broken.py"
    protocol.write_text(
        "from replica.consensus.multipaxos.planted import planted\nPROTOCOL = planted('vote counted before its sync')\n"
    )
    name = f"{protocol}:PROTOCOL"
    plan = tmp_path / "plan.json"
    found = synod("--protocol", name, "--seeds", "0:8", "--operations", "60", "--json")
    failure = json.loads(found.stdout)["failures"][0]
    seed = str(failure["seed"])
    shrunk = synod("--protocol", name, "--operations", "60", "--replay", seed, "--shrink", "--plan", str(plan))
    assert shrunk.exit_code == 1
    assert failure["check"] in shrunk.stderr
    again = synod("--protocol", name, "--plan", str(plan), "--trace")
    assert again.exit_code == 1
    assert failure["check"] in again.stderr
    assert len(json.loads(plan.read_text())["faults"]) <= 3


def test_histories_that_were_not_judged_are_told_and_fail_the_command(synod, monkeypatch):
    monkeypatch.setattr("replica.simulation.registers.STATES_MAX", 1)
    arguments = ("--protocol", "abd", "--seeds", "0:2", "--operations", "60")
    result = synod(*arguments)
    assert result.exit_code == 1
    assert "2 of 2 histories undecided" in result.stdout
    assert "the search gave up" in result.stderr
    monkeypatch.undo()
    result = synod(*arguments)
    assert result.exit_code == 0, result.output
    assert "0 of 2 histories undecided" in result.stdout


def test_a_replay_prints_its_digest(synod):
    one, other = (
        synod("--protocol", "null", "--replicas", "1", "--replay", "5", "--operations", "30") for _ in range(2)
    )
    assert one.exit_code == 0
    assert "digest " in one.stdout
    assert one.stdout == other.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--protocol", "nope"], "multipaxos"),
        (["--protocol", "null", "--seeds", "5:5"], "is empty"),
        (["--protocol", "null", "--seeds", "five"], "form A:B"),
        (["--protocol", "null", "--trace"], "--replay"),
        (["--protocol", "null", "--shrink"], "--replay"),
        (["--protocol", "null", "--plan", "/nowhere/plan.json"], "No such file"),
        (["--protocol", "multipaxos", "--option", "windows=3"], "no such option"),
        (["--protocol", "null", "--faults", "rain"], "crashes"),
    ],
)
def test_wrong_usage_says_what_is_right(synod, arguments, reason):
    result = synod(*arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
