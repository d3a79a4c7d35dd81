"""`fimbria node list`: the cluster's nodes as this node knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.documents import part
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = [
    "Name",
    "IPv4 Address",
    "Endpoint CIDR",
    "IPv6 Address",
    "Endpoint CIDR",
    "Source",
]


@click.group()
def group() -> None:
    """The cluster's nodes as this node knows them."""


@group.command("list")
@agent_command
def list_nodes(target: Target, form: Format) -> None:
    """List the nodes with their addresses and pod CIDRs."""
    documents: list[dict[str, Any]] = target.client().get("/v1/cluster/nodes")
    emit(form, documents, lambda: node_table(documents))


def node_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Return node documents as the table that `node list` prints."""
    table = Table(COLUMNS)
    for one in sorted(documents, key=lambda one: one["name"]):
        ipv4, ipv6 = part(one, "ipv4"), part(one, "ipv6")
        name = f"{one['name']} (localhost)" if one.get("local") else one["name"]
        table.add(
            name,
            ipv4.get("address"),
            ipv4.get("cidr"),
            ipv6.get("address"),
            ipv6.get("cidr"),
            one.get("source"),
        )
    return table
