"""`fimbria endpoint list|get|config`: the pods that this node connects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from fimbria.cli.documents import part, rows
from fimbria.cli.output import Format, Table, emit, to_yaml
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = [
    "ENDPOINT",
    "POLICY (ingress)\nENFORCEMENT",
    "POLICY (egress)\nENFORCEMENT",
    "IDENTITY",
    "LABELS (source:key[=value])",
    "IPv6",
    "IPv4",
    "STATUS",
]


@click.group()
def group() -> None:
    """The pods that this node connects."""


@group.command("list")
@agent_command
def list_endpoints(target: Target, form: Format) -> None:
    """List the node's endpoints."""
    documents: list[dict[str, Any]] = target.client().get("/v1/endpoint")
    emit(form, documents, lambda: endpoint_table(documents))


@group.command("get")
@agent_command
@click.argument("endpoint")
def get_endpoint(target: Target, form: Format, endpoint: str) -> None:
    """Show one ENDPOINT: 7, pod-name:NS/POD, container-id:ID, ipv4:ADDR or ipv6:ADDR."""
    document = target.client().get(f"/v1/endpoint/{quote(endpoint, safe=':')}")
    emit(form, document, lambda: to_yaml(document).rstrip())


@group.command("config")
@agent_command
@click.argument("endpoint")
@click.argument("options", nargs=-1, metavar="[NAME=VALUE]...")
def configure_endpoint(
    target: Target, form: Format, endpoint: str, options: tuple[str, ...]
) -> None:
    """Show, or set, the options of one ENDPOINT: PolicyAuditMode=Enabled or Disabled."""
    path = f"/v1/endpoint/{quote(endpoint, safe=':')}/config"
    client = target.client()
    if options:
        document = client.patch(path, {"options": dict(map(option_argument, options))})
    else:
        document = client.get(path)
    emit(form, document, lambda: option_table(part(document, "options")))


def option_argument(text: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE; `click.UsageError` if it is not that."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"'{text}': write it as NAME=VALUE, like PolicyAuditMode=Enabled")
    return name, value


def option_table(options: dict[str, Any]) -> Table:
    """Return an endpoint's options as a table."""
    table = Table(["OPTION", "VALUE"])
    for name, value in sorted(options.items()):
        table.add(name, value)
    return table


def endpoint_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Return endpoint documents as the table that `endpoint list` prints."""
    table = Table(COLUMNS)
    for one in sorted(documents, key=lambda one: one["id"]):
        identity = part(one, "identity")
        addresses = rows(one, "networking", "addressing")
        table.add(
            one["id"],
            enforcement(one, "ingress"),
            enforcement(one, "egress"),
            identity.get("id"),
            "\n".join(rows(identity, "labels")),
            "\n".join(pair["ipv6"] for pair in addresses if pair.get("ipv6")),
            "\n".join(pair["ipv4"] for pair in addresses if pair.get("ipv4")),
            one.get("state"),
        )
    return table


def enforcement(document: dict[str, Any], direction: str) -> str:
    """Return Enabled, Disabled or Disabled (Audit) for one direction of an endpoint."""
    policy = part(document, "policy")
    if not part(policy, direction).get("enforcing"):
        return "Disabled"
    return "Disabled (Audit)" if policy.get("audit") else "Enabled"
