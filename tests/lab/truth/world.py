"""The lab of the truth table: pods with labels, nodes, addresses outside, and policies that change.

What the first judge is told is what was written and what the API server says of pods and nodes.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

from fimbria.analysis import from_documents
from fimbria.cli.client import AgentClient
from fimbria.model.policy import PolicyKey
from tests.lab.truth.judge import Judge
from tests.lab.truth.stations import Station
from tests.property.strategies import LABELS, NAMES, NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from fimbria.lab.client import Lab
    from tests.property.manifests import Document

APIS = {
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "CiliumNetworkPolicy": ("cilium.io/v2", "ciliumnetworkpolicies"),
    "CiliumClusterwideNetworkPolicy": ("cilium.io/v2", "ciliumclusterwidenetworkpolicies"),
    "ClusterNetworkPolicy": ("policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies"),
    "CiliumCIDRGroup": ("cilium.io/v2", "ciliumcidrgroups"),
}
EVENTS = 500
"""How many of a node's last events are asked for: not all of a round, for each has its cost."""
KINDS = "namespaces,pods,nodes,ciliumnodes,ciliumidentities,services,endpointslices"
OUTSIDE = (
    "192.0.2.1", "192.0.2.129", "192.0.2.130", "198.51.100.1", "2001:db8::1", "2001:db8:1::7",
    "2001:db8:1::8",
)  # fmt: skip
"""Addresses of the world, in and around the prefixes that policies name."""


def some_labels(random: Random) -> dict[str, str | None]:
    """Labels of a pod; None for one that it has not."""
    tier = random.choice(LABELS["tier"]) if random.random() < 0.6 else None
    return {"app": random.choice(LABELS["app"]), "tier": tier}


def pods(random: Random, count: int) -> list[Document]:
    """Namespaces and pods, half of the pods on each node; labels repeat, and so do named ports."""
    found: list[Document] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in NAMESPACES.items()
    ]
    for index in range(count):
        labels = {key: value for key, value in some_labels(random).items() if value}
        ports = [
            {"name": name, "containerPort": random.choice((53, 80, 8080)), "protocol": protocol}
            for name, protocol in zip(NAMES, ("TCP", random.choice(("TCP", "UDP"))), strict=True)
            if random.random() < 0.7
        ]
        meta = {"name": f"pod{index}", "namespace": random.choice(("red", "red", "blue"))}
        ready = {"exec": {"command": ["true"]}}  # nothing listens on the ports that it names
        container = {"name": "main", "image": "fimbria/sleep", "ports": ports,
                     "readinessProbe": ready}  # fmt: skip
        found.append(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "labels": labels},
             "spec": {"nodeName": f"node{index % 2 + 1}", "containers": [container]}}
        )  # fmt: skip
    return found


def services() -> list[Document]:
    """What rules by Service name: pods, and addresses of either family outside."""
    found: list[Document] = []
    for name, ips in (("pods", ()), ("v4", ("192.0.2.130", "198.51.100.1")),
                      ("v6", ("2001:db8:1::7",))):  # fmt: skip
        meta: Document = {"name": name, "namespace": "red", "labels": {"of": "us"} if ips else {}}
        spec: Document = {"ports": [{"port": 80}], **({} if ips else {"selector": {"app": "db"}})}
        found.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        if ips:
            where = {"kubernetes.io/service-name": name}
            found.append(
                {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                 "metadata": {"name": f"{name}-1", "namespace": "red", "labels": where},
                 "addressType": "IPv6" if ":" in ips[0] else "IPv4",
                 "endpoints": [{"addresses": [ip]} for ip in ips]}
            )  # fmt: skip
    return found


def complete(document: Document, name: str) -> Document:
    """A policy or group as the API wants it, under a name of its own."""
    version, _ = APIS[document["kind"]]
    return {**document, "apiVersion": version, "metadata": {**document["metadata"], "name": name}}


