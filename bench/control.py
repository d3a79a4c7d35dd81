"""The agent: from a policy object written to maps switched, memory, idle CPU, start.

One lab node with 110 pods and 250 policies; then CiliumEndpoints of 5,000 and 50,000 pods of
other nodes, with 250 identities, are written to the API. What is enforced is read from the
kernel's map, not asked of the agent.
"""

from __future__ import annotations

import os
import signal
import statistics
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lab import lab
from bench.row import Row, at_most
from fimbria.cli.client import AgentClient
from fimbria.cli.errors import CliError
from fimbria.kernel.maps import BpfMap
from fimbria.lab.client import Lab as Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PODS, POLICIES, IDENTITIES, CHANGES = 110, 250, 250, 200
FULL_NODE = 200
REMOTE = (5_000, 50_000)
IDLE_SECONDS = 20.0
TICK = os.sysconf("SC_CLK_TCK")
CILIUM = "/apis/cilium.io/v2"
CNPS = f"{CILIUM}/namespaces/default/ciliumnetworkpolicies"
FIRST_REMOTE_IDENTITY = 60_000

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: many}}
spec:
  replicas: {pods}
  selector: {{matchLabels: {{app: many}}}}
  template:
    metadata: {{labels: {{app: many}}}}
    spec: {{containers: [{{name: main, image: fimbria/sleep}}]}}
"""


def policy(name: str, port: int) -> dict[str, Any]:
    """A policy that selects every pod."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "many"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": "many"}}],
                    "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}],
                }
            ],
        },
    }


def identity(number: int) -> dict[str, Any]:
    labels = {
        "k8s:app": f"remote{number}",
        "k8s:io.kubernetes.pod.namespace": "default",
        "k8s:io.cilium.k8s.policy.cluster": "default",
        "k8s:io.cilium.k8s.policy.serviceaccount": "default",
    }
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": str(FIRST_REMOTE_IDENTITY + number)},
        "security-labels": labels,
    }


def endpoint(number: int) -> dict[str, Any]:
    """A pod of one of 200 other nodes."""
    node, host = divmod(number, 250)
    labels = identity(number % IDENTITIES)["security-labels"]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEndpoint",
        "metadata": {"name": f"remote-{number}", "namespace": "default"},
        "status": {
            "id": host + 1,
            "identity": {
                "id": FIRST_REMOTE_IDENTITY + number % IDENTITIES,
                "labels": [f"{key}={value}" for key, value in labels.items()],
            },
            "networking": {
                "addressing": [{"ipv4": f"10.{100 + node // 200}.{node % 200}.{host + 2}"}],
                "node": f"172.18.{200 + node // 200}.{node % 200 + 1}",
            },
            "state": "ready",
        },
    }


def write(cluster: Client, path: str, objects: Iterable[dict[str, Any]]) -> None:
    def post(body: dict[str, Any]) -> None:
        status, answer = cluster.api("POST", path, body)
        if status >= 300:
            raise RuntimeError(f"{path}: {answer}")

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(post, objects, chunksize=64):
            pass


def until(condition: Callable[[], bool], seconds: float, pause: float = 0.01) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the benchmark's condition does not come true")
        time.sleep(pause)


class Refs:
    """Which policy each of the node's pods has, read from the kernel."""

    def __init__(self, bpffs: str) -> None:
        self.refs = BpfMap.open(Path(bpffs) / "tc/globals/cilium_policy_ref")
        endpoints = BpfMap.open(Path(bpffs) / "tc/globals/cilium_lxc")
        ids = {struct.unpack_from("=H", value, 6)[0] for value in endpoints.items().values()}
        self.keys = [struct.pack("=I", number) for number in sorted(ids - {0})]

    def policies(self) -> list[int]:
        return [struct.unpack_from("=I", self.refs.get(key) or bytes(4))[0] for key in self.keys]

    def all_differ(self, before: list[int]) -> bool:
        return all(new != old for new, old in zip(self.policies(), before, strict=True))


