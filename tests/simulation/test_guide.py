"""The guide in ``replica/simulation/README.md`` does what it says: every block of code in it is executed here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import replica.simulation

README = Path(replica.simulation.__file__).with_name("README.md")

ROOT = README.parents[2]

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)

SEED = "3"
"""The seed that the guide shows as the first to fail."""


class Block(NamedTuple):
    language: str
    file: str
    """The file that the block belongs to; empty for one that stands by itself."""
    body: str


def blocks() -> list[Block]:
    found = []
    for match in FENCE.finditer(README.read_text()):
        language, _, file = match["info"].partition(" ")
        lines = [line.removeprefix(match["indent"]) for line in match["body"].splitlines(keepends=True)]
        found.append(Block(language, file, "".join(lines)))
    return found


def parts_of(file: str) -> str:
    return "\n\n".join(block.body for block in blocks() if block.file == file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the guide builds."""
    path = tmp_path_factory.mktemp("guide")
    for file in ("mine.py", "witness.py", "test_mine.py"):
        (path / file).write_text(parts_of(file))
    return path


def carry_out(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env=environment
    )


def sessions() -> list[tuple[str, list[str]]]:
    """Commands with what is shown of their output."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks():
        if block.language == "console":
            for line in block.body.splitlines():
                if line.startswith("$ "):
                    found.append((line[2:], []))
                else:
                    found[-1][1].append(line)
    return found


def test_every_block_is_of_a_kind_that_is_executed():
    kinds = {(block.language, block.file) for block in blocks()}
    assert kinds == {
        ("python", ""),
        ("python", "mine.py"),
        ("python", "witness.py"),
        ("python", "test_mine.py"),
        ("console", ""),
    }


def test_the_protocol_of_the_guide_is_the_one_that_the_world_is_tried_with():
    example = (ROOT / "tests" / "simulation" / "primary.py").read_text()
    _, _, code = example.partition('"""\n\n')
    lines = [line for line in parts_of("mine.py").splitlines() if line]
    assert lines == [line for line in code.splitlines() if line] + ['TWICE = planted("position used twice")']


@pytest.mark.timeout(400)
def test_the_commands_print_what_the_guide_shows(folder):
    failing = SEED
    for command, shown in sessions():
        words, _, comment = command.partition("  # ")
        program, *arguments = shlex.split(words.replace(f"--replay {SEED} ", f"--replay {failing} "))
        done = carry_out(folder, sys.executable, "-m", "replica.cli" if program == "synod" else program, *arguments)
        output = done.stdout + done.stderr
        assert done.returncode == int("exit status 1" in comment), f"{command}\n{output[-2000:]}"
        if comment and (first := re.search(r"^seed (\d+): ", output, re.MULTILINE)):
            failing = first[1]  # chance may have it that another seed is the first to fail by now
        for fragment in [fragment for line in shown for fragment in line.split("…")]:
            expected = re.sub(rf"(seed|--replay) {SEED}\b", rf"\g<1> {failing}", fragment.rstrip())
            assert expected in output, f"{command}\n{output[-2000:]}"


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "python" and not block.file])
def test_a_snippet_runs(block, folder):
    done = carry_out(folder, sys.executable, "-c", block.body)
    assert not done.returncode, done.stderr
