"""Keys and values on the command line and in JSON: bytes in, bytes out, whatever they are.

- On the command line a key or a value is the argument's bytes.
- On a line of plain output, what is not printable is escaped as in Python (``\\n``, ``\\x00``, and ``\\\\`` for a
  backslash), so that a line is one item and nothing is lost.
- In JSON, bytes that are UTF-8 are a string and all others an object: ``{"base64": "/w=="}``. Both are understood where
  JSON is read.
"""

from __future__ import annotations

import base64
import os
from typing import Any, Final

from replica.kv.operations import KeyValue, WatchEvent

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def from_argument(argument: str) -> bytes:
    """The bytes that were typed, valid UTF-8 or not."""
    return os.fsencode(argument)


def escaped(content: bytes) -> str:
    """One printable line that stands for ``content`` and nothing else."""
    text = content.decode("utf-8", "surrogateescape")
    return "".join(_character(character) for character in text)


def _character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def jsonable(content: bytes) -> str | dict[str, str]:
    """``content`` as it stands in JSON."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def item(key_value: KeyValue, *, keys_only: bool = False) -> dict[str, Any]:
    """A key with its value and history as it stands in JSON."""
    facts: dict[str, Any] = {"key": jsonable(key_value.key)}
    if not keys_only:
        facts["value"] = jsonable(key_value.value)
    facts |= {
        "create_revision": key_value.create_revision,
        "mod_revision": key_value.mod_revision,
        "version": key_value.version,
    }
    if key_value.lease:
        facts["lease"] = key_value.lease
    return facts


def event(happened: WatchEvent) -> dict[str, Any]:
    """What a watch is told of a key as it stands in JSON."""
    facts: dict[str, Any] = {"event": "delete" if happened.deleted else "put"}
    facts |= {"key": jsonable(happened.key)} if happened.deleted else item(happened.item)
    if happened.previous is not None:
        facts["previous"] = item(happened.previous)
    return facts


def result(answer: Any) -> dict[str, Any]:
    """A result of the store as it stands in JSON."""
    from replica.kv import operations as kv

    facts: dict[str, Any] = {"revision": answer.revision}
    match answer:
        case kv.Written(previous=previous):
            if previous is not None:
                facts["previous"] = item(previous)
        case kv.Got(item=found):
            facts["item"] = item(found) if found is not None else None
        case kv.Ranged():
            facts |= {"items": [item(found) for found in answer.items], "count": answer.count, "more": answer.more}
        case kv.Deleted():
            facts["count"] = answer.count
            if answer.previous:
                facts["previous"] = [item(gone) for gone in answer.previous]
        case kv.Added():
            facts["value"] = answer.value
        case kv.Transacted():
            facts |= {"succeeded": answer.succeeded, "results": [result(one) for one in answer.results]}
        case _:
            pass
    return facts
