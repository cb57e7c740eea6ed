"""Property values: which Python values a declared type takes, and how a declaration is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from replica.metadata.errors import InvalidValue, UnknownProperty, WrongValue
from replica.metadata.keys import check_text
from replica.metadata.model import NAME_BYTES_MAX, TypeDef, ValueType

PROPERTY_NAME_BYTES_MAX: Final = 128
PROPERTIES_MAX: Final = 256
"""Declared properties of a type, and free ones of an object."""

INT_MAX: Final = (1 << 63) - 1

_BY_PYTHON: Final[dict[object, ValueType]] = {
    int: "int",
    float: "float",
    str: "str",
    bool: "bool",
    dict: "json",
    list: "json",
}
_NAMES: Final = frozenset(_BY_PYTHON.values())
INDEXABLE: Final[frozenset[ValueType]] = frozenset({"int", "float", "str", "bool"})

INDEXABLE_ATTRIBUTES: Final = frozenset({"uri", "digest"})
"""Attributes of artifacts that a type may have indexed."""


def declared(properties: Mapping[str, Any]) -> dict[str, ValueType]:
    """Property types as they are stored, from ``int``, ``"int"`` and their like. Raises `InvalidValue`."""
    found: dict[str, ValueType] = {}
    for name, given in properties.items():
        check_text("a property's name", name, PROPERTY_NAME_BYTES_MAX)
        kind = given if isinstance(given, str) and given in _NAMES else _BY_PYTHON.get(given)
        if kind is None:
            known = ", ".join(sorted(_NAMES))
            raise InvalidValue(f"property {name!r} is declared as {given!r}; there are: {known}")
        found[name] = kind
    if len(found) > PROPERTIES_MAX:
        raise InvalidValue(f"a type declares at most {PROPERTIES_MAX} properties, not {len(found)}")
    return found


def checked(of: TypeDef, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Values of declared properties; None stands for "none". Raises `UnknownProperty` and `WrongValue`."""
    return {name: _check(of, name, value) for name, value in properties.items()}


def _check(of: TypeDef, name: str, value: Any) -> Any:
    kind = of.properties.get(name)
    if kind is None:
        known = ", ".join(sorted(of.properties))
        raise UnknownProperty(f"type {of.name!r} has no property {name!r} (there are: {known or 'none'})")
    if value is None:
        return None
    value = _plain(value)
    match kind:
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > INT_MAX:
                raise WrongValue(f"property {name!r} of {of.name!r} is beyond 64 bits: {value}")
            return value
        case "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "str" if isinstance(value, str):
            return value
        case "json":
            return json_value(name, value)
    raise WrongValue(f"property {name!r} of {of.name!r} takes {kind}, not {value!r} ({type(value).__name__})")


def json_value(name: str, value: Any) -> Any:
    """A value that JSON can carry. Raises `WrongValue`."""
    value = _plain(value)
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise WrongValue(f"property {name!r} takes what JSON can carry: {error}") from None


def free(custom: Mapping[str, Any]) -> dict[str, Any]:
    """Values of free properties. Raises `InvalidValue`."""
    if len(custom) > PROPERTIES_MAX:
        raise InvalidValue(f"an object has at most {PROPERTIES_MAX} free properties, not {len(custom)}")
    for name in custom:
        check_text("a property's name", name, PROPERTY_NAME_BYTES_MAX)
    return {name: None if value is None else json_value(name, value) for name, value in custom.items()}


def merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The properties after a change: None takes one away."""
    return {name: value for name, value in {**before, **changes}.items() if value is not None}


def checked_index(of: TypeDef, index: tuple[str, ...]) -> tuple[str, ...]:
    """The indexed fields of a type. Raises `InvalidValue`."""
    for field in index:
        if field in of.properties:
            if of.properties[field] not in INDEXABLE:
                raise InvalidValue(f"property {field!r} is {of.properties[field]}, which cannot be indexed")
        elif not (of.kind == "artifact" and field in INDEXABLE_ATTRIBUTES):
            raise InvalidValue(
                f"{field!r} cannot be indexed: it is no property of {of.name!r}"
                + (f", nor one of {', '.join(sorted(INDEXABLE_ATTRIBUTES))}" if of.kind == "artifact" else "")
            )
    return tuple(dict.fromkeys(index))


def is_nan(value: Any) -> bool:
    """Not a number: it compares with nothing."""
    return isinstance(value, float) and math.isnan(value)


def _plain(value: Any) -> Any:
    """A NumPy scalar as the Python value that it holds."""
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "ndim", None) == 0:
        return item()
    return value


def checked_name(what: str, name: object) -> str:
    """A name of an object. Raises `InvalidValue`."""
    return check_text(what, name, NAME_BYTES_MAX)
