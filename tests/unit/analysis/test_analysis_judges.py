"""One world, several ways to judge it: rules, maps one by one, maps in bulk; they never differ."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fimbria.analysis import Engine, Flow, FlowError, JudgesDiffer, from_documents
from tests.property import strategies

if TYPE_CHECKING:
    from fimbria.analysis import Result, World

MODES = ("default", "default", "default", "always", "never")
PROTOCOLS = ("TCP", "UDP", "SCTP", "ICMP", "ICMPv6")
OUTSIDE = (
    "10.0.0.1", "10.1.2.3", "10.1.2.200", "192.168.7.7", "172.18.0.2", "172.18.0.3", "8.8.8.8",
    "10.9.0.77", "10.96.0.10", "fd00::1", "2001:db8::5", "fd77::3",
)  # fmt: skip
NODES = {
    "n1": ("edge", "10.9.0.0/24", ["172.18.0.2"]),
    "n2": ("core", "10.9.1.0/24", ["172.18.0.3", "fd77::3"]),
    "n3": ("core", "10.9.2.0/24", []),
}
"""Role, pod CIDR and addresses by name."""
ENTITIES = ("host", "remote-node", "world", "world-ipv6", "kube-apiserver", "init")
CIDRS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "172.18.0.0/16",
         "::/0", "2001:db8::/32", "10.9.0.0/24")  # fmt: skip


def document(kind: str, version: str, name: str, namespace: str = "", **rest: Any) -> Any:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def cluster() -> list[Any]:
    """Nodes, namespaces and a Service that every world has."""
    made = [
        document("Namespace", "v1", name) | {"metadata": {"name": name, "labels": labels}}
        for name, labels in strategies.NAMESPACES.items()
    ]
    for name, (role, cidr, ips) in NODES.items():
        addresses = [{"type": "InternalIP", "address": ip} for ip in ips]
        made.append(
            document("Node", "v1", name, spec={"podCIDRs": [cidr]}, status={"addresses": addresses})
        )
        made[-1]["metadata"]["labels"] = {"role": role}
    ports = [{"port": 80, "targetPort": "http"}, {"name": "x", "port": 81, "targetPort": 8080}]
    spec = {"selector": {"app": "web"}, "clusterIP": "10.96.0.10", "ports": ports}
    return [*made, document("Service", "v1", "web", "red", spec=spec)]


def cidr_policy(index: int, dice: Random) -> Any:
    """A policy by CIDR, with exceptions or a denial, about some pods of either namespace."""
    net = {"cidr": "10.0.0.0/8", "except": dice.sample(["10.1.0.0/16", "10.1.2.3/32"], 1)}
    rules: list[dict[str, Any]] = [{"toCIDRSet": [net]}, {"toCIDR": dice.sample(CIDRS, 2)}]
    spec: dict[str, Any] = {"endpointSelector": {}, "egress": [dice.choice(rules)]}
    if dice.random() < 0.4:
        spec["egressDeny"] = [{"toCIDR": dice.sample(CIDRS, 1)}]
    if dice.random() < 0.4:
        spec["ingress"] = [{"fromCIDR": dice.sample(CIDRS, 2)}]
    where = dice.choice(sorted(strategies.NAMESPACES))
    return document("CiliumNetworkPolicy", "cilium.io/v2", f"cidr-{index}", where, spec=spec)


def node_peer(end: str, dice: Random) -> dict[str, Any]:
    """A rule about nodes by their labels, or about other ends that nodes talk with."""
    role: dict[str, Any] = {"matchLabels": {"role": dice.choice(("edge", "core"))}}
    rule = dice.choice([
        {f"{end}Nodes": [role]},
        {f"{end}Nodes": [{}]},
        {f"{end}Entities": dice.sample(("host", "remote-node", "world", "cluster"), 1)},
        {f"{end}Endpoints": [{"matchLabels": {"app": dice.choice(("web", "db"))}}]},
        {f"{end}CIDR": dice.sample(CIDRS, 1)},
    ])  # fmt: skip
    if dice.random() < 0.6:
        port = {"port": str(dice.choice((80, 443, 8080))), "protocol": "TCP"}
        rule["toPorts"] = [{"ports": [port]}]
    return rule


def node_policy(index: int, dice: Random) -> Any:
    """A clusterwide policy about nodes, or about what pods have with them."""
    spec: dict[str, Any] = {"endpointSelector": {}}
    if dice.random() < 0.5:
        role = {"matchLabels": {"role": dice.choice(("edge", "core"))}}
        spec = {"nodeSelector": dice.choice([{}, role])}
    sections = ("ingress", "ingressDeny", "egress", "egressDeny")
    for name in dice.sample(sections, dice.randrange(1, 4)):
        end = "from" if name.startswith("ingress") else "to"
        spec[name] = [node_peer(end, dice) for _ in range(dice.randrange(1, 3))]
    return document("CiliumClusterwideNetworkPolicy", "cilium.io/v2", f"node-{index}", spec=spec)


@dataclass
class Case:
    """Objects, what chooses the flows, and the agent's options."""

    documents: list[Any]
    seed: int
    mode: str
    match: tuple[str, ...]
    node_labels: bool = False
    host_firewall: bool = False

    def world(self, documents: list[Any] | None = None) -> World:
        """The world of its objects, or of others, read with its options."""
        found = self.documents if documents is None else documents
        return from_documents(found, node_labels=self.node_labels)

    def engine(self, world: World) -> Engine:
        """What judges a world with its options."""
        return Engine(world, self.mode, self.match, host_firewall=self.host_firewall)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dice = Random(draw(st.integers(0, 1 << 32)))
    documents = cluster()
    for number in range(draw(st.integers(1, 6))):
        named = draw(strategies.named_ports)
        ports = [
            {"name": name, "containerPort": port, "protocol": {6: "TCP", 17: "UDP"}[protocol]}
            for name, protocol, port in named
        ]
        pod = document("Pod", "v1", f"p{number}", draw(strategies.namespaces))
        pod["metadata"]["labels"] = draw(strategies.labels)
        pod["spec"] = {"nodeName": dice.choice(["", *NODES, "n1"]),
                       "containers": [{"name": "c", "ports": ports}]}  # fmt: skip
        if dice.random() < 0.7:
            pod["status"] = {"podIP": f"10.9.0.{number + 1}"}
        documents.append(pod)
    documents += [draw(strategies.policy(index)) for index in range(draw(st.integers(0, 4)))]
    documents += [cidr_policy(index, dice) for index in range(dice.randrange(3))]
    named = dice.random() < 0.6
    documents += [node_policy(index, dice) for index in range(dice.randrange(4) if named else 0)]
    documents = [one | {"apiVersion": _version(one)} for one in documents]
    match = dice.choice([(), (), ("nodes",), ("pods",), ("nodes", "pods")])
    options = named and dice.random() < 0.8, named and dice.random() < 0.8
    return Case(documents, dice.randrange(1 << 32), dice.choice(MODES), match, *options)


