"""Exit statuses of the data commands, and how an error of the client becomes one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import click

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONDITION: Final = 4
NOT_DONE: Final = 5
UNKNOWN: Final = 6

EXPLANATION: Final = """\b
Exit status:
  0  done
  1  failed in an unexpected way
  2  wrong usage, or a request that no store would accept
  3  there is no such key or lease
  4  the condition did not hold; nothing was changed
  5  definitely not done: unavailable, overloaded, refused
  6  nobody knows whether it was done: read before you try again
"""
"""For the help of each command."""


@contextmanager
def statuses(*, as_json: bool, special: Mapping[type[Exception], int] | None = None) -> Iterator[None]:
    """Turns an error of the client into a line on standard error (a JSON object with ``as_json``) and a status.

    ``special`` names errors that have a status of their own in a command.
    """
    from replica.client import SynodError

    try:
        yield
    except SynodError as error:
        if as_json:
            facts = {
                "error": type(error).__name__,
                "message": error.reason,
                "may_have_taken_effect": error.may_have_taken_effect,
                "advice": error.advice,
            }
            if isinstance(revision := getattr(error, "revision", None), int):
                facts["revision"] = revision
            click.echo(json.dumps(facts), err=True)
        else:
            click.echo(f"Error: {error}", err=True)
        own = (status for kind, status in (special or {}).items() if isinstance(error, kind))
        sys.exit(next(own, None) or status_of(error))


def status_of(error: Exception) -> int:
    """The exit status that an error of the client stands for."""
    from replica.client import (
        ConditionFailed,
        Conflict,
        Indefinite,
        InvalidArgument,
        LeaseExists,
        LeaseUnknown,
        NotCommitted,
    )

    if isinstance(error, Indefinite):
        return UNKNOWN
    if isinstance(error, ConditionFailed | Conflict | LeaseExists):
        return CONDITION
    if isinstance(error, LeaseUnknown):
        return NOT_FOUND
    if isinstance(error, InvalidArgument):
        return USAGE
    return NOT_DONE if isinstance(error, NotCommitted) else FAILED
