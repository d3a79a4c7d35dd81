"""`fimbria completion bash|zsh|fish`: print the script that a shell sources."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL: `source <(fimbria completion bash)`."""
    complete = get_completion_class(shell)
    assert complete is not None
    root = ctx.find_root().command
    click.echo(complete(root, {}, "fimbria", "_FIMBRIA_COMPLETE").source())