class Cluster:
    """A lab with pods, and the policies that it has at the moment."""

    def __init__(self, lab: Lab, config: dict[str, str]) -> None:
        self.lab = lab
        self.config = config
        self.policies: list[Document] = []
        self.groups: list[Document] = []
        self._canary = 0
        self._left_out: dict[str, set[PolicyKey]] = {}
        self.nodes: list[Document] = lab.status()["nodes"]
        self.agents = {node["name"]: AgentClient(node["socket"]) for node in self.nodes}
        self._widen()
        self._read()

    def _read(self) -> None:
        text = self.lab.kubectl("get", "-A", "-o", "json", KINDS)
        self._found: list[Document] = json.loads(text)["items"]

    def _widen(self) -> None:
        """Give the world more addresses, and ways to the pods."""
        batch = [f"addr add {ip}/{128 if ':' in ip else 32} dev lo" for ip in OUTSIDE]
        batch.append("link set lo up")
        for one in json.loads(self.lab.kubectl("get", "ciliumnodes", "-o", "json"))["items"]:
            addresses = self.lab.node(one["metadata"]["name"])["addresses"]
            for cidr in one["spec"]["ipam"]["podCIDRs"]:
                via = next(ip for ip in addresses if (":" in ip) is (":" in cidr))
                batch.append(f"route add {cidr} via {via}")
        command = ["nsenter", f"--net={self.lab.status()['netns']}", "ip", "-batch", "-"]
        subprocess.run(command, input="\n".join([*batch, ""]), text=True, check=True)

    def stations(self) -> list[Station]:
        """Pods by namespace/name, nodes by node:name, and the world."""
        status = self.lab.status()
        found = [
            Station(f"{pod['namespace']}/{pod['name']}", pod["netns"], tuple(pod["addresses"]))
            for pod in status["pods"]
        ]
        found += [
            Station(f"node:{node['name']}", node["netns"], tuple(node["addresses"]))
            for node in status["nodes"]
        ]
        return [*found, Station("world", status["netns"], OUTSIDE)]

    def switch(self, policies: Sequence[Document], groups: Sequence[Document] = ()) -> None:
        """Have these policies and groups and no others; return when both nodes enforce them.

        A policy that is there already stays as it is.
        """
        self._replace(self.groups, groups)
        self.groups = list(groups)
        if groups:
            self._heard_of_groups()
        self._replace(self.policies, policies)
        self.policies = list(policies)
        self._enforced()

    def _replace(self, old: Sequence[Document], new: Sequence[Document]) -> None:
        for one in old:
            if one not in new:
                self._ask("DELETE", f"{_path(one)}/{one['metadata']['name']}")
        for one in new:
            if one not in old:
                self._ask("POST", _path(one), one)

    def _ask(self, method: str, path: str, body: Document | None = None) -> Document:
        status, answer = self.lab.api(method, path, body)
        assert status < 300, answer
        return answer

    def _heard_of_groups(self) -> None:
        """Wait until every node knows a group that was written after all others."""
        if self._canary == 0:
            for one in (_canary(0), CANARY):
                self._ask("POST", _path(one), one)
        self._canary += 1
        self.change(_canary(self._canary))

    def relabel(self, pod: str, labels: dict[str, str | None]) -> None:
        """Give namespace/name other labels; return when every node knows its new identity."""
        namespace, name = pod.split("/")
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        self._ask("PATCH", path, {"metadata": {"labels": labels}})
        addresses = self.lab.pod(name, namespace)["addresses"]
        for node, agent in self.agents.items():
            deadline = time.monotonic() + 30
            while any(_labels(agent, address) != labels for address in addresses):
                assert time.monotonic() < deadline, f"{node} does not know {pod} with {labels}"
                time.sleep(0.05)
            agent.wait("/v1/policy/wait", {"revision": 0}, 30)
        self._read()

    def change(self, document: Document) -> None:
        """Put another version in the place of a policy or group; return when it is in force.

        A group's versions must not have all prefixes in common.
        """
        path = f"{_path(document)}/{document['metadata']['name']}"
        heard = {name: agent.get("/v1/policy")["revision"] for name, agent in self.agents.items()}
        self._ask("PATCH", path, document)
        if document["kind"] == "CiliumCIDRGroup":
            self._knows(set(document["spec"]["externalCIDRs"]))
            heard = dict.fromkeys(heard, -1)
        for name, agent in self.agents.items():
            agent.wait("/v1/policy/wait", {"revision": heard[name] + 1}, 60)

    def _knows(self, prefixes: set[str]) -> None:
        """Wait until every node knows prefixes that rules name."""
        for name, agent in self.agents.items():
            deadline = time.monotonic() + 30
            while not prefixes <= {row["cidr"] for row in agent.get("/v1/ip")}:
                assert time.monotonic() < deadline, f"{name} does not know {prefixes}"
                time.sleep(0.02)

    def _enforced(self) -> None:
        """Wait until every node has these policies, no others, and has done what they say."""
        names = {
            (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"])
            for one in self._standing()
        }
        for name, agent in self.agents.items():
            deadline = time.monotonic() + 30
            while True:
                rows = agent.get("/v1/policy")["policies"]
                if {(one["kind"], one["namespace"], one["name"]) for one in rows} == names:
                    break
                assert time.monotonic() < deadline, f"{name} has {rows}"
                time.sleep(0.02)
            agent.wait("/v1/policy/wait", {"revision": 0}, 30)
            rows = agent.get("/v1/policy")["policies"]
            self._left_out[name] = {
                PolicyKey(one["kind"], one["namespace"], one["name"])
                for one in rows
                if one["status"] == "not applied"
            }

    def _standing(self) -> list[Document]:
        return [*self.policies, *([CANARY] if self._canary else [])]

    def judge(self) -> Judge:
        """The first judge, over what is written and what there is."""
        world = from_documents([*self._found, *self._standing(), *self.groups])
        assert not world.errors, world.errors
        return Judge(world, self.config, self._left_out)

    def events(self) -> dict[str, list[Document]]:
        """What each node's kernel said lately, oldest first."""
        return {
            name: list(agent.lines("/v1/monitor", {"last": EVENTS}))
            for name, agent in self.agents.items()
        }


CANARY = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumClusterwideNetworkPolicy",
    "metadata": {"name": "canary"},
    "spec": {
        "endpointSelector": {},
        "ingress": [{"fromCIDRSet": [{"cidrGroupRef": "canary"}]}],
        "enableDefaultDeny": {"ingress": False, "egress": False},
    },
}
"""Has a prefix known that shows which version of a group a node has; allows nobody that is here."""


def _canary(number: int) -> Document:
    prefix = f"198.18.{number >> 8}.{number & 255}/32"
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
            "metadata": {"name": "canary"}, "spec": {"externalCIDRs": [prefix]}}  # fmt: skip


def _labels(agent: AgentClient, address: str) -> dict[str, str | None]:
    """The labels app and tier of an address's identity, as a node knows it."""
    rows = agent.get("/v1/ip")
    number = next(one["identity"] for one in rows if one["cidr"].partition("/")[0] == address)
    texts = agent.get(f"/v1/identity/{number}")["labels"]
    known = dict(text.removeprefix("k8s:").split("=", 1) for text in texts if "=" in text)
    return {key: known.get(key) for key in LABELS}


def _path(document: Document) -> str:
    version, plural = APIS[document["kind"]]
    namespace = document["metadata"].get("namespace")
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{version}{where}/{plural}"
