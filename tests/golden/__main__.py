"""``python -m tests.golden add``: write down the bytes of what is new; what is there already is never changed."""

from __future__ import annotations

import sys

from tests.golden.examples import everything
from tests.golden.file import load, save


def main(arguments: list[str]) -> int:
    """Add, and say what was added."""
    if arguments != ["add"]:
        sys.stderr.write("usage: python -m tests.golden add\n")
        return 2
    known = load()
    added = []
    for golden in everything():
        versions = known.setdefault(golden.name, [])
        for old in versions:
            golden.read(bytes.fromhex(old))  # a release that cannot read what there is has nothing to add
        if golden.data.hex() not in versions:
            versions.append(golden.data.hex())
            added.append(golden.name)
    save(known)
    sys.stdout.write(f"{len(known)} kinds, {len(added)} added\n" + "".join(f"  {name}\n" for name in added))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
