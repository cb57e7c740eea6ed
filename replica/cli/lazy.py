"""A command group that imports a command only when it is called.

Commands come from two places: a table of the program's own, and the entry points of a group, through which
other packages add theirs. Listing the names imports nothing; calling a command imports that one; only help
imports all, since it shows a line of each. A command that cannot be imported (an extra that is not
installed) is still listed, with the reason, and does not stand in the way of the others.
"""

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn, cast

import click

DEBUG_VARIABLE = "SYNOD_DEBUG"
"""Set to anything but the empty string, it lets an unexpected exception through with its traceback."""


class CommandUnavailableError(click.ClickException):
    """A command is known by name but cannot be imported."""

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(f"the command {name!r} is not available: {one_line(cause)}")
        self.reason = one_line(cause)


class LazyGroup(click.Group):
    """A click group whose commands are named first and imported later.

    Args:
        core: command name to "module:attribute"; these win over entry points of the same name.
        entry_point_group: the group of entry points to add, or None for none.
    """

    def __init__(
        self,
        *args: Any,
        core: Mapping[str, str] | None = None,
        entry_point_group: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._core = dict(core or {})
        self._entry_point_group = entry_point_group

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted; nothing is imported."""
        return sorted({*super().list_commands(ctx), *self._core, *self._entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None if there is none.

        Raises:
            CommandUnavailableError: there is one, but its import failed.
        """
        registered = super().get_command(ctx, cmd_name)
        if registered is not None:
            return registered
        try:
            if cmd_name in self._core:
                module, _, attribute = self._core[cmd_name].partition(":")
                loaded = getattr(import_module(module), attribute)
            elif (point := self._entry_points().get(cmd_name)) is not None:
                loaded = point.load()
            else:
                return None
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            raise CommandUnavailableError(cmd_name, error) from error
        if not isinstance(loaded, click.Command):
            raise CommandUnavailableError(cmd_name, TypeError(f"{loaded!r} is not a click command"))
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown name is answered with the names there are."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}; there are: {', '.join(names)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command; one that cannot be imported is shown with the reason."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except CommandUnavailableError as error:
                rows.append((name, f"(not available: {error.reason})"))
                continue
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=80)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program. Any exception becomes one line on standard error and exit status 1.

        Usage errors exit with 2. With `standalone_mode=False` exceptions pass through, as click has it.
        """
        run = cast("Callable[..., Any]", super().main)
        if not kwargs.get("standalone_mode", True) or os.environ.get(DEBUG_VARIABLE):
            return run(*args, **kwargs)
        try:
            return run(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the outermost frame: the user gets a line, not a traceback
            _fail(error)

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._entry_point_group is None:
            return {}
        found = entry_points(group=self._entry_point_group)
        return {point.name: point for point in found}


def one_line(error: BaseException) -> str:
    """An exception as one line of text: its message where it has one, and always what it is.

    Lines of a longer message are joined.
    """
    message = " ".join(str(error).split())
    kind = type(error).__name__
    return f"{kind}: {message}" if message else kind


def _fail(error: Exception) -> NoReturn:
    click.echo(f"Error: {one_line(error)} ({DEBUG_VARIABLE}=1 shows where)", err=True)
    sys.exit(1)
