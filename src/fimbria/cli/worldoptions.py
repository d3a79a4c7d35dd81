"""Options of the commands that judge manifests: which, and how an agent would be configured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fimbria.analysis import Engine, World

_F = TypeVar("_F", bound="Callable[..., object]")


@dataclass(frozen=True)
class Settings:
    """The agent's options that verdicts depend on.

    `cidr_match` is policy-cidr-match-mode, `node_labels` enable-node-selector-labels,
    `host_firewall` enable-host-firewall, `cluster` cluster-name and `labels` labels.
    """

    enable_policy: str = "default"
    cidr_match: frozenset[str] = frozenset()
    node_labels: bool = False
    host_firewall: bool = False
    cluster: str = "default"
    labels: str = ""

    def load(self, files: Iterable[str]) -> World:
        """Return the world of manifests as such an agent reads them."""
        from fimbria.analysis import load

        return load(files, cluster=self.cluster, labels=self.labels, node_labels=self.node_labels)

    def engine(self, world: World, judge: str = "maps") -> Engine:
        """Return what judges a world as such an agent does."""
        from fimbria.analysis import Engine

        return Engine(
            world, self.enable_policy, self.cidr_match, judge, host_firewall=self.host_firewall
        )


def settings_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command `settings`: how the agents are configured whose verdicts it asks for."""

    @wraps(command)
    def with_settings(
        *given: Any,
        enable_policy: str,
        cidr_match: frozenset[str],
        node_labels: bool,
        host_firewall: bool,
        cluster: str,
        labels: str,
        **rest: Any,
    ) -> object:
        settings = Settings(enable_policy, cidr_match, node_labels, host_firewall, cluster, labels)
        return command(*given, settings=settings, **rest)

    firewall = click.option(
        "--enable-host-firewall", "host_firewall", is_flag=True, help="As the agent's option."
    )
    return enforcement_options(node_labels_option(firewall(identity_options(with_settings))))


def match_modes(ctx: click.Context, parameter: click.Parameter, value: str) -> frozenset[str]:
    """Return the modes of `nodes,pods`. Raises `click.BadParameter` for another word."""
    modes = frozenset(word for word in value.replace(",", " ").split())
    unknown = sorted(modes - {"nodes", "pods"})
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of nodes, pods")
    return modes


def label_rules(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the value of `labels`. Raises `click.BadParameter` for a rule that is none."""
    from fimbria.model.labels import LabelError, label_filter

    try:
        label_filter(value)
    except LabelError as error:
        raise click.BadParameter(str(error)) from error
    return value


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


def identity_options(command: _F) -> _F:
    """Give a command `cluster` and `labels`: what pods' identities are made of."""
    command = click.option(
        "--labels", default="", callback=label_rules, metavar="RULES",
        help="As the agent's option: which labels make an identity.",
    )(command)  # fmt: skip
    return click.option(
        "--cluster-name", "cluster", default="default", show_default=True, metavar="NAME",
        help="As the agent's option.",
    )(command)  # fmt: skip
