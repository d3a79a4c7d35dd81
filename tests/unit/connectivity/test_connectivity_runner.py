"""The runner, on a network in memory that obeys one rule: a policy called `closed` closes echo."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fimbria.connectivity.cluster import Spot
from fimbria.connectivity.model import ALLOW, INGRESS_DENIED, Scenario, Step, check
from fimbria.connectivity.policies import ECHO, cnp
from fimbria.connectivity.runner import Runner, ScenarioResult
from fimbria.sources.errors import KubeError

CLOSED = cnp("closed", ECHO, ingress=[{}])
SPOTS = {
    "client": Spot("client", "node1", ("10.0.0.1",), "t", "client"),
    "echo-same": Spot("echo-same", "node1", ("10.0.0.2",), "t", "echo-same"),
}


class Network:
    """API, agents and pods in one; `log` is what was done to it, in order."""

    name = "memory"
    host_pods = False

    def __init__(self, *, obeys: bool = True, explains: bool = True) -> None:
        self.obeys, self.explains = obeys, explains
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.labels: dict[str, dict[str, str]] = {"client": {"kind": "client"}}
        self.drops: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.revision = 1
        self.node = "node1"
        self.api = self
        self.agents = [self]

    async def create(self, resource: Any, body: dict[str, Any], namespace: str | None) -> None:
        assert body["metadata"].get("namespace") == namespace
        key = (resource.kind, body["metadata"]["name"])
        assert key not in self.objects
        self.objects[key] = body
        self.revision += 1
        self.log.append(f"create {key[1]}")

    async def delete(self, resource: Any, name: str, namespace: str | None) -> None:
        if (resource.kind, name) not in self.objects:
            raise KubeError(404, "NotFound", name)
        del self.objects[resource.kind, name]
        self.revision += 1
        self.log.append(f"delete {name}")

    async def patch(self, resource: Any, name: str, body: dict[str, Any], namespace: str) -> None:
        labels = {**self.labels[name], **body["metadata"]["labels"]}
        self.labels[name] = {key: value for key, value in labels.items() if value is not None}
        self.log.append(f"label {name}")

    async def policies(self) -> dict[str, Any]:
        listed = [{"kind": kind, "name": name} for kind, name in self.objects]
        return {"revision": self.revision, "policies": listed}

    async def wait(self, revision: int) -> None:
        assert revision == self.revision
        self.log.append("enforced")

    async def addresses(self) -> list[dict[str, Any]]:
        return [{"cidr": "10.0.0.1/32", "identity": 300}]

    async def identity(self, number: int) -> dict[str, Any]:
        listed = [f"k8s:{key}={value}" for key, value in self.labels["client"].items()]
        return {"id": number, "labels": listed}

    async def events(self, last: int) -> list[dict[str, Any]]:
        return self.drops[-last:]

    async def command(self, spot: Spot, argv: list[str]) -> tuple[int, str, str]:
        attempts = json.loads(argv[-1])
        closed = ("CiliumNetworkPolicy", "closed") in self.objects and self.obeys
        for attempt in attempts if closed and self.explains else ():
            self.drops.append(
                {
                    "type": "drop",
                    "time": len(self.drops),
                    "reason_number": 133,
                    "direction": "ingress",
                    "saddr": spot.addresses[0],
                    "daddr": attempt["address"],
                    "dport": attempt["port"],
                    "protocol": 6,
                }
            )
        result = {"result": "timeout"} if closed else {"result": "reached", "saw": "10.0.0.1"}
        self.log.append(f"probe from {spot.name}")
        return 0, json.dumps([result] * len(attempts)), ""


OPEN_CLOSE_OPEN = Scenario(
    "open-close-open",
    "a test",
    (
        Step((), (check("client", "echo-same", "8080", ALLOW),)),
        Step((CLOSED,), (check("client", "echo-same", "8080 8081", INGRESS_DENIED),)),
        Step((), (check("client", "echo-same", "8080", ALLOW),)),
    ),
)


async def run(network: Any, *scenarios: Scenario) -> list[ScenarioResult]:
    heard: list[ScenarioResult] = []
    results = await Runner(network, SPOTS, "t").run(scenarios, heard.append)
    assert heard == results
    return results


async def test_steps() -> None:
    """Policies come and go with the steps, and nothing is tried before they are enforced."""
    network = Network()
    (result,) = await run(network, OPEN_CLOSE_OPEN)
    assert [one.problem for one in result.outcomes] == [""] * 4
    assert network.log == [
        "probe from client",
        *("create closed", "enforced", "probe from client"),
        *("delete closed", "enforced", "probe from client"),
    ]


async def test_cleanup() -> None:
    """The last step's policies are taken away in the end."""
    network = Network()
    closing = Scenario("closing", "a test", OPEN_CLOSE_OPEN.steps[1:2])
    await run(network, closing)
    assert network.objects == {}


async def test_cleanup_after_failure() -> None:
    """Also when a probe cannot run."""
    network = Network()

    async def broken(spot: Spot, argv: list[str]) -> tuple[int, str, str]:
        return 127, "", "python3: not found"

    network.command = broken
    with pytest.raises(Exception, match="python3: not found"):
        await run(network, Scenario("closing", "a test", OPEN_CLOSE_OPEN.steps[1:2]))
    assert network.objects == {}


async def test_disobedient_network() -> None:
    """A network that lets through what policy forbids fails."""
    (result,) = await run(Network(obeys=False), OPEN_CLOSE_OPEN)
    assert len(result.failures) == 2
    assert all("but it was answered" in one.problem for one in result.failures)


async def test_silent_network() -> None:
    """A network that drops without saying why fails, also if it said why an earlier time."""
    (result,) = await run(Network(explains=False), OPEN_CLOSE_OPEN)
    assert ["no event" in one.problem for one in result.failures] == [True, True]


async def test_labels() -> None:
    """A step's labels are set before it and taken off after it, known to the nodes each time."""
    network = Network()
    step = Step((), (check("client", "echo-same", "8080", ALLOW),), labels={"client": {"a": "b"}})
    await run(network, Scenario("labels", "a test", (step,)))
    assert network.log == ["label client", "probe from client", "label client"]
    assert network.labels == {"client": {"kind": "client"}}


async def test_missing_places() -> None:
    """What needs a place that does not exist here is skipped and counted."""
    step = Step((CLOSED,), (check("client", "echo-other", "8080", INGRESS_DENIED),))
    network = Network()
    (result,) = await run(network, Scenario("elsewhere", "a test", (step,)))
    assert (result.outcomes, result.skipped, network.log) == ([], 1, [])
