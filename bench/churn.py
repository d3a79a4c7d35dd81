"""Identity churn: remote pods with new labels come and go through the API, at a fixed rate.

    API: CiliumIdentity, CiliumEndpoint ─► agent ─► policy maps that must name it, ipcache

One lab node with WORKLOADS identities of its own and POLICIES policies, of which every other names
the newcomers. Each newcomer has labels of its own, and so an identity; after LIFE seconds it is
gone. A newcomer is enforced when each workload's policy map and the ipcache have its entries, read
from the kernel; the time runs from the request that writes its CiliumEndpoint. What the event loop
stood still for is the agent's own metric.

`python -m bench churn` takes SECONDS; `python -m bench.churn 60` takes as many as it is told.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.control import CILIUM, CNPS, cpu_seconds, settle, write
from bench.lab import lab
from bench.row import Row, at_most
from fimbria.cli.client import AgentClient
from fimbria.compile import ids
from fimbria.compile.ipcache import key
from fimbria.datapath.abi import PolicyKey, PolicyShape
from fimbria.kernel.maps import BpfMap
from fimbria.lab.client import Lab as Client

if TYPE_CHECKING:
    from concurrent.futures import Future

RATE, SECONDS, LIFE = 100, 15, 5.0
WORKLOADS, REPLICAS, POLICIES = 10, 2, 250
BUILT_IN = {number.to_bytes(4, "little") for number in ids.BUILT_IN}
FIRST_PORT, TCP = 10_000, 6
NUMBERS = range(1_000, 65_536)
"""Of cluster-wide identities."""
STALL, STALLS = 0.05, "fimbria_loop_busy_seconds"
LAST_PORT = FIRST_PORT + (POLICIES // WORKLOADS - 1) // 2 * 2
"""The last port that lets newcomers in."""
WRITERS, LOOK = 4, 0.002
IDENTITIES = f"{CILIUM}/ciliumidentities"
ENDPOINTS = f"{CILIUM}/namespaces/default/ciliumendpoints"


def deployment(number: int) -> str:
    return f"""---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: w{number}}}
spec:
  replicas: {REPLICAS}
  selector: {{matchLabels: {{app: w{number}}}}}
  template:
    metadata: {{labels: {{app: w{number}}}}}
    spec: {{containers: [{{name: main, image: fimbria/sleep}}]}}
"""


def policy(number: int) -> dict[str, Any]:
    """One of a workload's policies; every other lets the newcomers in, at a port of its own."""
    peer = {"tier": "new"} if number // WORKLOADS % 2 == 0 else {"tier": "old"}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": f"p{number}", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": f"w{number % WORKLOADS}"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": peer}],
                    "toPorts": [{"ports": [{"port": str(port(number)), "protocol": "TCP"}]}],
                }
            ],
        },
    }


def port(number: int) -> int:
    return FIRST_PORT + number // WORKLOADS


def labels(number: int) -> dict[str, str]:
    return {
        "k8s:app": f"new{number}",
        "k8s:tier": "new",
        "k8s:io.kubernetes.pod.namespace": "default",
        "k8s:io.cilium.k8s.policy.cluster": "default",
        "k8s:io.cilium.k8s.policy.serviceaccount": "default",
    }


def address(number: int) -> str:
    return f"10.{100 + number // 62_500}.{number // 250 % 250}.{number % 250 + 2}"


def identity(number: int, name: int) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": str(name)},
        "security-labels": labels(number),
    }


def endpoint(number: int, name: int) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEndpoint",
        "metadata": {"name": f"new-{number}", "namespace": "default"},
        "status": {
            "id": number % 60_000 + 1,
            "identity": {
                "id": name,
                "labels": [f"{key}={value}" for key, value in labels(number).items()],
            },
            "networking": {
                "addressing": [{"ipv4": address(number)}],
                "node": "172.18.200.1",
            },
            "state": "ready",
        },
    }


class Api:
    """One connection to the lab's API server that stays open."""

    def __init__(self, cluster: Client) -> None:
        token = cluster.paths.token.read_text().partition(",")[0].strip()
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection("localhost", timeout=30)
        self._connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.sock.connect(str(cluster.paths.api_socket))

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")

    def close(self) -> None:
        self._connection.close()


class Kernel:
    """The node's maps, asked for newcomers."""

    def __init__(self, bpffs: str) -> None:
        folder = Path(bpffs) / "tc/globals"
        self._refs = BpfMap.open(folder / "cilium_policy_ref")
        self._policies = BpfMap.open(folder / "cilium_policy")
        self._ipcache = BpfMap.open(folder / "cilium_ipcache")
        with BpfMap.open(folder / "cilium_lxc") as endpoints:
            rows = endpoints.items().values()
        known = {struct.unpack_from("=H", value, 6)[0] for value in rows}
        self._keys = [struct.pack("=I", number) for number in sorted(known - {0})]
        self._inner: dict[bytes, BpfMap] = {}
        self._known: tuple[bytes, ...] = ()

    def maps(self) -> list[BpfMap]:
        """The policy maps that the node's pods have now."""
        found = {(self._refs.get(number) or bytes(4))[:4] for number in self._keys}
        known = tuple(sorted(found - BUILT_IN))
        if known != self._known:
            for old in self._inner.keys() - set(known):
                self._inner.pop(old).close()
            for new in known:
                inner = None if new in self._inner else self._policies.get_map(new)
                if inner is not None:
                    self._inner[new] = inner
            self._known = known
        return list(self._inner.values())

    def enforced(self, number: int, name: int, maps: list[BpfMap]) -> bool:
        """Is the last port that lets a newcomer in there in each, and its address known?"""
        ip = ip_address(address(number)).packed
        if self._ipcache.get(key(ip)) is None:
            return False
        wanted = PolicyKey(name, LAST_PORT, TCP, int(PolicyShape.PORT)).pack()
        return all(one.get(wanted) is not None for one in maps)


