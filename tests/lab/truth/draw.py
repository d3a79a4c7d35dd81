"""Policies and probes by seed: the same seed draws the same, so a mismatch can be had again."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings

from fimbria.compile.state import NodeConfig
from tests.lab.truth.packets import ICMP, ICMPV6, SCTP, TCP, UDP
from tests.property.manifests import Document, group_rows, policy
from tests.property.strategies import PORTS

if TYPE_CHECKING:
    from random import Random

    from hypothesis.strategies import SearchStrategy

    from tests.lab.truth.stations import Station

T = TypeVar("T")
Packet = tuple[str, str, int, int]
"""Source, destination, protocol, and destination port or ICMP type."""


def _everywhere(**rules: list[Document]) -> Document:
    kind = "CiliumClusterwideNetworkPolicy"
    return {"kind": kind, "metadata": {}, "spec": {"endpointSelector": {}, **rules}}


OPEN = _everywhere(ingress=[{"fromEntities": ["all"]}], egress=[{"toEntities": ["all"]}])
"""Allows all that no other policy denies."""
NEEDED: Document = {
    "kind": "CiliumClusterwideNetworkPolicy",
    "metadata": {},
    "spec": {
        "nodeSelector": {},
        "enableDefaultDeny": {"ingress": False, "egress": False},
        "ingress": [{"fromEntities": ["remote-node"], "toPorts": [{"ports": [
            {"port": "8472", "protocol": "UDP"}, {"port": "4240", "protocol": "TCP"},
            {"port": "10250", "protocol": "TCP"},
        ]}]}],
        "egress": [{"toEntities": ["remote-node", "kube-apiserver"], "toPorts": [{"ports": [
            {"port": "8472", "protocol": "UDP"}, {"port": "4240", "protocol": "TCP"},
        ]}]}],
    },
}  # fmt: skip
"""What nodes need of each other, so that no policy about nodes is refused for closing it."""
CLOSED = _everywhere(ingress=[{}], egress=[{}])
"""Allows nothing."""
TYPES = {ICMP: [0, 8, 8], ICMPV6: [128, 128, 129]}
SKIP = 3
"""A strategy's first examples are its smallest."""


def drawn(strategy: SearchStrategy[T], number: int, count: int) -> list[T]:
    """`count` examples of a strategy, by seed."""
    found: list[T] = []

    @seed(number)
    @settings(max_examples=count + SKIP, phases=[Phase.generate], database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def take(one: T) -> None:
        found.append(one)

    take()
    return found[SKIP:]


def policies(number: int, count: int, *, nodes: bool = False) -> list[Document]:
    """Policies of every kind; with `nodes` some more of them, about nodes."""
    found = drawn(policy(0, NodeConfig(host_firewall=nodes)), number, count + 20 * nodes)
    return found[:count] + [one for one in found[count:] if "nodeSelector" in one["spec"]][:2]


def groups(number: int) -> list[Document]:
    """CiliumCIDRGroups."""
    rows = next((some for some in drawn(group_rows, number, 20) if some), [])
    return [{"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", **one} for one in rows]


def packets(
    random: Random, stations: list[Station], count: int, *, nodes: bool = False
) -> list[Packet]:
    """Packets of flows with a pod, or with `nodes` a node or a pod, at one end at least."""
    pods = [one for one in stations if "/" in one.name or (nodes and one.name != "world")]
    near = [p + d for p in PORTS for d in (-1, 0, 0, 1) if 0 < p + d < 65536]
    ports = [*near, *(53, 80, 80, 80, 443, 8080) * (len(near) // 4)]
    found: list[Packet] = []
    while len(found) < count:
        ends = [random.choice(pods), random.choice(random.choice((pods, pods, stations)))]
        random.shuffle(ends)
        source, destination = (random.choice(one.addresses) for one in ends)
        v6 = ":" in source
        if ends[0] is ends[1] or v6 is not (":" in destination):
            continue
        protocol = random.choice((TCP, TCP, TCP, UDP, UDP, SCTP, ICMPV6 if v6 else ICMP))
        chosen = random.choice(TYPES.get(protocol, ports))
        found.append((source, destination, protocol, chosen))
    return found
