"""A click group that imports a command when it is called, not when the program starts.

`fimbria status` must not pay for the lab's or the agent's imports, so the root group knows each
command by the place it lives at and by one line of help, and `--help` reads only those lines.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class Place(NamedTuple):
    """Where a command lives (`module:attribute`) and what `--help` says about it."""

    target: str
    help: str


class LazyGroup(click.Group):
    """A group over `places`; a name that is unknown is answered with the nearest known one."""

    def __init__(self, *args: Any, places: Mapping[str, Place], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table: the order people look for them."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, None if the name is unknown."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module_name, _, attribute = place.target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"'{cmd_name}' needs the Python module {error.name}, which is not installed: "
                "run `make setup`"
            ) from error
        command = getattr(module, attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; name the nearest command when there is none."""
        if args and not args[0].startswith("-") and args[0] not in self._places:
            near = difflib.get_close_matches(args[0], self._places, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"see `{ctx.command_path} --help`"
            raise click.UsageError(f"no such command '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command table without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in self._places.items()])
