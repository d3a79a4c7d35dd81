"""`fimbria bpf …`: the pinned BPF maps themselves; works while no agent runs.

Names of rules and labels of identities are the agent's knowledge: they are added when it answers,
and left as numbers when it does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli import maptext
from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fimbria.kernel.maps import BpfMap

PINS = "tc/globals"


@click.group()
@click.option("--bpf-root", metavar="PATH", help="The BPF file system (default: /sys/fs/bpf).")
@click.pass_context
def group(ctx: click.Context, bpf_root: str | None) -> None:
    """The pinned BPF maps themselves, without the agent."""
    if bpf_root:
        Target.remember(ctx, bpf_root=bpf_root)


def _noun(name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make `bpf NAME list` of a function."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        noun = click.Group(name, help=text)
        noun.command("list", help=text)(agent_command(function))
        group.add_command(noun)
        return function

    return wrap


@_noun("endpoint", "The node's own addresses (cilium_lxc).")
def list_endpoints(target: Target, form: Format) -> None:
    documents = maptext.endpoints(_items(target, "cilium_lxc"))
    lines = [(one["ip"], maptext.endpoint_line(one)) for one in documents]
    emit(form, documents, lambda: _pairs(["IP ADDRESS", "LOCAL ENDPOINT INFO"], lines))


@_noun("ipcache", "Addresses with identity and tunnel endpoint (cilium_ipcache).")
def list_ipcache(target: Target, form: Format) -> None:
    documents = maptext.ipcache(_items(target, "cilium_ipcache"))
    lines = [(one["prefix"], maptext.ipcache_line(one)) for one in documents]
    emit(form, documents, lambda: _pairs(["IP PREFIX/ADDRESS", "IDENTITY"], lines))


@_noun("ct", "Connections (cilium_ct), half-open ones too (cilium_ct_new).")
@click.argument("table", type=click.Choice(["global"]), default="global")
def list_connections(target: Target, form: Format, table: str) -> None:
    from fimbria.cli import cttext
    from fimbria.kernel import clock

    documents = cttext.connections(
        _items(target, "cilium_ct"),
        _items(target, "cilium_ct_new"),
        clock.jiffies(),
        clock.hz(),
    )
    emit(form, documents, lambda: "\n".join(cttext.connection_line(one) for one in documents))


@_noun("metrics", "Packets forwarded and dropped, by reason and direction (cilium_metrics).")
def list_metrics(target: Target, form: Format) -> None:
    with _open(target, "cilium_metrics") as pinned:
        items = [
            (index, pinned.get_percpu(index.to_bytes(4, "little")) or [])
            for index in range(pinned.max_entries)
        ]
    documents = maptext.metrics(items)
    table = Table(["REASON", "DIRECTION", "PACKETS", "BYTES"])
    for one in documents:
        table.add(one["reason"], one["direction"], one["packets"], one["bytes"])
    emit(form, documents, lambda: table)


@_noun("policy", "What each endpoint's policy map allows and denies (cilium_policy).")
@click.argument("endpoint", type=click.IntRange(1, 4095), required=False)
@click.option("--numeric", "-n", is_flag=True, help="Identities and rules as numbers.")
def list_policies(target: Target, form: Format, endpoint: int | None, numeric: bool) -> None:
    local = maptext.endpoints(_items(target, "cilium_lxc"))
    numbers = sorted({one["id"] for one in local if one["id"]})
    if endpoint is not None:
        if endpoint not in numbers:
            known = ", ".join(str(number) for number in numbers) or "none"
            raise CliError(f"endpoint {endpoint} is not on this node; there are: {known}")
        numbers = [endpoint]
    documents = _endpoint_policies(target, numbers)
    labels, rules = ({}, {}) if numeric else _names(target, documents)
    if form is not Format.TABLE:
        for one in documents:
            for entry in one["entries"]:
                entry["labels"] = labels.get(entry["identity"], [])
                entry["rule_name"] = rules.get(entry["rule"])
    emit(form, documents, lambda: policy_table(documents, labels, rules))


def policy_table(
    documents: Sequence[dict[str, Any]],
    labels: Mapping[int, Sequence[str]],
    rules: Mapping[int, str],
) -> Table:
    """Return the policies of endpoints as one table; `labels` and `rules` name the numbers."""
    peer = "LABELS (source:key[=value])" if labels else "IDENTITY"
    table = Table(
        [
            *("ENDPOINT", "POLICY", "DIRECTION", peer, "PORT/PROTO", "PROXY PORT", "AUTH TYPE"),
            *("BYTES", "PACKETS", "PREFIX", "RULE"),
        ]
    )
    for one in documents:
        for side in ("ingress", "egress"):
            if not one[side]:
                table.add(
                    *(one["endpoint"], "Allow", side.capitalize(), "ANY", "ANY", "NONE"),
                    *("disabled", "", "", 0, "not enforced"),
                )
        for entry in one["entries"]:
            identity = entry["identity"]
            who = "\n".join(labels.get(identity, [])) if identity else "ANY"
            table.add(
                *(one["endpoint"], entry["policy"], entry["direction"], who or identity),
                *(entry["port"], entry["proxy_port"] or "NONE"),
                *("disabled" if not entry["auth_type"] else entry["auth_type"],),
                *(entry["bytes"], entry["packets"], entry["prefix"]),
                rules.get(entry["rule"], entry["rule"]),
            )
    return table


def _endpoint_policies(target: Target, endpoints: Sequence[int]) -> list[dict[str, Any]]:
    """Read the policies in force, the first tier first; the counters are the rules', shared by all
    who use a rule."""
    from fimbria.datapath import abi
    from fimbria.datapath.lookup import TIERS

    documents: list[dict[str, Any]] = []
    with (
        _open(target, "cilium_policy_ref") as refs,
        _open(target, "cilium_policy_info") as infos,
        _open(target, "cilium_policy") as policies,
        _open(target, "cilium_rule_stats") as stats,
    ):
        for endpoint in endpoints:
            raw = refs.get(_u32(endpoint))
            ref = abi.PolicyRef.unpack(raw) if raw else abi.PolicyRef()
            number, enforced = ref.policy_id, 0
            entries: list[dict[str, Any]] = []
            for _ in range(TIERS):
                info = abi.PolicyInfo.unpack(infos.get(_u32(number)) or bytes(24))
                inner = policies.get_map(_u32(number))
                tier = maptext.policy_entries(inner.items().items() if inner else ())
                if inner:
                    inner.close()
                entries += ({**entry, "tier": number} for entry in tier)
                enforced |= info.flags
                number = info.next_id
                if not number:
                    break
            for entry in entries:
                entry |= maptext.counters(stats.get_percpu(_u32(entry["rule"])) or [])
            documents.append(
                {
                    "endpoint": endpoint,
                    "policy": ref.policy_id,
                    "ingress": bool(enforced & abi.PolicyFlags.INGRESS),
                    "egress": bool(enforced & abi.PolicyFlags.EGRESS),
                    "entries": entries,
                }
            )
    return documents


def _names(
    target: Target, documents: Sequence[dict[str, Any]]
) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Ask the agent for labels and rules; both empty if it does not answer."""
    client = target.client()
    used = {entry["rule"] for one in documents for entry in one["entries"]}
    try:
        with understood():
            identities: list[dict[str, Any]] = client.get("/v1/identity")
            labels = {one["id"]: list(map(str, one["labels"])) for one in identities}
            rules = {
                rule: maptext.rule_name(client.get(f"/v1/rule/{rule}")) for rule in sorted(used)
            }
    except CliError:
        return {}, {}
    return labels, rules


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _open(target: Target, name: str) -> BpfMap:
    """Open a pinned map, or say what keeps us from it."""
    from fimbria.kernel.errors import BpfError
    from fimbria.kernel.maps import BpfMap

    path = Path(target.bpf_path()) / PINS / name
    try:
        return BpfMap.open(path)
    except BpfError as error:
        raise CliError(
            f"cannot open {path}: {error.strerror}; name the node's BPF file system with "
            "--bpf-root PATH or --lab NAME, and be root"
        ) from error


def _items(target: Target, name: str) -> list[tuple[bytes, bytes]]:
    with _open(target, name) as pinned:
        return list(pinned.items().items())


def _pairs(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(columns)
    for line in lines:
        table.add(*line)
    return table
