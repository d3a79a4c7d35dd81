"""The agent's metrics, under the names that operators' dashboards know.

    GET /metrics ─► collect ─► families, computed now from the agent's parts and cilium_metrics
                                └► what needs time to be seen is noted as it happens (Delays)

Only what is known is shown. Conntrack's tables hold both families and all protocols, so their
metrics carry the table's name in place of `family` and `protocol`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fimbria.agent.exposition import CONTENT_TYPE, Family, Histogram, Sample, render
from fimbria.datapath import abi
from fimbria.datapath.reasons import REASONS
from fimbria.model.identity import RESERVED
from fimbria.sources.options import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from fimbria.agent.agent import Agent

METRICS_MAP = "cilium_metrics"
LOCAL_SCOPES = (abi.IdentityScope.CIDR, abi.IdentityScope.NODE)
SHADOW = {
    int(abi.MetricsReason.DENIED): "denied",
    int(abi.MetricsReason.ALLOWED): "allowed",
}


class Delays:
    """How long things took, noted as they happen. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.implementation = Histogram()
        self.collection = Histogram()
        self.stalls = Histogram()
        self.bootstrap: float | None = None
        self._newest = 1  # what was there before us is no change
        self._revised: dict[int, float] = {}

    def revised(self, revision: int, now: float) -> None:
        """Note that policy has a revision, if that is new."""
        if revision > self._newest:
            self._newest = revision
            self._revised[revision] = now

    def realised(self, revision: int, now: float) -> None:
        """Note that the maps are as this revision wants them."""
        for known in [known for known in self._revised if known <= revision]:
            self.implementation.observe(now - self._revised.pop(known))


def collect(agent: Agent) -> list[Family]:
    """Return all families, in the order of the text."""
    families: list[Family] = []
    for part in (_endpoints, _policy, _identities, _datapath, _conntrack, _maps, _agent):
        families += part(agent)
    return families


def documents(agent: Agent) -> list[dict[str, Any]]:
    """Return every sample as {"name", "labels", "value"}."""
    return [
        {
            "name": family.name + sample.suffix,
            "labels": dict(sample.labels),
            "value": sample.value,
        }
        for family in collect(agent)
        for sample in family.samples
    ]


async def serve(agent: Agent, address: str) -> web.AppRunner:
    """Serve GET /metrics on `host:port` or `:port`, in the agent's network namespace.

    Raises ConfigError if that is no address, or one that cannot be had.
    """
    from aiohttp import web

    key = "prometheus-serve-addr"
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(key, f"{address!r} is no host:port")

    async def answer(_: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE}
        return web.Response(body=render(collect(agent)).encode(), headers=headers)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
    except (OSError, OverflowError) as error:
        await runner.cleanup()
        raise ConfigError(key, f"{address}: {error}") from error
    return runner


def _endpoints(agent: Agent) -> Iterator[Family]:
    total = Family("cilium_endpoint", "gauge", "Endpoints that this agent manages.")
    total.add(len(agent.endpoints))
    states = Family("cilium_endpoint_state", "gauge", "Endpoints by state.")
    for state, count in sorted(Counter(str(one.state) for one in agent.endpoints).items()):
        states.add(count, endpoint_state=state)
    enforced = Family(
        "cilium_policy_endpoint_enforcement_status",
        "gauge",
        "Endpoints by the directions in which policy is enforced.",
    )
    kinds = Counter({"none": 0, "ingress": 0, "egress": 0, "both": 0})
    for endpoint in agent.endpoints:
        found = agent.policy.enforcement(endpoint.id)
        both = found.ingress and found.egress
        kind = "both" if both else "ingress" if found.ingress else "egress"
        if not (found.ingress or found.egress):
            kind = "none"
        kinds[f"audit-{kind}" if found.audit and kind != "none" else kind] += 1
    for kind, count in kinds.items():
        enforced.add(count, enforcement=kind)
    yield from (total, states, enforced)


def _policy(agent: Agent) -> Iterator[Family]:
    count = Family("cilium_policy", "gauge", "Policies that this agent knows.")
    count.add(len(agent.cluster.state.policies))
    newest = Family("cilium_policy_max_revision", "gauge", "The newest policy revision.")
    newest.add(agent.cluster.revision)
    changes = Family("cilium_policy_change_total", "counter", "Changes of policy taken up.")
    changes.add(agent.cluster.revision - 1, outcome="success")
    delay = Family(
        "cilium_policy_implementation_delay",
        "histogram",
        "Seconds from a change of policy until the datapath enforces it.",
        list(agent.delays.implementation.samples(("source", "k8s"))),
    )
    yield from (count, newest, changes, delay)


def _identities(agent: Agent) -> Iterator[Family]:
    family = Family("cilium_identity", "gauge", "Identities that this agent knows, by kind.")
    kinds = Counter({"reserved": len(RESERVED), "cluster_local": 0, "node_local": 0})
    for number, _ in agent.cluster.state.identities.items():
        if number not in RESERVED:
            scope = number & abi.IdentityScope.MASK
            kinds["node_local" if scope in LOCAL_SCOPES else "cluster_local"] += 1
    for kind, count in kinds.items():
        family.add(count, type=kind)
    yield family


