"""Which node a command is about: an agent's socket and its BPF file system.

Named with `--socket PATH` (or CILIUM_SOCK, FIMBRIA_SOCKET) or `--lab NAME[/NODE]`, before or after
the command's name; the later wins. A lab's paths come from `lab status`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.client import AgentClient
from fimbria.cli.output import Format

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_SOCKET = "/var/run/cilium/cilium.sock"
DEFAULT_BPF_ROOT = "/sys/fs/bpf"
_KEY = "fimbria.target"


@dataclass(frozen=True)
class Target:
    """One node as the user named it; nothing is looked up before it is needed."""

    socket: str | None = None
    lab: str | None = None
    bpf_root: str | None = None

    @staticmethod
    def remember(ctx: click.Context, **changes: Any) -> None:
        """Change what the commands below `ctx` are told by default."""
        ctx.meta[_KEY] = replace(ctx.meta.get(_KEY, Target()), **changes)

    def client(self) -> AgentClient:
        """Return a client for the node's agent."""
        return AgentClient(self.socket_path())

    def socket_path(self) -> str:
        """Return the path of the agent's socket."""
        if self.socket:
            return self.socket
        if self.lab:
            return str(self._lab_node()["socket"])
        named = os.environ.get("FIMBRIA_SOCKET") or os.environ.get("CILIUM_SOCK")
        return named or DEFAULT_SOCKET

    def bpf_path(self) -> str:
        """Return the root of the node's BPF file system."""
        if self.bpf_root:
            return self.bpf_root
        if self.lab:
            return str(self._lab_node()["bpffs"])
        return os.environ.get("CILIUM_BPF_ROOT") or DEFAULT_BPF_ROOT

    def _lab_node(self) -> dict[str, Any]:
        from fimbria.cli.labs import lab_node

        assert self.lab
        return lab_node(self.lab)


def _complete_lab(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from fimbria.cli.labs import lab_references

    return [one for one in lab_references() if one.startswith(incomplete)]


lab_option = click.option(
    "--lab",
    metavar="NAME[/NODE]",
    help="A lab's node instead (default: its first).",
    shell_complete=_complete_lab,
)


def agent_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--socket`, `--lab` and `-o`; call it with target and form first."""

    def command(
        ctx: click.Context, socket: str | None, lab: str | None, form: Format, **kwargs: Any
    ) -> Any:
        target: Target = ctx.meta.get(_KEY, Target())
        if socket and lab:
            raise click.UsageError("--socket and --lab name two nodes: give one of them", ctx)
        if socket:
            target = replace(target, socket=socket, lab=None)
        if lab:
            target = replace(target, lab=lab, socket=None)
        return ctx.invoke(function, target, form, **kwargs)

    # Options hang on the function's __dict__, which update_wrapper copies: ours come afterwards.
    wrapped = click.pass_context(update_wrapper(command, function))
    for option in (
        lab_option,
        click.option("--socket", metavar="PATH", help="The agent's socket."),
        format_option,
    ):
        wrapped = option(wrapped)
    return wrapped


def _as_format(ctx: click.Context, parameter: click.Parameter, value: str) -> Format:
    return Format(value)


def format_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `-o/--output`, passed as `form`."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice([str(one) for one in Format]),
        callback=_as_format,
        default=str(Format.TABLE),
        show_default=True,
        help="How to print.",
    )(function)
