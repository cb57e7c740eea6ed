"""A program for an emulated machine: says which numbers an LMDB environment kept, then writes the next ones.

    lmdb_writer.py FOLDER synced | unsynced | read

Standard output: "kept COUNT", then "acknowledged NUMBER" after each commit. Each number is one transaction.
`unsynced` syncs only the first SYNCED_PROLOGUE transactions. A damaged environment ends the program with an error.
"""

import itertools
import sys

import lmdb

SYNCED_PROLOGUE = 10
VALUE_BYTES = 200


def main(folder: str, mode: str) -> None:
    synced = mode == "synced"
    with lmdb.open(folder, map_size=64 << 20, sync=synced) as environment:
        with environment.begin() as transaction:
            kept = transaction.stat()["entries"]
            for number in range(kept):
                if transaction.get(_key(number)) != _value(number):
                    sys.exit(f"number {number} of {kept} is missing or damaged")
        _say("kept", kept)
        if mode == "read":
            return
        for number in itertools.count(kept):
            with environment.begin(write=True) as transaction:
                transaction.put(_key(number), _value(number))
            if not synced and number < SYNCED_PROLOGUE:
                environment.sync(True)
            _say("acknowledged", number)


def _say(word: str, number: int) -> None:
    sys.stdout.write(f"{word} {number}\n")
    sys.stdout.flush()


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _value(number: int) -> bytes:
    return str(number).encode().ljust(VALUE_BYTES, b".")


if __name__ == "__main__":
    main(*sys.argv[1:])
