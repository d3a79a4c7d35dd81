"""The compiler alone: a whole node from nothing, and one change of it.

1,000 CiliumNetworkPolicies, 2,000 identities, 10,000 pods on 100 nodes; one node's maps, for its
110 pods. In a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from bench.row import Row, at_most
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, RemoteEndpoint
from fimbria.model.policy_parse import parse_policy

if TYPE_CHECKING:
    from fimbria.model.policy import Policy

POLICIES, NAMESPACES, APPS, NODES, PODS, LOCAL = 1000, 50, 40, 100, 10_000, 110
FIRST_IDENTITY = 1000
CHANGES = 200


def policy(number: int, port: int = 8080) -> Policy:
    """One of a namespace's policies: every fourth is about the whole namespace."""
    place, app = number % NAMESPACES, number // NAMESPACES
    about = {} if app % 4 == 0 else {"matchLabels": {"app": f"a{app}"}}
    near = [{"matchLabels": {"app": f"a{(app + step) % APPS}"}} for step in (1, 2, 3)]
    far = {"k8s:io.kubernetes.pod.namespace": f"ns{(place + 1) % NAMESPACES}"}
    web = [{"port": str(number), "protocol": "TCP"} for number in (80, 443)]
    return parse_policy(
        {
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": f"p{number}", "namespace": f"ns{place}"},
            "spec": {
                "endpointSelector": about,
                "ingress": [
                    {"fromEndpoints": near, "toPorts": [{"ports": web}]},
                    {
                        "fromEndpoints": [{"matchLabels": far}],
                        "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}],
                    },
                ],
                "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "a39"}}]}],
                "egress": [
                    {
                        "toEndpoints": [{"matchLabels": {**far, "app": "a0"}}],
                        "toPorts": [{"ports": [{"port": "53", "protocol": "ANY"}]}],
                    },
                    {
                        "toCIDRSet": [
                            {"cidr": f"192.{number % 200}.0.0/16",
                             "except": [f"192.{number % 200}.{place}.0/24"]}
                        ],
                    },
                    {"toEntities": ["cluster"], "toPorts": [{"ports": web}]},
                ],
            },
        }
    )  # fmt: skip


def cluster() -> ClusterState:
    state = ClusterState("n0", NodeConfig())
    for number in range(NAMESPACES * APPS):
        place, app = divmod(number, APPS)
        labels = (
            f"k8s:app=a{app}",
            "k8s:io.cilium.k8s.policy.cluster=default",
            "k8s:io.cilium.k8s.policy.serviceaccount=default",
            f"k8s:io.kubernetes.pod.namespace=ns{place}",
        )
        state.identities.put(FIRST_IDENTITY + number, labels)
    for number in range(NODES):
        ip = bytes([172, 18, 0, number + 1])
        row = Node(f"n{number}", (ip,), (), (f"10.1.{number}.0/24",), ip)
        state.nodes.put(row.name, row)
    for number in range(PODS):
        identity = FIRST_IDENTITY + number * 7 % (NAMESPACES * APPS)
        if number < LOCAL:
            mac, ip = number.to_bytes(6, "big"), bytes([10, 1, 0, number + 2])
            local = LocalEndpoint(number + 1, number + 10, mac, mac, ip, None, identity)
            state.local.put(local.id, local)
        else:
            node, host = 1 + number % (NODES - 1), number // (NODES - 1)
            ip = bytes([10, 1, node, host + 2])
            state.remote.put(ip, RemoteEndpoint(ip, identity, bytes([172, 18, 0, node + 1])))
    for number in range(POLICIES):
        one = policy(number)
        assert one.refusal is None, one.refusal
        state.policies.put(one.key, one)
    return state


def peak() -> float:
    """MB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure() -> dict[str, Any]:
    """CPU times in seconds, because machines are shared, and memory in MB."""
    idle = peak()
    compiler = Compiler(cluster(), Ids())
    start = time.process_time()
    compiler.update()
    full = time.process_time() - start
    compiler.applied()
    assert not compiler.problems
    sizes = [size for unit in compiler.policies.sizes().values() for size in unit]
    memory = peak() - idle
    times: list[float] = []
    for number in range(CHANGES):
        one = policy(number, 9000 + number)
        compiler.state.policies.put(one.key, one)
        start = time.process_time()
        delta = compiler.update()
        times.append(time.process_time() - start)
        compiler.applied()
        del delta
    return {"full": full, "memory": memory, "times": sorted(times),
            "maps": len(sizes), "entries": sum(sizes)}  # fmt: skip


def rows() -> list[Row]:
    found = json.loads(subprocess.check_output([sys.executable, "-m", "bench.compile"]))
    times, full = found["times"], found["full"]
    size = f"{POLICIES:,} policies, {NAMESPACES * APPS:,} identities, {PODS:,} pods"
    maps = f"{found['maps']} maps of {found['entries'] // max(found['maps'], 1):,} entries"
    p50, p99 = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
    return [
        at_most(f"a node from nothing, {size} ({maps}), CPU", full, "s", 2),
        at_most("its memory, beside the bare process", found["memory"], "MB", 150),
        Row(
            "one policy changed, CPU, p50",
            p50,
            "ms",
            full * 1e3,
            "ms, from nothing",
            p50 / full / 1e3,
        ),
        at_most("one policy changed, CPU, p99", p99, "ms", 50),
    ]


if __name__ == "__main__":
    print(json.dumps(measure()))
