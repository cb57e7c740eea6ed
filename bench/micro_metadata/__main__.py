"""``python -m bench.micro_metadata scale|compare|append``: see the package."""

from __future__ import annotations

import argparse
import json
import sys

from bench.micro_metadata import append, compare, scale


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 if anything acknowledged was lost or the checker found faults."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro_metadata", description="what metadata costs")
    commands = parser.add_subparsers(required=True)
    for module in (scale, compare, append):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        module.add_options(command)
        command.add_argument("--replicas", type=int, default=3)
        command.add_argument("--folder", help="where the data goes; a disk, not a memory file system")
        command.add_argument("--json", action="store_true", help="figures as one line of JSON")
        command.set_defaults(module=module)
    options = parser.parse_args(arguments)
    figures, table, good = options.module.measure(options)
    sys.stdout.write((json.dumps(figures) if options.json else table) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
