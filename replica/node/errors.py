"""Why a node stops by itself, and the exit status that says so to a supervisor.

Every one of these ends the process with a single line on standard error. None is retried inside the
process: what a restart may cure is told by the status, so that a supervisor can leave a replica alone which
it would only start in vain.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "EXIT_BAD_CONFIGURATION",
    "EXIT_CANNOT_LISTEN",
    "EXIT_DAMAGED",
    "EXIT_FAILED",
    "EXIT_IDENTITY",
    "EXIT_NOT_A_MEMBER",
    "BadFolder",
    "BadSecurity",
    "CannotListen",
    "Damaged",
    "NodeFailure",
    "NotAMember",
    "WrongIdentity",
]

EXIT_FAILED: Final = 1
EXIT_BAD_CONFIGURATION: Final = 2
EXIT_CANNOT_LISTEN: Final = 3
EXIT_NOT_A_MEMBER: Final = 4
EXIT_IDENTITY: Final = 5
EXIT_DAMAGED: Final = 6


class NodeFailure(Exception):
    """The node cannot go on. ``str()`` is the one line that says why and what to do."""

    exit_status: int = EXIT_FAILED


class BadFolder(NodeFailure):
    """The data folder and the configuration do not belong together, or the folder was never formatted."""

    exit_status = EXIT_BAD_CONFIGURATION


class BadSecurity(NodeFailure):
    """Certificates or tokens that the configuration names cannot be used."""

    exit_status = EXIT_BAD_CONFIGURATION


class CannotListen(NodeFailure):
    """An address is taken or does not exist here."""

    exit_status = EXIT_CANNOT_LISTEN


class NotAMember(NodeFailure):
    """The cluster has gone on without this replica: its id was replaced. Starting it again is in vain."""

    exit_status = EXIT_NOT_A_MEMBER


class WrongIdentity(NodeFailure):
    """The peers know this id with another disk, or belong to another cluster."""

    exit_status = EXIT_IDENTITY


class Damaged(NodeFailure):
    """A record that the replica's promises depend on cannot be read, or a sync failed: it must not vote on."""

    exit_status = EXIT_DAMAGED