def switch_times(cluster: Client, refs: Refs, changes: int = CHANGES) -> list[float]:
    """Milliseconds from the request to the last pod's switch, for each change."""
    times: list[float] = []
    for number in range(changes):
        before = refs.policies()
        start = time.perf_counter()
        status, answer = cluster.api("PATCH", f"{CNPS}/p0", policy("p0", 20_000 + number))
        assert status == 200, answer
        until(
            lambda old=before: all(a != b for a, b in zip(refs.policies(), old, strict=True)),
            10,
            0.0005,
        )
        times.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.05)
    return sorted(times)


def resident(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def settle(pid: int) -> None:
    """Wait until the agent rests: what was written before is no part of what comes."""

    def rests() -> bool:
        used = cpu_seconds(pid)
        time.sleep(0.5)
        return cpu_seconds(pid) - used < 0.02

    until(rests, 60)


def start_time(cluster: Client) -> float:
    """Seconds from the end of one agent to the next one's first reconcile."""
    pid = cluster.node("node1")["agent_pid"]
    os.kill(pid, signal.SIGKILL)
    start = time.monotonic()

    def reconciled() -> bool:
        node = cluster.node("node1")
        if node["agent_pid"] in (0, None, pid):
            return False
        try:
            lines = AgentClient(node["socket"]).get("/v1/healthz")["lines"]
        except CliError:
            return False
        return all(line["state"] == "ok" for line in lines)

    until(reconciled, 30)
    return time.monotonic() - start


def full_start() -> Row:
    """Start against the state and the pins of FULL_NODE pods, with POLICIES policies."""
    manifest = DEPLOYMENT.format(pods=FULL_NODE)
    with lab(manifest, "--nodes", "1", "--timeout", "180") as one:
        cluster = Client(one.name)
        write(cluster, CNPS, (policy(f"p{n}", 10_000 + n) for n in range(POLICIES)))
        cluster.cli("policy", "wait", node="node1")
        seconds = start_time(cluster)
        pins = sum(path.is_file() for path in Path(cluster.node("node1")["bpffs"]).rglob("*"))
    name = f"agent start to first reconcile, {FULL_NODE} pods, {POLICIES} policies, {pins} pins"
    return at_most(name, seconds, "s", 2)


def rows() -> list[Row]:
    found: list[Row] = []
    with lab(DEPLOYMENT.format(pods=PODS), "--nodes", "1", "--timeout", "120") as one:
        cluster = Client(one.name)
        node = cluster.node("node1")
        write(cluster, CNPS, (policy(f"p{n}", 10_000 + n) for n in range(POLICIES)))
        cluster.cli("policy", "wait", node="node1")
        settle(node["agent_pid"])
        times = switch_times(cluster, Refs(node["bpffs"]))
        what = f"policy written → enforced, {PODS} pods, {POLICIES} policies"
        found.append(at_most(f"{what}, p50", statistics.median(times), "ms", 50))
        found.append(at_most(f"{what}, p99", times[int(len(times) * 0.99)], "ms", 50))

        used = cpu_seconds(node["agent_pid"])
        time.sleep(IDLE_SECONDS)
        used = (cpu_seconds(node["agent_pid"]) - used) / IDLE_SECONDS
        found.append(at_most(f"agent CPU idle, {PODS} pods", used, "cores", 0.005))

        seconds = start_time(cluster)
        found.append(at_most(f"agent start to first reconcile, {PODS} pods", seconds, "s", 2))

        write(cluster, f"{CILIUM}/ciliumidentities", (identity(n) for n in range(IDENTITIES)))
        ipcache = BpfMap.open(Path(node["bpffs"]) / "tc/globals/cilium_ipcache")
        done = 0
        for count, limit in zip(REMOTE, (120, 220), strict=True):
            path = f"{CILIUM}/namespaces/default/ciliumendpoints"
            write(cluster, path, (endpoint(n) for n in range(done, count)))
            until(lambda count=count: ipcache.count() >= count, 120, 0.5)
            done = count
            memory = resident(cluster.node("node1")["agent_pid"])
            name = f"agent memory, {PODS} local and {count:,} remote pods"
            found.append(at_most(name, memory, "MB", limit))
        seconds = start_time(cluster)
        memory = resident(cluster.node("node1")["agent_pid"])
        found.append(at_most(f"the same after a restart ({seconds:.1f} s)", memory, "MB", 220))
    found.append(full_start())
    return found
