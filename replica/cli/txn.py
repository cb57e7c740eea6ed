"""`synod txn`: a transaction from a JSON document."""

from __future__ import annotations

import json
import sys
from typing import IO, Any, Literal, TypeAlias

import click
import msgspec

from replica.cli.connecting import connection_options, store_of
from replica.cli.exits import CONDITION, EXPLANATION, statuses
from replica.kv import operations as kv


class Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are not text."""

    base64: bytes


Text: TypeAlias = str | Base64


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys with a prefix, or from ``first`` to before ``last``."""

    prefix: Text | None = None
    first: Text | None = None
    last: Text | None = None


class Compare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="check", tag="compare"):
    key: Text
    target: Literal["value", "version", "create", "mod", "exists"]
    operand: int | str | Base64
    relation: Literal["=", "!=", "<", ">"] = "="


class Unchanged(Interval, frozen=True, forbid_unknown_fields=True, tag_field="check", tag="unchanged", kw_only=True):
    since: int


class Put(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="put"):
    key: Text
    value: Text
    lease: int = 0
    if_revision: int | None = None
    previous: bool = False


class Get(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="get"):
    key: Text


class Range(Interval, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="range", kw_only=True):
    limit: int = 0
    reverse: bool = False
    keys_only: bool = False


class Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="delete"):
    key: Text
    if_revision: int | None = None
    previous: bool = False


class DeleteRange(Interval, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="delete_range"):
    pass


class Add(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="add"):
    key: Text
    delta: int = 1


Condition: TypeAlias = Compare | Unchanged
Operation: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add


_NAMES = {"conditions": "if", "otherwise": "else"}


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=_NAMES):
    """What the command reads."""

    then: list[Operation]
    conditions: list[Condition] = []
    otherwise: list[Operation] = []


@click.command(epilog=EXPLANATION)
@click.argument("document", type=click.File("rb"), default="-")
@connection_options
def txn(document: IO[bytes], as_json: bool, **connection: Any) -> None:
    """Run the transaction in a JSON DOCUMENT (a file, or standard input).

    \b
    {"if":   [{"check": "compare", "key": "a", "target": "mod", "relation": "=", "operand": 7},
              {"check": "unchanged", "prefix": "jobs/", "since": 7}],
     "then": [{"do": "put", "key": "a", "value": "new"}, {"do": "add", "key": "n", "delta": 1}],
     "else": [{"do": "get", "key": "a"}]}

    Conditions compare "value", "version", "create", "mod" or "exists" by "=", "!=", "<" or ">", or demand that nothing
    in an interval changed since a revision. Operations are "put", "get", "range", "delete", "delete_range" and "add".
    An interval is a "prefix", or "first" and "last". Bytes that are no UTF-8 are given as {"base64": ...}.

    All of "then" happens if all conditions hold; otherwise all of "else" does, and the exit status is 4.
    """
    from replica.cli.text import result

    try:
        parsed = msgspec.json.decode(document.read(), type=Document)
        conditions = [_condition(condition) for condition in parsed.conditions]
        then = [_operation(operation) for operation in parsed.then]
        otherwise = [_operation(operation) for operation in parsed.otherwise]
    except (msgspec.DecodeError, ValueError) as error:
        raise click.UsageError(f"the document: {error}") from None
    with statuses(as_json=as_json), store_of(**connection) as store:
        outcome = store.transaction(conditions, then, otherwise)
    if as_json:
        click.echo(json.dumps(result(outcome)))
    else:
        click.echo(f"{'then' if outcome.succeeded else 'else'} at revision {outcome.revision}")
        for answer in outcome.results:
            click.echo(json.dumps(result(answer)))
    if not outcome.succeeded:
        sys.exit(CONDITION)


def _condition(condition: Condition) -> kv.Condition:
    if isinstance(condition, Unchanged):
        return kv.Unchanged(*_interval(condition), condition.since)
    operand = condition.operand if isinstance(condition.operand, int) else _bytes(condition.operand)
    return kv.Compare(_bytes(condition.key), condition.target, condition.relation, operand)


def _operation(operation: Operation) -> kv.Simple:
    match operation:
        case Put(key, value, lease, if_revision, previous):
            return kv.Put(_bytes(key), _bytes(value), lease, if_revision, previous)
        case Get(key):
            return kv.Get(_bytes(key))
        case Delete(key, if_revision, previous):
            return kv.Delete(_bytes(key), if_revision, previous)
        case Add(key, delta):
            return kv.Add(_bytes(key), delta)
        case DeleteRange():
            return kv.DeleteRange(*_interval(operation))
        case Range():
            return kv.Range(*_interval(operation), operation.limit, operation.reverse, operation.keys_only)


def _interval(bounds: Interval) -> tuple[bytes, bytes]:
    from replica.client.ranges import interval

    if bounds.prefix is None and bounds.first is None and bounds.last is None:
        raise ValueError("an interval needs a prefix, or first, or last")
    prefix, first, last = (
        None if text is None else _bytes(text) for text in (bounds.prefix, bounds.first, bounds.last)
    )
    return interval(prefix, first, last)


def _bytes(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else text.base64
