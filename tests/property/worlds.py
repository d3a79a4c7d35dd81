"""Random clusters over the whole policy language: both families, nodes, prefixes that nest, groups,
services, tiers, layer 7, audit, and the node itself as an endpoint.

Built from the pods, ports and selectors of `strategies`. Peers are addresses, and among them are
those at the edges: in a pod CIDR without a pod, in an exception, in two prefixes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import Direction, EndpointIds, Identity
from fimbria.model.groups import read_group
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import Mode
from fimbria.model.services import SERVICE_NAME, read_service
from tests.property.manifests import Document, group_rows, policy
from tests.property.strategies import PORTS, PodRow, pods

if TYPE_CHECKING:
    from random import Random

    from fimbria.model.peers import Service
    from fimbria.model.policy import Policy

HOST = int(EndpointIds.HOST)
"""Endpoint id of the node itself."""
OUTSIDE = tuple(
    ip_address(text).packed
    for text in (
        "192.0.2.1", "192.0.2.129", "192.0.2.130", "198.51.100.1", "10.9.9.9", "10.0.1.200",
        "10.0.2.200", "203.0.113.9", "2001:db8::1", "2001:db8:1::7", "2001:db8:1::8", "fdff::1",
        "fd00:2::200", "2a00::1",
    )
)  # fmt: skip
"""Nobody's addresses: in and around prefixes, and in pod CIDRs."""
APISERVERS = tuple(
    ip_address(text).packed
    for text in ("203.0.113.9", "172.18.0.3", "198.51.100.1", "10.0.2.200", "2001:db8:1::7")
)
"""Nobody's in a prefix, a node's, a Service's backend, in a pod CIDR, and of the other family."""
OTHERS = (Identity.HEALTH, Identity.INGRESS, Identity.UNMANAGED)
"""Identities that an address of another node may have besides pods'."""


@dataclass(frozen=True)
class Packet:
    """A question: judged at endpoint `subject` (HOST: the node), with the peer at an address."""

    subject: int
    peer: bytes
    direction: Direction
    protocol: int
    port: int


@dataclass
class World:
    """One case: the first `local` pods run on this node; one more has no identity yet if `init`."""

    config: NodeConfig
    pods: list[PodRow]
    local: int
    init: bool
    policies: list[Document]
    groups: list[Document] = field(default_factory=list[Document])
    others: list[int] = field(default_factory=list[int])
    packets: list[Packet] = field(default_factory=list[Packet], repr=False)

    def parsed(self) -> list[Policy]:
        """The policies as values."""
        return [parse_policy(one, node_labels=self.config.node_labels) for one in self.policies]

    def state(self) -> ClusterState:
        """The state of the node."""
        state = ClusterState("n1", self.config)
        for number, roles in enumerate((("edge",), ("core",), ()), 1):
            labels = tuple(f"node:role={role}" for role in roles)
            state.nodes.put(f"n{number}", _node(number, labels))
        for number, pod in enumerate(self.pods, 1):
            state.identities.put(pod.identity, pod.labels)
            ips = _pod_ips(1 if number <= self.local else 2, number)
            if number <= self.local:
                row = LocalEndpoint(
                    number, 10 + number, bytes(6), bytes(6), *ips, pod.identity, pod.named
                )
                state.local.put(number, row)
            else:
                for ip in ips:
                    tunnel = bytes([172, 18, 0, 2])
                    state.remote.put(ip, RemoteEndpoint(ip, pod.identity, tunnel, pod.named))
        if self.init:
            number = self.local + 100
            ips = _pod_ips(1, number)
            state.local.put(number, LocalEndpoint(number, 10 + number, bytes(6), bytes(6), *ips, 0))
        for number, identity in enumerate(self.others, 150):
            for ip in _pod_ips(2, number):
                state.remote.put(ip, RemoteEndpoint(ip, identity, bytes([172, 18, 0, 2])))
        for one in self.groups:
            group = read_group(one)
            state.groups.put(group.name, group)
        for service in (_service("pods", []), _service("v4", ["192.0.2.130", "198.51.100.1"]),
                        _service("v6", ["2001:db8:1::7"])):  # fmt: skip
            state.services.put((service.namespace, service.name), service)
        for value in self.parsed():
            state.policies.put(value.key, value)
        return state

    def addresses(self) -> list[bytes]:
        """All addresses that packets may come from or go to, pods' more than once."""
        own = [ip for n in range(1, len(self.pods) + 1)
               for ip in _pod_ips(1 if n <= self.local else 2, n)]  # fmt: skip
        rest = [ip for n in (1, 2, 3) for ip in _node(n).addresses]
        rest += [ip for n in range(150, 150 + len(self.others)) for ip in _pod_ips(2, n)]
        found = [*own, *own, *own, *rest, *OUTSIDE, *APISERVERS]
        return [ip for ip in found if len(ip) == 4 or self.config.ipv6]

    def subjects(self) -> list[int]:
        """Endpoints that packets are judged at."""
        found = [*range(1, self.local + 1)] * 4
        found += [self.local + 100] if self.init else []
        return [*found, HOST] if self.config.host_firewall else found