class Newcomers:
    """Writes newcomers at RATE for some seconds, removes each after LIFE, watches the kernel."""

    def __init__(self, cluster: Client, bpffs: str, seconds: int) -> None:
        self._cluster = cluster
        self._kernel = Kernel(bpffs)
        self.count = RATE * seconds
        self.written: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self.enforced: dict[int, float] = {}
        self.oversleep: list[float] = []
        """By how much sleeps of LOOK were too long, seconds: how busy others keep the machine."""
        self._late = [0.0] * WRITERS
        _, known = cluster.api("GET", IDENTITIES)
        taken = {int(one["metadata"]["name"]) for one in known["items"]}
        self._names = [name for name in NUMBERS if name not in taken]

    @property
    def late(self) -> float:
        """How far writers were behind their rate at most, seconds."""
        return max(self._late)

    def run(self) -> None:
        """Return when all have come, were enforced and have gone."""
        start = time.perf_counter() + 0.2
        with ThreadPoolExecutor(WRITERS) as pool:
            jobs = [pool.submit(self._write, writer, start) for writer in range(WRITERS)]
            self._watch(start + self.count / RATE + 20, jobs)
            for job in jobs:
                job.result()

    def _write(self, writer: int, start: float) -> None:
        api = Api(self._cluster)
        tasks = [(start + n / RATE, True, n) for n in range(writer, self.count, WRITERS)]
        tasks += [(at + LIFE, False, n) for at, _, n in tasks]
        try:
            for at, comes, number in sorted(tasks):
                time.sleep(max(0.0, at - time.perf_counter()))
                self._late[writer] = max(self._late[writer], time.perf_counter() - at)
                if comes:
                    api("POST", IDENTITIES, identity(number, self._names[number]))
                    self.written[number] = time.perf_counter()
                    api("POST", ENDPOINTS, endpoint(number, self._names[number]))
                    self.answered[number] = time.perf_counter()
                else:
                    api("DELETE", f"{ENDPOINTS}/new-{number}")
                    api("DELETE", f"{IDENTITIES}/{self._names[number]}")
        finally:
            api.close()

    def _watch(self, deadline: float, jobs: list[Future[None]]) -> None:
        """Note when each is enforced; ends when all are, or at the deadline."""
        while len(self.enforced) < self.count and time.perf_counter() < deadline:
            if any(job.done() and job.exception() for job in jobs):
                return
            maps = self._kernel.maps()
            for number in list(self.written.keys() - self.enforced.keys()):
                if self._kernel.enforced(number, self._names[number], maps):
                    self.enforced[number] = time.perf_counter()
            begin = time.perf_counter()
            time.sleep(LOOK)
            self.oversleep.append(time.perf_counter() - begin - LOOK)


def stalls(socket_path: str) -> tuple[int, int, float]:
    """The agent's stretches of work: all, those longer than STALL, and the seconds of all."""
    every, short, seconds = 0, 0, 0.0
    for sample in AgentClient(socket_path).get("/v1/metrics"):
        if sample["name"] == f"{STALLS}_count":
            every = int(sample["value"])
        elif sample["name"] == f"{STALLS}_sum":
            seconds = sample["value"]
        elif sample["name"] == f"{STALLS}_bucket" and sample["labels"]["le"] == str(STALL):
            short = int(sample["value"])
    return every, every - short, seconds


def measure(seconds: int) -> list[Row]:
    manifest = "".join(deployment(number) for number in range(WORKLOADS))
    with lab(manifest, "--nodes", "1", "--timeout", "120") as one:
        cluster = Client(one.name)
        node = cluster.node("node1")
        write(cluster, CNPS, (policy(number) for number in range(POLICIES)))
        cluster.cli("policy", "wait", node="node1")
        settle(node["agent_pid"])
        newcomers = Newcomers(cluster, node["bpffs"], seconds)
        before, used = stalls(node["socket"]), cpu_seconds(node["agent_pid"])
        newcomers.run()
        used = (cpu_seconds(node["agent_pid"]) - used) / newcomers.count
        after = stalls(node["socket"])
    times = sorted((at - newcomers.written[n]) * 1e3 for n, at in newcomers.enforced.items())
    told = sorted((newcomers.answered[n] - at) * 1e3 for n, at in newcomers.written.items())
    if len(times) < newcomers.count:
        raise RuntimeError(f"only {len(times)} of {newcomers.count} newcomers were enforced")
    what = f"{RATE} new identities/s for {seconds} s, {POLICIES} policies, written → enforced"
    behind = f"ms, a sleep's excess, writers at most {newcomers.late * 1e3:.0f} late"
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    asleep = sorted(newcomers.oversleep)
    slow = asleep[int(len(asleep) * 0.99)] * 1e3
    return [
        Row(f"{what}, p50", p50, "ms", statistics.median(told), "ms, the API's answer"),
        Row(f"{what}, p99", p99, "ms", slow, behind, None, "≤ 100", p99 <= 100),
        at_most(f"loop stalls > {STALL * 1e3:g} ms meanwhile", after[1] - before[1], "", 0),
        Row("agent CPU for one that comes and goes", used * 1e3, "ms"),
    ]


def rows() -> list[Row]:
    return measure(SECONDS)


if __name__ == "__main__":
    print(json.dumps([row.to_json() for row in measure(int(sys.argv[1]))], indent=1))
