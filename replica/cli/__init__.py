"""The program `synod`: one command line whose command groups load only when they are called.

This module stays cheap to import: it knows commands by name and imports click alone. A command of the store
itself is a module in here, entered in `CORE_COMMANDS`; other packages (`deploy`, `bench`, or one outside
this tree) add theirs through the entry-point group `synod.commands`. Commands may import any package of the
store.
"""

from collections.abc import Mapping
from types import MappingProxyType

import click

from replica import __version__
from replica.cli.lazy import LazyGroup

__all__ = ["CORE_COMMANDS", "ENTRY_POINT_GROUP", "main"]

ENTRY_POINT_GROUP = "synod.commands"
"""The entry-point group in which other packages name their click commands."""

CORE_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "add": "replica.cli.data:add",
        "backup": "replica.cli.backup:backup",
        "check": "replica.cli.check:check_history",
        "compact": "replica.cli.data:compact",
        "delete": "replica.cli.data:delete",
        "format": "replica.cli.serve:format_command",
        "get": "replica.cli.data:get",
        "inspect": "replica.cli.backup:inspect",
        "lease": "replica.cli.watching:lease",
        "lock": "replica.cli.watching:lock",
        "md": "replica.cli.md:md",
        "put": "replica.cli.data:put",
        "range": "replica.cli.data:range_",
        "serve": "replica.cli.serve:serve",
        "simulate": "replica.cli.simulate:simulate",
        "status": "replica.cli.status:status",
        "txn": "replica.cli.txn:txn",
        "version": "replica.cli.version:version",
        "watch": "replica.cli.watching:watch",
    }
)
"""The store's own commands: name to "module:attribute"."""


@click.group(
    cls=LazyGroup,
    core=CORE_COMMANDS,
    entry_point_group=ENTRY_POINT_GROUP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="synod")
def main() -> None:
    """Synod: a replicated key-value store with exchangeable consensus.

    Exit status: 0 done, 1 failed (one line on standard error says why), 2 wrong usage.
    """