def _node(number: int, labels: tuple[str, ...] = ()) -> Node:
    ip = bytes([172, 18, 0, number])
    return Node(
        f"n{number}",
        (ip,),
        (ip_address(f"fd77::{number}").packed,),
        (f"10.0.{number}.0/24", f"fd00:{number}::/64"),
        ip,
        (bytes([10, 0, number, 254]), ip_address(f"fd00:{number}::fe").packed),
        labels,
    )


def _pod_ips(node: int, number: int) -> tuple[bytes, bytes]:
    return bytes([10, 0, node, number]), ip_address(f"fd00:{node}::{number:x}").packed


def _service(name: str, addresses: list[str]) -> Service:
    meta: Document = {"name": name, "namespace": "red", "labels": {"of": "us"} if addresses else {}}
    rows: list[Document] = []
    for family in ("IPv4", "IPv6"):
        chosen = [ip for ip in addresses if (":" in ip) is (family == "IPv6")]
        labels = {SERVICE_NAME: name}
        rows.append({"metadata": {"labels": labels, "namespace": "red"}, "addressType": family,
                     "endpoints": [{"addresses": [ip]} for ip in chosen]})  # fmt: skip
    selector = {} if addresses else {"app": "db"}
    return read_service({"metadata": meta, "spec": {"selector": selector}}, rows)


@st.composite
def configs(draw: st.DrawFn) -> NodeConfig:
    """Settings; IPv4 alone or both families."""
    return NodeConfig(
        ipv6=draw(st.booleans()),
        enforcement=draw(
            st.sampled_from([Mode.DEFAULT] * 16 + [Mode.ALWAYS, Mode.ALWAYS, Mode.NEVER])
        ),
        cidr_match=frozenset(draw(st.sets(st.sampled_from(["nodes", "pods"])))),
        node_labels=draw(st.booleans()),
        host_firewall=draw(st.booleans()),
        kube_apiserver=frozenset(draw(st.sets(st.sampled_from(APISERVERS), max_size=2))),
    )


@st.composite
def worlds(draw: st.DrawFn, packets: int) -> World:
    """A cluster with `packets` questions to judge."""
    config = draw(configs())
    rows = draw(pods())
    count = draw(st.sampled_from([4, 3, 5, 6, 2, 1]))
    found = World(
        config,
        rows,
        draw(st.integers(1, len(rows))),
        draw(st.integers(0, 4)) == 0,
        [draw(policy(index, config)) for index in range(count)],
        draw(group_rows),
        draw(st.lists(st.sampled_from(list(map(int, OTHERS))), max_size=2)),
    )
    found.packets = _packets(found, draw(st.randoms(use_true_random=True)), packets)
    return found


def _packets(world: World, random: Random, count: int) -> list[Packet]:
    """Questions that rules have something to say about: ports at ranges' ends, any address.

    The node's own traffic to itself is not among them: it never passes a device.
    """
    near = [p + d for p in PORTS for d in (-1, 0, 0, 1) if 0 <= p + d <= 65535]
    ports = [*near, *(53, 80, 80, 80, 443, 8080) * (len(near) // 4)]
    subjects, addresses = world.subjects(), world.addresses()
    others = [ip for ip in addresses if ip not in set(_node(1).addresses)]
    found: list[Packet] = []
    for _ in range(count):
        subject = random.choice(subjects)
        peer = random.choice(others if subject == HOST else addresses)
        direction = random.choice((Direction.INGRESS, Direction.EGRESS))
        protocol = random.choice((6, 6, 6, 6, 6, 17, 17, 132, 1, 58, 47))
        port = random.choice((0, 8, 128) if protocol in (1, 58) else ports)
        found.append(Packet(subject, peer, direction, protocol, port))
    return found
