"""The child of `replica.storage.verification`: ``python -m replica.storage.walk DIRECTORY log|state``.

Prints what it found as JSON and exits with 0; with 3 and one line on standard error when it found damage; with 4 when
it could not look. It imports little, because a replica waits for it at each start.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import lmdb

from .envelope import Envelope, RecordFault


class Damage(Exception):
    """What was found, in words."""


def walk(path: str, *, checksums: bool) -> dict[str, Any]:
    """Walk all tables of the environment in ``path``. Raises `Damage`, `lmdb.Error`."""
    # Without locks: this process writes nothing, and whoever asked for the walk holds the folder.
    environment = lmdb.open(path, readonly=True, lock=False, max_dbs=64, create=False, readahead=True)
    tables: dict[str, int] = {}
    total = 0
    with environment.begin() as transaction:
        expected = transaction.stat(environment.open_db(None, transaction))["entries"]
        names: list[bytes] = []
        for name in transaction.cursor().iternext(True, False):
            if len(names) >= expected:
                raise Damage("the directory of tables has no end")
            names.append(name)
        if len(names) != expected:
            raise Damage(f"{len(names)} tables are found where {expected} are counted")
        for name in names:
            try:
                table = environment.open_db(name, transaction, create=False)
            except lmdb.Error as error:
                raise Damage(f"table {name!r} can't be opened: {error}") from error
            count, size = _walk_table(transaction, table, name.decode("utf-8", "replace"), checksums=checksums)
            tables[name.decode("utf-8", "replace")] = count
            total += size
    return {"tables": tables, "bytes": total}


def _walk_table(transaction: Any, table: Any, name: str, *, checksums: bool) -> tuple[int, int]:
    expected = transaction.stat(table)["entries"]
    check = Envelope(name).open
    count = size = 0
    before = b""
    with transaction.cursor(table) as cursor:
        for key, stored in cursor.iternext(True, True):
            if key <= before:
                raise Damage(f"keys of table {name!r} don't ascend at {key.hex()}")
            before = key
            count += 1
            if count > expected:
                # Also the end of a walk that goes round in circles.
                raise Damage(f"table {name!r} holds more than the {expected} records that are counted")
            size += len(key) + len(stored)
            if checksums:
                try:
                    check(key, stored)
                except RecordFault as fault:
                    raise Damage(f"record {key.hex()} of table {name!r}: {fault}") from None
    if count != expected:
        raise Damage(f"table {name!r} holds {count} records where {expected} are counted")
    return count, size


def main(arguments: list[str]) -> int:
    """Walk, and say what came of it by exit status."""
    path, kind = arguments
    try:
        found = walk(path, checksums=kind == "log")
    except (Damage, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError) as error:
        sys.stderr.write(f"{error}\n")
        return 3
    except (lmdb.Error, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 4
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
