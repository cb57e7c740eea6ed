"""Finds protocols by name.

A protocol's name is an entry point of the group ``synod.protocols``; an installed package adds one without any edit
here. The protocols of this tree are known besides, so that a checkout works before it is installed. A name of the form
``path/to/file.py:ATTRIBUTE`` loads a `ProtocolSpec` from a file, for someone who is writing one.

This is the one module of the package that reads files (the metadata of installed packages). No protocol imports it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from typing import Final

from .interface import ConfigurationError, ProtocolSpec

GROUP: Final = "synod.protocols"
"""The entry-point group."""

BUILT_IN: Final = {
    "abd": "replica.consensus.abd:PROTOCOL",
    "epaxos": "replica.consensus.epaxos:PROTOCOL",
    "fpaxos": "replica.consensus.multipaxos:FPAXOS",
    "multipaxos": "replica.consensus.multipaxos:PROTOCOL",
    "null": "replica.consensus.null:PROTOCOL",
    "raft": "replica.consensus.raft:PROTOCOL",
    "wpaxos": "replica.consensus.wpaxos:PROTOCOL",
}
"""The protocols of this tree, by name, as they stand in its own entry points."""


def available() -> tuple[str, ...]:
    """The names that `find_protocol` knows, sorted."""
    return tuple(sorted(_references()))


def find_protocol(name: str) -> ProtocolSpec:
    """The protocol of that name, or the one that ``file.py:ATTRIBUTE`` names.

    Raises `ConfigurationError` that lists what there is, or says why a protocol could not be loaded.
    """
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(path, attribute)
    references = _references()
    if name not in references:
        raise ConfigurationError(
            f"protocol: there is no protocol {name!r} (there are: {', '.join(sorted(references))}; "
            f"or name a file as path.py:ATTRIBUTE)"
        )
    values = references[name]
    if len(values) > 1:
        raise ConfigurationError(
            f"protocol: {name!r} is offered more than once: {', '.join(sorted(values))}; uninstall all but one"
        )
    (value,) = values
    module, _, attribute = value.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"protocol: {name!r} ({value}) could not be loaded: {error}") from error
    return _checked(found, name)


def _references() -> dict[str, set[str]]:
    references = {name: {value} for name, value in BUILT_IN.items()}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        references.setdefault(entry_point.name, set()).add(entry_point.value.replace(" ", ""))
    return references


def _from_file(path: str, attribute: str) -> ProtocolSpec:
    module_name = f"synod_protocol_{path.encode().hex()}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ConfigurationError(f"protocol: {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        # Types are resolved through sys.modules, so the module must be there before its body runs.
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except OSError as error:
            del sys.modules[module_name]
            raise ConfigurationError(f"protocol: {path} could not be read: {error}") from error
        except BaseException:
            del sys.modules[module_name]
            raise
    if not hasattr(module, attribute):
        raise ConfigurationError(f"protocol: {path} defines no {attribute!r}")
    return _checked(getattr(module, attribute), f"{path}:{attribute}")


def _checked(found: object, name: str) -> ProtocolSpec:
    if not isinstance(found, ProtocolSpec):
        raise ConfigurationError(f"protocol: {name!r} is a {type(found).__name__}, not a ProtocolSpec")
    return found
