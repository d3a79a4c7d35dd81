"""Options of the commands that judge manifests: which, and how an agent would be configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_F = TypeVar("_F", bound="Callable[..., object]")


def match_modes(ctx: click.Context, parameter: click.Parameter, value: str) -> frozenset[str]:
    """Return the modes of `nodes,pods`. Raises `click.BadParameter` for another word."""
    modes = frozenset(word for word in value.replace(",", " ").split())
    unknown = sorted(modes - {"nodes", "pods"})
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of nodes, pods")
    return modes


def files_option(*, required: bool) -> Callable[[_F], _F]:
    """Give a command `files`: where the manifests are."""
    return click.option(
        "-f", "--file", "files", multiple=True, required=required, metavar="PATH",
        help="Manifests: a file, a folder, - for standard input; may be given several times.",
    )  # fmt: skip


def form_option(command: _F) -> _F:
    """Give a command `form`: a table, or JSON."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table",
        show_default=True, help="A table, or one JSON document.",
    )(command)  # fmt: skip


def enforcement_options(command: _F) -> _F:
    """Give a command `enable_policy` and `cidr_match`, as `analysis.Engine` takes them."""
    command = click.option(
        "--policy-cidr-match-mode", "cidr_match", default="", callback=match_modes,
        metavar="MODES", help="As the agent's option: nodes, pods, or both.",
    )(command)  # fmt: skip
    return click.option(
        "--enable-policy", type=click.Choice(["default", "always", "never"]), default="default",
        show_default=True, help="As the agent's option.",
    )(command)  # fmt: skip


def node_labels_option(command: _F) -> _F:
    """Give a command `node_labels`: whether rules may name nodes by their labels."""
    return click.option(
        "--enable-node-selector-labels", "node_labels", is_flag=True, help="As the agent's option."
    )(command)
