"""The program `synod`: how commands are found, and how failures reach the user."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import replica
from replica.cli import CORE_COMMANDS, main
from replica.cli.lazy import DEBUG_VARIABLE, LazyGroup


@pytest.fixture
def runner():
    return CliRunner()


@pytest.fixture
def group(monkeypatch):
    """A program with one command of each kind; its commands are attributes of this module."""
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    return LazyGroup(
        name="program",
        core={
            "fails": f"{__name__}:fails",
            "greets": f"{__name__}:greets",
            "missing": "no_such_module_anywhere:command",
            "plain": f"{__name__}:runner",
        },
    )


@click.command()
def fails():
    """Fail as a bug would."""
    raise RuntimeError("the first line\nand the second")


@click.command()
@click.option("--name", required=True)
def greets(name):
    """Greet somebody."""
    click.echo(f"hello {name}")


def test_version_names_the_version(runner):
    result = runner.invoke(main, ["version"])
    assert result.exit_code == 0
    assert replica.__version__ in result.output


def test_version_as_json_is_one_object(runner):
    result = runner.invoke(main, ["version", "--json"])
    facts = json.loads(result.output)
    assert facts["synod"] == replica.__version__
    assert facts["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert facts["grpcio"]


def test_version_loads_neither_grpc_nor_the_rest_of_the_store():
    program = (
        "import sys; from replica.cli import main; main(['version'], standalone_mode=False);"
        "heavy = {'grpc', 'google.protobuf', 'lmdb', 'uvloop', 'asyncio', 'replica.node', 'replica.client'};"
        "print('loaded:', *sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1].split() == ["loaded:"]


def test_the_installed_program_runs():
    result = subprocess.run(
        [sys.executable, "-c", "from replica.cli import main; main()", "version", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout)["synod"] == replica.__version__


def test_every_core_command_can_be_loaded():
    context = click.Context(main)
    for name in CORE_COMMANDS:
        assert isinstance(main.get_command(context, name), click.Command)


def test_commands_of_other_packages_are_listed_without_being_loaded():
    assert {"cluster", "member"} <= set(main.list_commands(click.Context(main)))


def test_an_unknown_command_is_a_usage_error_that_lists_what_there_is(runner):
    result = runner.invoke(main, ["verison"])
    assert result.exit_code == 2
    assert "'verison'" in result.stderr
    assert "version" in result.stderr


def test_wrong_usage_of_a_command_exits_with_two(runner, group):
    result = runner.invoke(group, ["greets"])
    assert result.exit_code == 2
    assert "--name" in result.stderr


def test_a_command_gets_its_arguments(runner, group):
    result = runner.invoke(group, ["greets", "--name", "Leslie"])
    assert (result.exit_code, result.output) == (0, "hello Leslie\n")


def test_an_unexpected_failure_is_one_line_on_standard_error(runner, group):
    result = runner.invoke(group, ["fails"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "RuntimeError: the first line and the second" in result.stderr


def test_an_unexpected_failure_keeps_its_traceback_when_debugging(runner, group, monkeypatch):
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(RuntimeError, match="the first line"):
        runner.invoke(group, ["fails"], catch_exceptions=False)


@pytest.mark.parametrize(("name", "reason"), [("missing", "no_such_module_anywhere"), ("plain", "not a click")])
def test_a_command_that_cannot_be_loaded_says_why(runner, group, name, reason):
    result = runner.invoke(group, [name])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


def test_help_lists_a_command_that_cannot_be_loaded_beside_those_that_can(runner, group):
    result = runner.invoke(group, ["--help"])
    assert result.exit_code == 0
    assert "Greet somebody." in result.output
    assert "not available" in result.output
