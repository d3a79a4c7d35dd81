"""`fimbria policy`: what policies there are, whom their selectors mean, and why they decide."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli import policy_change
from fimbria.cli.client import NoAnswer
from fimbria.cli.documents import part, rows
from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.policy_diff import difference
from fimbria.cli.policy_eval import evaluate
from fimbria.cli.policy_explain import engine_of, explain, traced, world_options
from fimbria.cli.policy_lint import lint
from fimbria.cli.policy_matrix import matrix
from fimbria.cli.policy_prove import proof
from fimbria.cli.policy_test import test
from fimbria.cli.policy_validate import validate
from fimbria.cli.policy_whatif import whatif
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fimbria.cli.worldoptions import Settings

PROTOCOLS = ("ANY", "TCP", "UDP", "SCTP", "ICMP", "ICMPV6")


@click.group()
def group() -> None:
    """Policies, their selectors, and why they decide."""


for _command in (
    evaluate,
    explain,
    matrix,
    whatif,
    test,
    difference,
    proof,
    lint,
    validate,
    policy_change.apply,
    policy_change.confirm,
    policy_change.rollback,
):
    group.add_command(_command)


@group.command("get")
@agent_command
@click.argument("name", required=False)
def get_policies(target: Target, form: Format, name: str | None) -> None:
    """Show all policies as the agent applies them, or those called [NAMESPACE/]NAME."""
    document = _policies(target, name)
    emit(
        form,
        document,
        lambda: "\n".join(
            [
                json.dumps(document["policies"], indent=2),
                f"Revision: {document['revision']}",
                *_trial(document),
            ]
        ),
    )


@group.command("list")
@agent_command
def list_policies(target: Target, form: Format) -> None:
    """List the policies with their state; what is refused says why."""
    document = _policies(target, None)
    emit(form, document, lambda: policy_table(document["policies"]))
    for line in _trial(document) if form is Format.TABLE else ():
        click.echo(line, err=True)  # no row: what is on trial is no object of the API


@group.command("selectors")
@agent_command
def list_selectors(target: Target, form: Format) -> None:
    """List the selectors in use and the identities that they mean."""
    documents: list[dict[str, Any]] = target.client().get("/v1/policy/selectors")
    emit(form, documents, lambda: selector_table(documents))


@group.command("wait")
@agent_command
@click.argument("revision", type=click.IntRange(min=0), required=False)
@click.option(
    "--max-wait-time",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    metavar="SECONDS",
    show_default=True,
)
def wait(target: Target, form: Format, revision: int | None, max_wait_time: float) -> None:
    """Wait until every endpoint of the node enforces REVISION (default: the newest)."""
    client = target.client()
    with understood():
        wanted = client.get("/v1/policy")["revision"] if revision is None else revision
    try:
        document = client.wait("/v1/policy/wait", {"revision": wanted}, max_wait_time)
    except NoAnswer as error:
        raise CliError(
            f"revision {wanted} is not enforced on every endpoint after {max_wait_time:g} s: the "
            "newest is in `fimbria policy get`, what endpoints have in `fimbria endpoint get ID`"
        ) from error
    emit(form, document, lambda: f"Revision {wanted} is enforced on every endpoint")


@group.command("trace")
@agent_command
@click.option("--src-k8s-pod", metavar="NS:POD", help="Source pod.")
@click.option("--src-ip", metavar="ADDRESS", help="Source address.")
@click.option("-s", "--src", metavar="LABELS", help="Source labels: a,k8s:b=c.")
@click.option("--src-identity", type=click.IntRange(min=0), help="Source identity.")
@click.option("--dst-k8s-pod", metavar="NS:POD", help="Destination pod.")
@click.option("--dst-ip", metavar="ADDRESS", help="Destination address.")
@click.option("-d", "--dst", metavar="LABELS", help="Destination labels.")
@click.option("--dst-identity", type=click.IntRange(min=0), help="Destination identity.")
@click.option("--dport", metavar="PORT[/PROTO]", help="Destination port: 80, 53/UDP, 8/ICMP.")
@world_options
def trace(
    target: Target,
    form: Format,
    dport: str | None,
    files: tuple[str, ...],
    settings: Settings,
    **ends: Any,
) -> None:
    """Say whether one may reach the other, rule by rule; with -f from manifests, without a node."""
    request = {"src": trace_end("src", ends), "dst": trace_end("dst", ends)}
    if dport is not None:
        request["dport"] = port_argument(dport)
    if files:
        document = traced(engine_of(files, settings), request)
    else:
        document = target.client().post("/v1/policy/resolve", request)
    emit(form, document, lambda: str(document["text"]).rstrip())


def trace_end(side: str, given: dict[str, Any]) -> Any:
    """Return the request's `src` or `dst`: exactly one of pod, ip, labels and identity.

    Raises `click.UsageError` naming the options if none or several are given.
    """
    options = {
        f"--{side}-k8s-pod": given[f"{side}_k8s_pod"],
        f"--{side}-ip": given[f"{side}_ip"],
        f"--{side}": given[side],
        f"--{side}-identity": given[f"{side}_identity"],
    }
    named = {option: value for option, value in options.items() if value is not None}
    if len(named) != 1:
        problem = "give one of" if not named else "give only one of"
        raise click.UsageError(f"{problem} {', '.join(options)}")
    option, value = named.popitem()
    if option.endswith("-identity"):
        return {"identity": value}
    if option.endswith("-ip"):
        return {"ip": address_argument(option, value)}
    if option.endswith("-k8s-pod"):
        namespace, colon, pod = str(value).replace("/", ":", 1).partition(":")
        if not (colon and namespace and pod):
            raise click.UsageError(f"{option} '{value}': write it as NAMESPACE:POD")
        return {"pod": f"{namespace}/{pod}"}
    labels = [label.strip() for label in str(value).split(",") if label.strip()]
    if not labels:
        raise click.UsageError(f"{option} '{value}': no label in it")
    return {"labels": labels}


def address_argument(option: str, text: str) -> str:
    """Return an address in its usual notation; `click.UsageError` if it is none."""
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise click.UsageError(f"{option} '{text}': no IP address") from error


def port_argument(text: str) -> str:
    """Return PORT[/PROTO] as PORT/PROTO with the protocol in capitals, ANY if none is given."""
    match = re.fullmatch(r"(\d{1,5})(?:/([A-Za-z0-9]+))?", text)
    if match is None or int(match[1]) > 65535:
        raise click.UsageError(f"--dport '{text}': write it as PORT or PORT/PROTO, 0 to 65535")
    protocol = (match[2] or "ANY").upper()
    if protocol not in PROTOCOLS:
        raise click.UsageError(
            f"--dport '{text}': no protocol {protocol}; there are {', '.join(PROTOCOLS)}"
        )
    return f"{int(match[1])}/{protocol}"


def policy_table(policies: Sequence[dict[str, Any]]) -> Table:
    """Return policy documents as a table."""
    table = Table(
        ["KIND", "NAMESPACE", "NAME", "TIER", "PRIORITY", "RULES", "STATUS", "SHADOW", "REASON"]
    )
    for one in policies:
        rules = one.get("rules")
        count = len(rows(one, "rules")) if isinstance(rules, list) else rules
        table.add(
            one.get("kind"),
            one.get("namespace"),
            one["name"],
            one.get("tier"),
            one.get("priority"),
            count,
            one.get("status"),
            shadow_text(one),
            one.get("reason"),
        )
    return table


def shadow_text(policy: dict[str, Any]) -> str:
    """Return what a policy in audit mode would have done: `3 denied, 0 allowed`."""
    if "shadow" not in policy:
        return ""
    counts = part(policy, "shadow")
    return f"{counts.get('denied', 0)} denied, {counts.get('allowed', 0)} allowed"


def selector_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Return selector documents as the table that `policy selectors` prints."""
    table = Table(["SELECTOR", "LABELS", "USERS", "IDENTITIES"])
    for one in sorted(documents, key=lambda one: str(one["selector"])):
        table.add(
            one["selector"],
            "\n".join(rows(one, "labels")),
            one.get("users", 0),
            "\n".join(str(number) for number in rows(one, "identities")),
        )
    return table


def _trial(document: dict[str, Any]) -> list[str]:
    trial = document.get("trial")
    return [policy_change.trial_text(trial)] if trial else []


def _policies(target: Target, name: str | None) -> dict[str, Any]:
    """Return `GET /v1/policy`, narrowed to the policies called `name`."""
    document: dict[str, Any] = target.client().get("/v1/policy")
    if name is None:
        return document
    namespace, _, bare = name.rpartition("/")
    with understood():
        found = [
            one
            for one in document["policies"]
            if one["name"] == bare and (not namespace or one.get("namespace") == namespace)
        ]
    if not found:
        raise CliError(f"there is no policy '{name}': see `fimbria policy list`")
    return {**document, "policies": found}
