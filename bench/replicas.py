"""Replicas of one workload have one policy map: what a change of policy costs with 1 and with 100.

One lab node, one Deployment, POLICIES policies that select it. The maps are counted in the kernel,
by what the pods' references lead to; the agent's CPU time is that of all changes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from bench.control import (
    CNPS,
    DEPLOYMENT,
    Refs,
    cpu_seconds,
    policy,
    resident,
    settle,
    switch_times,
    until,
    write,
)
from bench.lab import lab
from bench.row import Row
from fimbria.kernel.maps import BpfMap
from fimbria.lab.client import Lab as Client

REPLICAS, POLICIES, CHANGES = (1, 100), 25, 40
MOST = 1.5
"""Ratio that still counts as the same on a machine that others use."""
MOST_CPU = 2
"""A hundred references are written instead of one, and as many endpoints told of."""
SCALE = "/apis/apps/v1/namespaces/default/deployments/many"


@dataclass(frozen=True)
class Cost:
    """Of one number of replicas: milliseconds, MB."""

    wall: float
    cpu: float
    memory: float
    maps: int
    entries: int


def measured(cluster: Client, replicas: int) -> Cost:
    """Scale to a number of replicas, and change a policy CHANGES times."""
    status, answer = cluster.api("PATCH", SCALE, {"spec": {"replicas": replicas}})
    assert status == 200, answer
    node = cluster.node("node1")
    until(lambda: sum(1 for n in Refs(node["bpffs"]).policies() if n > 1) == replicas, 120, 0.5)
    settle(node["agent_pid"])
    refs = Refs(node["bpffs"])
    used = cpu_seconds(node["agent_pid"])
    wall = statistics.median(switch_times(cluster, refs, CHANGES))
    used = (cpu_seconds(node["agent_pid"]) - used) / CHANGES
    numbers = {number for number in refs.policies() if number > 1}
    with BpfMap.open(Path(node["bpffs"]) / "tc/globals/cilium_policy") as outer:
        found = [outer.get_map(number.to_bytes(4, "little")) for number in numbers]
        inner = [one for one in found if one is not None]
        entries = sum(one.count() for one in inner)
        for one in inner:
            one.close()
    return Cost(wall, used * 1e3, resident(node["agent_pid"]), len(inner), entries)


def rows() -> list[Row]:
    with lab(DEPLOYMENT.format(pods=1), "--nodes", "1", "--timeout", "60") as one:
        cluster = Client(one.name)
        write(cluster, CNPS, (policy(f"p{n}", 10_000 + n) for n in range(POLICIES)))
        cluster.cli("policy", "wait", node="node1")
        few, many = (measured(cluster, replicas) for replicas in REPLICAS)
    what = f"{REPLICAS[1]} replicas of one workload"
    beside = f"with {REPLICAS[0]}"

    def ratio(name: str, value: float, unit: str, baseline: float, most: float) -> Row:
        share = value / baseline
        return Row(name, value, unit, baseline, beside, share, f"≤ {most:g} x", share <= most)

    return [
        ratio(f"{what}: their policy maps", many.maps, "", few.maps, 1),
        ratio(f"{what}: entries of these", many.entries, "", few.entries, 1),
        ratio(f"{what}: policy written → enforced on all, p50", many.wall, "ms", few.wall, MOST),
        ratio(f"{what}: agent CPU of a change", many.cpu, "ms", few.cpu, MOST_CPU),
        ratio(f"{what}: agent memory", many.memory, "MB", few.memory, MOST),
    ]
