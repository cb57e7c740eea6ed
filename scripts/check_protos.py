"""Check that the code in replica/wire was generated from protos/ as both are now.

The list `replica/wire/protos.sha256` names every contract and every generated file with its SHA-256, in the
format of the program sha256sum. `--write` writes it (`make protos` does so after generating); without it
the list is compared with the files, and a difference is an error. Needs nothing but the standard library.
"""

import argparse
import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = "replica/wire/protos.sha256"
CONTRACTS = "protos/**/*.proto"
GENERATED = ("replica/wire/v1/*_pb2*.py", "replica/wire/v1/*_pb2*.pyi")


def digests(root: Path) -> dict[str, str]:
    """The SHA-256 of every contract and generated file under `root`, by path relative to it."""
    found = sorted(path for pattern in (CONTRACTS, *GENERATED) for path in root.glob(pattern))
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def read_manifest(root: Path) -> dict[str, str]:
    """The list as it was written; empty if there is none."""
    manifest = root / MANIFEST
    if not manifest.exists():
        return {}
    rows = (line.split(maxsplit=1) for line in manifest.read_text(encoding="utf-8").splitlines() if line)
    return {name: digest for digest, name in rows}


def write_manifest(root: Path) -> None:
    """Write the list for the files as they are."""
    rows = [f"{digest}  {name}\n" for name, digest in digests(root).items()]
    (root / MANIFEST).write_text("".join(rows), encoding="utf-8")


def differences(root: Path) -> list[str]:
    """What no longer matches the list, one line each; empty when all is current."""
    now, written = digests(root), read_manifest(root)
    lines = []
    for name in sorted(now.keys() | written.keys()):
        if name not in now:
            lines.append(f"{name}: missing")
        elif name not in written:
            lines.append(f"{name}: new since the code was generated")
        elif now[name] != written[name]:
            what = "edited by hand" if name.startswith("replica/") else "changed since the code was generated"
            lines.append(f"{name}: {what}")
    return lines


def main() -> int:
    """Run the program; the exit status is 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write the list instead of comparing with it")
    write = parser.parse_args().write
    if write:
        write_manifest(ROOT)
    wrong = differences(ROOT)
    if wrong:
        print("protos/ and replica/wire have parted; run `make protos` (it needs Python 3.11 or 3.12):")
        print("\n".join(f"  {line}" for line in wrong))
        return 1
    contracts = [name for name in digests(ROOT) if name.startswith("protos/")]
    print(f"protos: {len(contracts)} contracts, code is current" if contracts else "protos: no protos yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