def _datapath(agent: Agent) -> Iterator[Family]:
    forwarded = Family("cilium_forward_count_total", "counter", "Packets forwarded.")
    forwarded_bytes = Family("cilium_forward_bytes_total", "counter", "Bytes forwarded.")
    dropped = Family("cilium_drop_count_total", "counter", "Packets dropped.")
    dropped_bytes = Family("cilium_drop_bytes_total", "counter", "Bytes dropped.")
    shadow = Family(
        "fimbria_policy_shadow_total",
        "counter",
        "New flows that a policy under audit would have judged otherwise.",
    )
    families = forwarded, forwarded_bytes, dropped, dropped_bytes, shadow
    if agent.node.ready:
        for index, packets, size in _counters(agent):
            direction = abi.Direction(index >> abi.MetricsLayout.DIR_SHIFT).name
            reason = index & 0xFF
            if reason in SHADOW:
                shadow.add(packets, verdict=SHADOW[reason], direction=direction)
            elif reason:
                words = REASONS.get(reason, f"reason {reason}")
                dropped.add(packets, reason=words, direction=direction)
                dropped_bytes.add(size, reason=words, direction=direction)
            else:
                forwarded.add(packets, direction=direction)
                forwarded_bytes.add(size, direction=direction)
    lost = Family("fimbria_events_lost_total", "counter", "Events that found the ring buffer full.")
    lost.add(agent.applier.events_lost())
    yield from (*families, lost)


def _counters(agent: Agent) -> Iterator[tuple[int, int, int]]:
    """Yield index, packets and bytes of what has happened at all, in the order of the indices."""
    import numpy as np

    from fimbria.kernel.maps import BpfMap

    table = agent.node.maps.map(METRICS_MAP)
    assert isinstance(table, BpfMap)
    keys, values, count = table.dump()
    sums = np.frombuffer(values, np.uint64).reshape(count, -1, 2).sum(axis=1)
    for index, (packets, size) in zip(np.frombuffer(keys, np.uint32), sums.tolist(), strict=True):
        if packets:
            yield int(index), packets, size


def _conntrack(agent: Agent) -> Iterator[Family]:
    prefix = "cilium_datapath_conntrack_gc"
    collector = agent.collector
    entries = Family(
        f"{prefix}_entries", "gauge", "Connections that the last collection left, and removed."
    )
    for name, found in collector.tables.items():
        entries.add(found.left, table=name, status="alive")
        entries.add(found.deleted, table=name, status="deleted")
    runs = Family(f"{prefix}_runs_total", "counter", "Collections of the connection tables.")
    for status, count in collector.runs.items():
        runs.add(count, status=status)
    seconds = Family(
        f"{prefix}_duration_seconds",
        "histogram",
        "Seconds that collections took.",
        list(agent.delays.collection.samples(("status", "completed"))),
    )
    yield from (entries, runs, seconds)


def _maps(agent: Agent) -> Iterator[Family]:
    pressure = Family("cilium_bpf_map_pressure", "gauge", "Used share of a table, 0 to 1.")
    capacity = Family("cilium_bpf_map_capacity", "gauge", "Elements that a table can hold.")
    for name, fill in sorted(agent.pressure.fills.items()):
        pressure.add(fill.share, map_name=name)
        capacity.add(fill.capacity, map_group=name)
    waiting = Family("fimbria_bpf_map_waiting", "gauge", "Rows for which a full map has no room.")
    for name, rows in agent.applier.waiting().items():
        waiting.add(len(rows), map_name=name)
    yield from (pressure, capacity, waiting)


def _agent(agent: Agent) -> Iterator[Family]:
    failing = Family("cilium_controllers_failing", "gauge", "Controllers whose last run failed.")
    failing.add(len(agent.controllers.failing))
    runs = Family("cilium_controllers_runs_total", "counter", "Runs of controllers.")
    all_of_them = agent.controllers.documents()
    runs.add(sum(one["successes"] for one in all_of_them), status="success")
    runs.add(sum(one["failures"] for one in all_of_them), status="failure")
    capacity = Family("cilium_ipam_capacity", "gauge", "Addresses that this node can give.")
    used = Family("cilium_ip_addresses", "gauge", "Addresses in use.")
    totals: dict[str, tuple[int, int]] = {}
    for version, taken, size, _ in agent.node.ipam.summary():
        before = totals.get(f"ipv{version}", (0, 0))
        totals[f"ipv{version}"] = before[0] + taken, before[1] + size
    for family, (taken, size) in totals.items():
        used.add(taken, family=family)
        capacity.add(size, family=family)
    start = Family("cilium_agent_bootstrap_seconds", "gauge", "Seconds from start until ready.")
    if agent.delays.bootstrap is not None:
        start.samples.append(
            Sample(agent.delays.bootstrap, (("scope", "overall"), ("outcome", "success")))
        )
    stalls = Family(
        "fimbria_loop_busy_seconds",
        "histogram",
        "Seconds at a stretch that the event loop was busy: how late a timer can be.",
        list(agent.delays.stalls.samples()),
    )
    yield from (failing, runs, capacity, used, start, stalls)
