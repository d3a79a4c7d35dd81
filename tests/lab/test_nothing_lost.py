"""Forwarding does not notice that the agent dies, whenever it dies.

Traffic of every sort runs between two pods of one node and of two nodes under a default-deny
policy, while the agents are killed at random moments (also while they start), and while policy
or the identities that it names change. FIMBRIA_KILLS says how often; `make soak` runs 20.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.churn import NUMBERS, Api, endpoint, identity
from fimbria.datapath.abi import EndpointInfo, EndpointKey, Family, PolicyRef
from fimbria.kernel.maps import BpfMap
from tests.lab.hostlab import until
from tests.lab.load import PODS, long_lived, nothing_broke, ready, replaced, settled, traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

KILLS = int(os.environ.get("FIMBRIA_KILLS", "3"))


def update(number: int) -> dict[str, Any]:
    """A policy about the same pods that changes with every number, and no verdict of ours."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "changing", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "server"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": "other"}}],
                    "toPorts": [{"ports": [{"port": str(8000 + number % 100)}]}],
                }
            ],
        },
    }


def kill_agents(lab: Lab, rng: random.Random) -> None:
    """KILLS times, while a policy changes all the time; return when all agents are well again."""
    over = threading.Event()
    failures: list[BaseException] = []

    def change_policy() -> None:
        path = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies"
        number = 0
        while not over.is_set():
            number += 1
            status, answer = lab.api("POST", path, update(number))
            if status == 409:
                status, answer = lab.api("PATCH", f"{path}/changing", update(number))
            if status >= 300:
                failures.append(AssertionError(answer))
                return
            over.wait(0.1)

    changes = threading.Thread(target=change_policy)
    changes.start()
    try:
        for number in range(KILLS):
            node = ("node1", "node2")[number % 2]
            # Every third kill meets an agent that is starting, at any point of its start.
            time.sleep(rng.uniform(0.0, 0.8) if number % 3 == 2 else rng.uniform(0.5, 2.0))
            pid = lab.node(node)["agent_pid"]
            if pid:
                os.kill(pid, signal.SIGKILL)
                replaced(lab, node, pid)
            if number % 3 == 0:
                ready(lab, node)
    finally:
        over.set()
        changes.join()
    for node in ("node1", "node2"):
        ready(lab, node)
    assert not failures


@pytest.mark.root
@pytest.mark.timeout(90 + 15 * KILLS)
def test_agents_killed_under_load(make_lab: Callable[..., Lab]) -> None:
    """0 broken connections, 0 failed new ones, 0 forbidden ones let through, conntrack kept."""
    rng = random.Random(os.environ.get("FIMBRIA_SEED", "1"))
    lab = make_lab(PODS, ipv6=True)
    with traffic(lab) as report:
        before = settled(lab)
        kill_agents(lab, rng)
        assert before <= long_lived(lab), "connections were lost from conntrack"
        nothing_broke(report())


NEWCOMERS, AT_ONCE = 200, 20
LETS_NEWCOMERS_IN = """---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: newcomers, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {tier: new}}]
    toPorts: [{ports: [{port: "7000"}, {port: "7001", protocol: UDP}]}]
"""


def policy_map(lab: Lab, pod: str) -> tuple[int, dict[bytes, bytes]]:
    """The id and the entries of a pod's policy on node1, as the kernel has them."""
    folder = Path(lab.node("node1")["bpffs"]) / "tc/globals"
    packed = next(ip_address(ip).packed for ip in lab.pod(pod)["addresses"] if ":" not in ip)
    with (
        BpfMap.open(folder / "cilium_lxc") as pods,
        BpfMap.open(folder / "cilium_policy_ref") as refs,
        BpfMap.open(folder / "cilium_policy") as policies,
    ):
        found = pods.get(EndpointKey(packed.ljust(16, b"\0"), Family.IPV4).pack())
        assert found is not None
        ref = refs.get(EndpointInfo.unpack(found).lxc_id.to_bytes(4, "little"))
        assert ref is not None
        number = PolicyRef.unpack(ref).policy_id
        inner = policies.get_map(number.to_bytes(4, "little"))
        assert inner is not None
        with inner:
            return number, inner.items()


def churn(lab: Lab, during: Callable[[int], None]) -> None:
    """Newcomers with labels of their own come and go, AT_ONCE at a time; ends without any."""
    with closing(Api(lab)) as api:
        path = "/apis/cilium.io/v2"
        for number in range(NEWCOMERS + AT_ONCE):
            if number < NEWCOMERS:
                name = NUMBERS[number]
                api("POST", f"{path}/ciliumidentities", identity(number, name))
                api("POST", f"{path}/namespaces/default/ciliumendpoints", endpoint(number, name))
            if number >= AT_ONCE:
                old = number - AT_ONCE
                api("DELETE", f"{path}/namespaces/default/ciliumendpoints/new-{old}")
                api("DELETE", f"{path}/ciliumidentities/{NUMBERS[old]}")
            during(number)


@pytest.mark.root
def test_identities_come_and_go_under_load(make_lab: Callable[..., Lab]) -> None:
    """Their entries come and go in the map in use, and nothing is lost; neither when agents die."""
    lab = make_lab(PODS + LETS_NEWCOMERS_IN, ipv6=True)
    seen: set[int] = set()
    sizes: set[int] = set()

    def look(_: int) -> None:
        number, entries = policy_map(lab, "near")
        seen.add(number)
        sizes.add(len(entries))

    def kill(number: int) -> None:
        if number == NEWCOMERS // 2:
            for node in ("node1", "node2"):
                os.kill(lab.node(node)["agent_pid"], signal.SIGKILL)

    def back_to(entries: dict[bytes, bytes]) -> None:
        until(lambda: policy_map(lab, "near")[1] == entries, "the entries from before")

    with traffic(lab) as report:
        before = settled(lab)
        _, alone = policy_map(lab, "near")
        churn(lab, look)
        back_to(alone)
        assert max(sizes) >= len(alone) + 2 * AT_ONCE // 2
        assert len(seen) <= 4, "a new map only where the one before was full"
        churn(lab, kill)
        for node in ("node1", "node2"):
            ready(lab, node)
        back_to(alone)
        assert before <= long_lived(lab), "connections were lost from conntrack"
        nothing_broke(report())
