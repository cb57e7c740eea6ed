"""The settings of grpc that a program makes for its own process."""

import subprocess
import sys

import pytest

from replica import tuning


@pytest.fixture
def fresh(monkeypatch):
    """A process in which grpc has not been imported, as far as the module can tell."""
    monkeypatch.delitem(sys.modules, "grpc", raising=False)
    monkeypatch.setattr(tuning, "version", lambda _: "1.80.0")


def test_a_fresh_process_is_tuned(fresh):
    environment: dict[str, str] = {}
    assert tuning.tune_grpc(environment)
    assert environment == {tuning.VARIABLE: tuning.OLDER_POLLING}


def test_the_choice_of_the_user_stands(fresh):
    environment = {tuning.VARIABLE: ""}
    assert not tuning.tune_grpc(environment)
    assert environment == {tuning.VARIABLE: ""}


@pytest.mark.parametrize("release", ["1.62.3", "1.86.0", "2.0.0", "unknown"])
def test_a_release_that_was_not_tried_is_left_alone(fresh, monkeypatch, release):
    monkeypatch.setattr(tuning, "version", lambda _: release)
    environment: dict[str, str] = {}
    assert not tuning.tune_grpc(environment)
    assert environment == {}


def test_it_is_too_late_once_grpc_has_been_imported(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", tuning)
    environment: dict[str, str] = {}
    assert not tuning.tune_grpc(environment)
    assert environment == {}


def test_for_a_process_that_is_still_to_be_started_it_is_never_too_late(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", tuning)
    environment: dict[str, str] = {}
    assert tuning.tune_grpc(environment, child=True)
    assert environment == {tuning.VARIABLE: tuning.OLDER_POLLING}


def test_the_program_is_in_time():
    """Nothing that `synod serve` imports before it tunes its process brings grpc with it."""
    program = "import sys, replica.cli.serve, replica.tuning; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