def _version(one: Any) -> str:
    if one["kind"] == "ClusterNetworkPolicy":
        return "policy.networking.k8s.io/v1alpha2"
    return str(one.get("apiVersion") or (
        "networking.k8s.io/v1" if one["kind"] == "NetworkPolicy" else "cilium.io/v2"
    ))  # fmt: skip


def flows(world: World, dice: Random, count: int = 300) -> list[Flow]:
    ends = [*world.pods, *world.pods, *OUTSIDE, *(f"entity:{name}" for name in ENTITIES)]
    ends += [f"node:{name}" for name in world.nodes]
    targets = [*ends, "svc:red/web", "red/nobody"]
    return [
        Flow(
            dice.choice(ends), dice.choice(targets), dice.choice(PROTOCOLS),
            dice.choice((0, 8, 128, *strategies.PORTS)), reply=dice.random() < 0.1,
        )
        for _ in range(count)
    ]  # fmt: skip


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(cases())
def test_all_ways_agree(case: Case) -> None:
    """Model, maps one by one and maps in bulk say the same of every flow."""
    world = case.world()
    assert not world.errors
    engine = case.engine(world)
    engine.judges = ("model", "maps")
    asked = flows(world, Random(case.seed))
    bulk = list(engine.bulk.results(asked))
    for flow, found in zip(asked, bulk, strict=True):
        assert str(found) == str(answer(engine, flow))


@pytest.mark.root
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(cases())
def test_the_kernel_agrees(case: Case) -> None:
    """The C says the same, and names the same entry."""
    world = case.world()
    engine = case.engine(world)
    assert engine.judges == ("model", "maps", "kernel")
    for flow in flows(world, Random(case.seed), 100):
        found = answer(engine, flow)
        if not isinstance(found, FlowError):
            assert engine.eval(flow, "kernel") == found


def answer(engine: Engine, flow: Flow) -> Result | FlowError:
    """What all judges say of one flow."""
    try:
        return engine.eval(flow, "all")
    except FlowError as error:
        return error


def test_a_difference_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With judge "all", judges that disagree are an error that names the flow and both answers."""
    world = from_documents([
        document("Pod", "v1", "a", "red"),
        document("NetworkPolicy", "networking.k8s.io/v1", "p", "red", spec={"podSelector": {}}),
    ])  # fmt: skip
    engine = Engine(world, judge="all")
    engine.judges = ("model", "maps")
    monkeypatch.setattr("fimbria.analysis.engine.endpoint_policy", lambda maps, unit: 0)
    with pytest.raises(JudgesDiffer, match=r"entity:world to red/a TCP 80: model says DENIED.*"):
        engine.eval(Flow("entity:world", "red/a", "TCP", 80))
