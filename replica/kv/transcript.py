"""Operations and results as plain values, for whoever writes down what clients saw.

The names are those of the history format's ``kv`` model. This is a translation and nothing else: the model that judges
a history evaluates these values with code of its own. Bytes become text with one character a byte, so that nothing is
lost and keys keep their order. A result that says that the outcome is not known (`is_indefinite`) is not an answer, and
is recorded as an unknown outcome.
"""

from __future__ import annotations

from typing import Any, Final

from .operations import (
    Add,
    Added,
    AnyOperation,
    AnyResult,
    Compact,
    Compacted,
    Compare,
    Condition,
    Delete,
    Deleted,
    DeleteRange,
    DescribeLease,
    Failed,
    Failure,
    Get,
    Got,
    GrantLease,
    KeepAlive,
    KeyValue,
    LeaseDescribed,
    LeaseGranted,
    LeaseRevoked,
    LeasesListed,
    ListLeases,
    Put,
    Range,
    Ranged,
    RevokeLease,
    Transacted,
    Transaction,
    Written,
)

_INDEFINITE: Final = frozenset({Failure.SESSION_UNKNOWN, Failure.RESULT_FORGOTTEN})


def is_indefinite(result: AnyResult) -> bool:
    """Does the result leave open whether an earlier attempt of the operation took effect?"""
    return isinstance(result, Failed) and result.code in _INDEFINITE


def describe_operation(operation: AnyOperation) -> tuple[str, str | None, dict[str, Any]]:
    """Name, key (None where there is not exactly one) and arguments. Raises `TypeError` for sessions' operations."""
    arguments: dict[str, Any]
    match operation:
        case Put():
            arguments = {"value": _text(operation.value)}
            if operation.lease:
                arguments["lease"] = operation.lease
            _conditional(arguments, operation)
            return "put", _text(operation.key), arguments
        case Get():
            return "get", _text(operation.key), {"revision": operation.revision} if operation.revision else {}
        case Delete():
            arguments = {}
            _conditional(arguments, operation)
            return "delete", _text(operation.key), arguments
        case Add():
            return "add", _text(operation.key), {"delta": operation.delta}
        case Range():
            arguments = {"first": _text(operation.first), "last": _text(operation.last)}
            for name in ("limit", "reverse", "keys_only", "count_only", "revision"):
                if chosen := getattr(operation, name):
                    arguments[name] = chosen
            return "range", None, arguments
        case DeleteRange():
            arguments = {"first": _text(operation.first), "last": _text(operation.last)}
            if operation.previous:
                arguments["previous"] = True
            return "delete_range", None, arguments
        case Transaction():
            arguments = {
                "conditions": [_condition(each) for each in operation.conditions],
                "then": [_nested(each) for each in operation.then],
            }
            if operation.otherwise:
                arguments["otherwise"] = [_nested(each) for each in operation.otherwise]
            return "transaction", None, arguments
        case Compact():
            return "compact", None, {"revision": operation.revision}
        case GrantLease() | KeepAlive() | DescribeLease():
            return "lease", None, {"lease": operation.lease} if operation.lease else {}
        case ListLeases():
            return "lease", None, {}
        case RevokeLease():
            arguments = {"lease": operation.lease}
            if operation.if_renewal is not None:
                arguments["if_renewal"] = operation.if_renewal
            return "revoke", None, arguments
        case _:
            raise TypeError(f"{type(operation).__name__} is not an operation of a client")


def describe_result(result: AnyResult) -> dict[str, Any]:
    """What the operation answered. Raises `TypeError` for sessions' results."""
    described: dict[str, Any] = {"revision": result.revision}
    match result:
        case Written():
            if result.previous is not None:
                described["previous"] = _item(result.previous)
        case Got():
            described["item"] = None if result.item is None else _item(result.item)
        case Ranged():
            described["items"] = [_item(each) for each in result.items]
            described["count"] = result.count
            described["more"] = result.more
        case Deleted():
            described["count"] = result.count
            if result.previous:
                described["removed"] = [_item(each) for each in result.previous]
        case Added():
            described["value"] = result.value
        case Transacted():
            described["succeeded"] = result.succeeded
            described["results"] = [describe_result(each) for each in result.results]
        case Compacted():
            described["compacted"] = result.compacted
        case LeaseRevoked():
            described["count"] = result.count
        case LeaseGranted() | LeaseDescribed() | LeasesListed():
            pass  # which leases there are is not judged: all that is said is the revision
        case Failed():
            described["failed"] = result.code
            if result.detail and result.code != Failure.LEASE_RENEWED:
                described["detail"] = result.detail
        case _:
            raise TypeError(f"{type(result).__name__} does not answer a client's operation")
    return described


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _conditional(arguments: dict[str, Any], operation: Put | Delete) -> None:
    if operation.if_revision is not None:
        arguments["if_revision"] = operation.if_revision
    if operation.previous:
        arguments["previous"] = True


def _nested(operation: AnyOperation) -> dict[str, Any]:
    name, key, arguments = describe_operation(operation)
    named: dict[str, Any] = {"operation": name}
    if key is not None:
        named["key"] = key
    return named | arguments


def _condition(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, Compare):
        operand = condition.operand
        return {
            "condition": "compare",
            "key": _text(condition.key),
            "target": condition.target,
            "relation": condition.relation,
            "operand": _text(operand) if isinstance(operand, bytes) else operand,
        }
    return {
        "condition": "unchanged",
        "first": _text(condition.first),
        "last": _text(condition.last),
        "revision": condition.revision,
    }


def _item(item: KeyValue) -> dict[str, Any]:
    return {
        "key": _text(item.key),
        "value": _text(item.value),
        "create": item.create_revision,
        "mod": item.mod_revision,
        "version": item.version,
    }
