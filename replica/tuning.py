"""What has to be set for a whole process before grpc is imported; for programs, never for a library.

grpc's core can wait for its sockets in two ways. The newer one, an event engine with threads of its own, hands every
event from one thread to another; the older one does not. On two cores a bounced frame took 15 to 25 % less time and
processor with the older (`python -m bench.micro_transport`, grpcio 1.85). It is chosen by an environment variable that
grpc reads when it is imported, so a program that owns its process calls `tune_grpc` first, or has it called on the
environment of a process that it starts.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

VARIABLE: Final = "GRPC_EXPERIMENTS"

OLDER_POLLING: Final = (
    "-event_engine_client,-event_engine_listener,-event_engine_callback_cq,-event_engine_for_all_other_endpoints"
)

TRIED_FIRST: Final = (1, 74)
TRIED_LAST: Final = (1, 85)
"""Releases of grpcio that know all of these names; others would print a complaint about each that they do not."""


def tune_grpc(environment: MutableMapping[str, str], *, child: bool = False) -> bool:
    """Choose the older way to wait, unless the user has chosen, and say whether that was done.

    ``environment`` is ``os.environ``, or that of a ``child`` which is about to be started. Does nothing for this
    process once grpc has been imported, or under a release that was not tried.
    """
    if VARIABLE in environment or (not child and "grpc" in sys.modules):
        return False
    try:
        major, minor = version("grpcio").split(".")[:2]
        release = (int(major), int(minor))
    except (PackageNotFoundError, ValueError):
        return False
    if not TRIED_FIRST <= release <= TRIED_LAST:
        return False
    environment[VARIABLE] = OLDER_POLLING
    return True
