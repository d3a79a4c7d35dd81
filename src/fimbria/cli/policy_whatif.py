"""`fimbria policy whatif`: what a change of policies would have done to traffic that was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.policy_eval import opened, told
from fimbria.cli.target import Target, agent_command
from fimbria.cli.worldoptions import Settings, settings_options

if TYPE_CHECKING:
    from fimbria.analysis import World
    from fimbria.analysis.whatif import Whatif
    from fimbria.analysis.whatif_flows import Recording
    from fimbria.model.policy import PolicyKey

_SETTINGS = ("cluster-name", "labels", "enable-policy", "policy-cidr-match-mode",
             "enable-node-selector-labels", "enable-host-firewall")  # fmt: skip
EVENTS = 4096
"""As many events as an agent keeps."""


@click.command("whatif")
@agent_command
@click.option(
    "-f", "--file", "files", multiple=True, metavar="PATH",
    help="The change: policies that would be created or replaced.",
)  # fmt: skip
@click.option(
    "--delete", "deleted", multiple=True, metavar="KIND/NAMESPACE/NAME",
    help="A policy that would be deleted: cnp/default/rule1, ccnp/all.",
)  # fmt: skip
@click.option(
    "--flows", metavar="FILE",
    help="Traffic: what `fimbria monitor -o json` printed, or flows as `policy eval` takes them.",
)  # fmt: skip
@click.option(
    "--resources", "resources", multiple=True, metavar="PATH",
    help="Pods and policies as they are, as manifests, instead of a node's.",
)  # fmt: skip
@settings_options
def whatif(
    target: Target,
    form: Format,
    files: tuple[str, ...],
    deleted: tuple[str, ...],
    flows: str | None,
    resources: tuple[str, ...],
    settings: Settings,
) -> None:
    """Say which connections a change of policies would have denied, without making it.

    The traffic is a node's last events or --flows; pods and policies are a node's, with its
    options, or those of --resources. Exit code 1 if any verdict would be another one, 2 if
    something could not be read.
    """
    from fimbria.analysis import whatif as analysis
    from fimbria.analysis.whatif_world import unresolved

    if not files and not deleted:
        raise click.UsageError("name the change: -f FILE, --delete KIND/NAMESPACE/NAME")
    keys = [_key(text) for text in deleted]
    if resources:
        world = settings.load(resources)
        told(world.errors, "error")
        if flows is None:
            raise click.UsageError("with --resources the traffic comes from --flows FILE")
    else:
        world, settings = _node(target)
    change = settings.load(files)
    told(change.errors, "error")
    told(change.warnings, "warning")
    missing = [str(key) for key in keys if key not in world.policies]
    if missing:
        raise CliError(f"there is no {', '.join(missing)}: see `fimbria policy list`")
    lost = [str(key) for key in unresolved(world)]
    told((f"{key} names CIDR groups or Services, which are not known here" for key in lost), "note")
    recording = _recording(target, flows)
    told(recording.errors, "error")
    found = analysis.whatif(
        world, change, keys, list(recording.seen.values()), settings.enable_policy,
        settings.cidr_match, host_firewall=settings.host_firewall,
    )  # fmt: skip
    told(found.errors, "error")
    emit(form, analysis.document(found), lambda: _shown(found))
    if change.errors or recording.errors or found.errors:
        raise SystemExit(2)
    if found.groups:
        raise SystemExit(1)


def _key(text: str) -> PolicyKey:
    from fimbria.analysis.whatif_world import key_of

    try:
        return key_of(text)
    except ValueError as error:
        raise click.UsageError(f"--delete {error}") from error


def _node(target: Target) -> tuple[World, Settings]:
    """Return the world that a node knows, and its settings."""
    from fimbria.analysis.whatif_world import of_node

    client = target.client()
    config: dict[str, Any] = client.get("/v1/config")
    endpoints, policies = client.get("/v1/endpoint"), client.get("/v1/policy")
    nodes = client.get("/v1/cluster/nodes")
    with understood():
        effective = {key: config[key]["effective"] for key in _SETTINGS}
        settings = Settings(
            effective["enable-policy"],
            frozenset(effective["policy-cidr-match-mode"]),
            bool(effective["enable-node-selector-labels"]),
            bool(effective["enable-host-firewall"]),
            str(effective["cluster-name"]),
            str(effective["labels"]),
        )
        world = of_node(
            endpoints, policies["policies"], nodes, settings.cluster,
            node_labels=settings.node_labels,
        )  # fmt: skip
        return world, settings


def _recording(target: Target, flows: str | None) -> Recording:
    from fimbria.analysis.whatif_flows import Recording

    found = Recording()
    if flows is None:
        found.events(target.client().lines("/v1/monitor", {"last": EVENTS, "follow": 0}))
        return found
    with opened(flows) as stream:
        for number, line in enumerate(stream, 1):
            found.line(number, line)
    return found


def _shown(found: Whatif) -> str:
    from fimbria.analysis import whatif as analysis

    lines = [analysis.summary(found)]
    if found.groups:
        table = Table(["FLOWS", "FROM", "TO", "PORT", "THEN", "BECAUSE"])
        for one in found.groups:
            table.add(
                one.count, analysis.names(one.sources), analysis.names(one.destinations),
                f"{one.after.port}/{one.after.protocol}", one.after.verdict, analysis.why(one),
            )  # fmt: skip
        lines += ["", table.plain()]
    if found.otherwise:
        lines += ["", f"{found.otherwise} were decided otherwise when they were recorded: the "
                      "policies were other ones then."]  # fmt: skip
    return "\n".join(lines)
