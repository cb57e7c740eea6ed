"""Generate replica/wire/v1 from protos/synod/v1. Run by `make protos` in the generator's own environment.

The generator is pinned to grpcio-tools 1.62: its output runs under protobuf 4.25 and under every later
release. Messages get protoc's own type stubs and services those of mypy-protobuf.
"""

import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("protos/synod/v1")
TARGET = Path("replica/wire/v1")


def main() -> int:
    """Generate everything anew; the exit status is protoc's."""
    contracts = sorted(path.name for path in (ROOT / SOURCE).glob("*.proto"))
    for stale in sorted((ROOT / TARGET).glob("*_pb2*.py*")):
        stale.unlink()
    if not contracts:
        print("protos: no protos yet")
        return 0
    status = protoc.main(
        [
            "protoc",
            f"-I{TARGET}={SOURCE}",
            f"-I{files('grpc_tools') / '_proto'}",
            "--python_out=.",
            "--pyi_out=.",
            "--grpc_python_out=.",
            "--mypy_grpc_out=.",
            *(f"{TARGET}/{name}" for name in contracts),
        ]
    )
    if status == 0:
        print(f"protos: generated {len(contracts)} contracts with grpcio-tools {version('grpcio-tools')}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
