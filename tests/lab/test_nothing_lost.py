"""Forwarding does not notice that the agent dies, whenever it dies.

Traffic of every sort runs between two pods of one node and of two nodes under a default-deny
policy, while the agents are killed at random moments (also while they start), and while policy
changes. FIMBRIA_KILLS says how often; `make soak` runs 20.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

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
