"""The lines of `fimbria status`: one per subsystem, what is in force beside what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.agent import privileges, statefiles
from fimbria.agent.held import Standing
from fimbria.agent.node import CT_NEW

if TYPE_CHECKING:
    from fimbria.agent.agent import Agent

Line = dict[str, Any]
ROOM_NEEDED = 16384
"""Bytes that adding a pod may take: two files, one more while it is written, their folder."""
OK, WARNING, FAILURE = "ok", "warning", "failure"


def lines(agent: Agent) -> list[Line]:
    """Return all lines in the order in which people read them."""
    return [
        _kubernetes(agent),
        _apis(agent),
        _line("KubeProxyReplacement", "False", requested="False"),
        _host_firewall(agent),
        _cni(agent),
        _agent(agent),
        _node(agent),
        _state(agent),
        _line("Privileges", privileges.text(agent.config.socket_group)),
        _monitor(agent),
        *_ipam(agent),
        _routing(agent),
        _line("Attach Mode", "TCX"),
        _devices(agent),
        _line("Masquerading", "Disabled", requested="Disabled"),
        _policy(agent),
        *_trial(agent),
        *_references(agent),
        _cidr_match(agent),
        _conntrack(agent),
        _maps(agent),
        _controllers(agent),
        _line("Encryption", "Disabled"),
    ]


def _line(name: str, text: str, state: str = OK, requested: str = "") -> Line:
    found: Line = {"name": name, "state": state, "text": text}
    if requested:
        found["requested"] = requested
    return found


def _kubernetes(agent: Agent) -> Line:
    problems = agent.watches.problems()
    if problems:
        return _line("Kubernetes", f"Disconnected: {problems[0]}", WARNING)
    if not agent.watches.synced.is_set():
        return _line("Kubernetes", "Connecting", WARNING)
    return _line("Kubernetes", "Ok")


def _apis(agent: Agent) -> Line:
    kinds = sorted(f"{r.resource.api_version}::{r.resource.kind}" for r in agent.watches.all)
    absent = agent.watches.absent()
    text = f"[{', '.join(kind for kind in kinds if kind not in absent)}]"
    if absent:
        text += f", the API server has no {', '.join(absent)}"
    return _line("Kubernetes APIs", text)


def _host_firewall(agent: Agent) -> Line:
    requested = "Enabled" if agent.config.enable_host_firewall else "Disabled"
    devices = agent.node.devices
    if not agent.config.enable_host_firewall:
        return _line("Host firewall", "Disabled", requested=requested)
    if devices is None:
        return _line("Host firewall", "not up", WARNING, requested)
    names = ", ".join(device.name for device in devices.devices)
    return _line("Host firewall", f"Enabled [{names}]", requested=requested)


def _cni(agent: Agent) -> Line:
    path = agent.config.write_cni_conf_when_ready
    if not path:
        return _line("CNI Config file", "not written by the agent")
    there = Path(path).exists()
    return _line(
        "CNI Config file", path if there else f"{path} is missing", OK if there else WARNING
    )


def _agent(agent: Agent) -> Line:
    if not agent.node.ready:
        return _line("Cilium", "Starting: waits for pod CIDRs", WARNING)
    if not agent.lifecycle.ready.is_set():
        return _line("Cilium", "Starting: waits for the API's lists", WARNING)
    return _line("Cilium", f"Ok   {len(agent.endpoints)} endpoints")


def _node(agent: Agent) -> Line:
    """Tell what others did to the node, what was put right, and whose programs run beside ours."""
    guard = agent.guard
    if guard.wrong:
        text = f"{'; '.join(guard.wrong)}: cannot be put right yet, see Controller Status"
        return _line("Node", text, FAILURE)
    if guard.cut_off:
        names = ", ".join(guard.cut_off[:3]) + ", …" * (len(guard.cut_off) > 3)
        return _line("Node", f"device deleted of {names}: delete these pods", WARNING)
    said = ["Ok"]
    if guard.repaired:
        said.append(f"put right: {guard.repaired}")
    if agent.node.mounted:
        said.append(f"the agent mounted {agent.config.bpf_root} itself")
    if guard.foreign:
        said.append(f"programs of others: {', '.join(guard.foreign[:3])}")
    return _line("Node", "   ".join(said))


def _state(agent: Agent) -> Line:
    """Tell whether the state directory has room for what the agent must remember."""
    folder = Path(agent.config.state_dir)
    try:
        left = statefiles.room(folder)
    except OSError as error:
        return _line("State directory", f"{folder}: {error.strerror}", FAILURE)
    unsaved = len(agent.lifecycle.unsaved)
    text = f"{folder}: {left >> 20} MiB free"
    if left < ROOM_NEEDED:
        text = f"{folder}: full, pods cannot be added; make room there"
    if unsaved:
        text += f", {unsaved} endpoints are not saved yet"
    return _line("State directory", text, FAILURE if left < ROOM_NEEDED or unsaved else OK)


def _monitor(agent: Agent) -> Line:
    monitor = agent.api.monitor
    if monitor is None:
        return _line("NodeMonitor", "Not listening", WARNING)
    return _line(
        "NodeMonitor",
        f"Listening for events: {monitor.seen} seen, {agent.applier.events_lost()} lost",
    )


def _ipam(agent: Agent) -> list[Line]:
    text = ", ".join(
        f"IPv{version}: {used}/{capacity} allocated from {cidr}"
        for version, used, capacity, cidr in agent.node.ipam.summary()
    )
    return [_line("IPAM", text or "no pod CIDR", OK if text else WARNING)]


def _routing(agent: Agent) -> Line:
    config = agent.config
    network = f"Tunnel [{config.tunnel_protocol}]" if config.routing_mode == "tunnel" else "Native"
    host = "Legacy" if config.enable_host_legacy_routing else "BPF"
    text = f"Network: {network}   Host: {host}"
    # Programs are loaded for what was asked, or not at all: that is what makes the two equal.
    return _line("Routing", text if agent.node.ready else "not up", requested=text)


def _devices(agent: Agent) -> Line:
    devices = agent.node.devices
    wanted = ",".join(agent.config.devices) or "those of the default routes"
    if devices is None:
        return _line("Devices", "not up", WARNING, wanted)
    names = ", ".join(device.name for device in devices.devices)
    text = f"{names} (MTU {devices.device_mtu}, pods {devices.route_mtu})"
    return _line("Devices", text, requested=wanted)


def _policy(agent: Agent) -> Line:
    """Tell how many policies there are, and name those that are not simply enforced."""
    text = f"{agent.config.enable_policy}, revision {agent.cluster.revision}"
    if agent.config.policy_audit_mode:
        text += ", audit mode: everything passes"
    policies = agent.policy.policies()
    if policies:
        text += f", {len(policies)} {'policy' if len(policies) == 1 else 'policies'}"
    state = OK
    for standing in Standing:
        named = [one for one in policies if one["status"] == standing]
        if standing is Standing.ENFORCED or not named:
            continue
        names = ", ".join(f"{one['namespace']}/{one['name']}".lstrip("/") for one in named[:3])
        more = ", …" if len(named) > 3 else ""
        text += f", {len(named)} {standing}: {names}{more}"
        if standing is not Standing.AUDITED:
            state = WARNING
    return _line("Policy", text, state)


def _references(agent: Agent) -> list[Line]:
    """Name the CIDR groups that stay as they were because they cannot be read."""
    wrong = agent.cluster.references.unreadable
    if not wrong:
        return []
    names = "; ".join(f"{name}: {why}" for name, why in sorted(wrong.items())[:3])
    return [_line("CIDR groups", f"{len(wrong)} cannot be read: {names}", WARNING)]


def _cidr_match(agent: Agent) -> Line:
    requested = ", ".join(agent.config.policy_cidr_match_mode) or "the world only"
    effective = ", ".join(sorted(agent.cluster.state.config.cidr_match)) or "the world only"
    return _line("Policy CIDR match", effective, requested=requested)


def _trial(agent: Agent) -> list[Line]:
    """Policies on trial, while there are some: somebody must do something about them."""
    trial = agent.trials.document()
    if trial is None:
        return []
    names = ", ".join(f"{one['namespace']}/{one['name']}".lstrip("/") for one in trial["policies"])
    text = f"{names}, {trial['seconds-left']:.0f} s left: fimbria policy confirm or rollback"
    return [_line("Policy trial", text, WARNING)]


def _conntrack(agent: Agent) -> Line:
    collector = agent.collector
    half_open = collector.tables.get(CT_NEW)
    opening = half_open.left if half_open else 0
    text = (
        f"{collector.last.left} connections, {opening} of them half-open; "
        f"{collector.last.deleted} collected, next in {collector.interval:g} s"
    )
    return _line("Conntrack", text)


def _maps(agent: Agent) -> Line:
    """How full the tables are; a failure if something had no room."""
    pressure = agent.pressure
    missing, alarms = pressure.missing(), [fill.text() for fill in pressure.alarms]
    if missing or alarms:
        return _line("BPF maps", "; ".join([*missing, *alarms]), FAILURE if missing else WARNING)
    fullest = max(pressure.fills.values(), key=lambda fill: fill.share, default=None)
    return _line(
        "BPF maps", f"Ok   fullest: {fullest.name} {fullest.share:.0%}" if fullest else "Ok"
    )


def _controllers(agent: Agent) -> Line:
    failing = agent.controllers.failing
    healthy = agent.controllers.count - len(failing)
    text = f"{healthy}/{agent.controllers.count} healthy"
    if failing:
        text += f" ({failing[0].name}: {failing[0].last_error})"
    return _line("Controller Status", text, FAILURE if failing else OK)
