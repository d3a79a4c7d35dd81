"""`fimbria ip list`: which address belongs to which identity, and who says so."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.documents import rows
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@click.group()
def group() -> None:
    """Which address belongs to which identity."""


@group.command("list")
@agent_command
@click.option("--numeric", "-n", is_flag=True, help="Numbers instead of reserved names and pods.")
def list_addresses(target: Target, form: Format, numeric: bool) -> None:
    """List addresses with identity and source."""
    client = target.client()
    documents: list[dict[str, Any]] = client.get("/v1/ip")
    names: dict[int, str] = {}
    if form is Format.TABLE and not numeric:
        with understood():
            names = reserved_names(client.get("/v1/identity"))
    emit(form, documents, lambda: address_table(documents, names))


def reserved_names(identities: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Return the names of reserved identities: {1: "reserved:host"}."""
    return {
        one["id"]: label
        for one in identities
        for label in rows(one, "labels")[:1]
        if label.startswith("reserved:")
    }


def address_table(documents: Sequence[dict[str, Any]], names: Mapping[int, str]) -> Table:
    """Return address documents in numeric order as the table that `ip list` prints."""
    table = Table(["IP", "IDENTITY", "SOURCE"])

    def order(one: dict[str, Any]) -> tuple[int, int, int]:
        network = ip_network(one["cidr"])
        return network.version, int(network.network_address), network.prefixlen

    for one in sorted(documents, key=order):
        identity = names.get(one["identity"], str(one["identity"]))
        if names and one.get("pod"):
            identity = f"{identity} ({one.get('namespace')}/{one['pod']})"
        table.add(one["cidr"], identity, one.get("source"))
    return table
