"""What tests of containers and network namespaces need, and whether this machine has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.drivers.docker import build_image

__all__ = ["BASE", "IMAGE", "PROJECT", "build", "engine", "without_engine", "without_image", "without_namespaces"]

PROJECT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"
IMAGE = "synod:test"


def engine(*arguments: str) -> str:
    """What ``docker`` prints."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def without_engine() -> str:
    """Why there is no Docker engine; empty when there is one."""
    if shutil.which("docker") is None:
        return "no Docker: the program docker is not installed"
    found = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    return f"no Docker: {found.stderr.strip().splitlines()[-1]}" if found.returncode else ""


def without_image() -> str:
    """Why no image can be built here; empty when one can."""
    if reason := without_engine():
        return reason
    if not engine("images", "--quiet", BASE):
        return f"no base image {BASE} on this machine (tests/support/base_image.sh pulls it, or makes a stand-in)"
    return "" if sys.version_info[:2] == (3, 11) else "wheels for the image are collected by Python 3.11"


def without_namespaces() -> str:
    """Why no network namespaces can be made here; empty when they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "no network namespaces: they need Linux and root"
    return "" if shutil.which("ip") else "no network namespaces: iproute2 is not installed"


def build(context: Path) -> str:
    """The image, built from what git knows and a folder of wheels, as where no package index can be reached."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, context / name)
    wheels = context / "deploy" / "wheels"
    collect = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*collect, "--wheel-dir", str(wheels), ".[load]", "hatchling"], cwd=context, check=True)
    for own in wheels.glob("synod-*.whl"):
        own.unlink()
    *_, last = build_image(IMAGE, BASE, context)
    assert "Success" in last or IMAGE in last
    return IMAGE
