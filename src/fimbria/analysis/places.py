"""The two ends of flows, found in a world by name.

    name ─► Place: what rules see of it, its endpoint, node and addresses' identities
    two Places and a flow ─► protocol and port of the packet

An end is a pod ("namespace/name"; a workload's name stands for its pods), an address (one that a
pod, a node or a Service has stands for it), an entity of exactly one kind ("entity:world",
"entity:host", …), a node ("node:name"), an identity ("identity:1234"), or as destination a Service
("svc:namespace/name"), which is all that stands behind it at its target port.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.analysis.flows import PROTOCOLS, FlowError
from fimbria.analysis.prefixes import LongestPrefix
from fimbria.analysis.world import made_up
from fimbria.datapath.abi import Identity
from fimbria.model.ends import Places as Ends
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Prefix, prefix
from fimbria.model.policy import Protocol
from fimbria.model.semantics import End

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.analysis.flows import Flow
    from fimbria.analysis.world import Pod, World
    from fimbria.model.peers import ServiceKey

ENTITIES = {
    "host": Identity.HOST,
    "remote-node": Identity.REMOTE_NODE,
    "kube-apiserver": Identity.KUBE_APISERVER,
    "world": Identity.WORLD_IPV4,
    "world-ipv4": Identity.WORLD_IPV4,
    "world-ipv6": Identity.WORLD_IPV6,
    "health": Identity.HEALTH,
    "init": Identity.INIT,
    "ingress": Identity.INGRESS,
    "unmanaged": Identity.UNMANAGED,
}
"""Entities that are one end of a flow. `world` is an address that no rule names by CIDR."""

_WORLDS = {
    int(Identity.WORLD_IPV4): (4, Prefix(bytes(4), 0)),
    int(Identity.WORLD_IPV6): (6, Prefix(bytes(16), 0)),
}
"""Family of the world's identities, and the prefix that stands for an unnamed address of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One end of a flow, found.

    `unit` is the endpoint id in the world's compiled state, 0 for whom no policy selects. `end` is
    what rules see, with the ports that anyone of its identity names; `own` the same with its own
    ports. `node` is the node that a pod runs on or that a node is ("" unknown). `family` is 4 or 6,
    0 if it has none. `cidr` is the identity of its address on the CIDR side, 0 if CIDRs do not
    apply.
    """

    name: str
    end: End
    own: End
    unit: int = 0
    node: str = ""
    family: int = 0
    cidr: int = 0
    is_node: bool = False
    pod: Pod | None = None


class Places:
    """Finds ends by name. `maps` are the compiled ones, for what addresses are.

    `node` is the node whose view it is, "" nobody's; `host` is the unit of its own policy, 0 none.
    """

    def __init__(
        self,
        world: World,
        maps: Mapping[str, Mapping[bytes, bytes]],
        cidr_match: frozenset[str] = frozenset(),
        node: str = "",
        host: int = 0,
    ) -> None:
        self._world = world
        self._ipcache = LongestPrefix(maps["cilium_ipcache"])
        self._cidrs = LongestPrefix(maps.get("cilium_cidr", {}))
        self._labels: dict[int, LabelSet] = {}
        self._self = node
        self._host = host
        own = world.nodes.get(node)
        self._own_labels = own.labels if own is not None else ()
        self._ends = Ends(
            own=frozenset(own.addresses if own is not None else ()),
            own_labels=self._own_labels,
            apiserver=world.api_servers,
            nodes={ip: world.nodes[name].labels for ip, name in world.node_of.items()},
            remote={ip: pod.identity for ip, pod in world.by_address.items()},
            pod_cidrs=frozenset(
                prefix(text) for node in world.nodes.values() for text in node.pod_cidrs
            ),
            labels=world.identities,
            dual_stack=True,
            node_labels=world.node_labels,
            cidr_match=cidr_match,
        )

    def find(self, name: str) -> Place:
        """Return the end of that name. Raises FlowError for one that is unknown."""
        if name.startswith("entity:"):
            return self._entity(name)
        if name.startswith("identity:"):
            return self._identity(name)
        if name.startswith("node:"):
            return self._node(name, name.removeprefix("node:"))
        if name.startswith("svc:"):
            raise FlowError(f"{name}: a service is a destination, never a source")
        if name in self._world.pods:
            return self._pod(name, self._world.pods[name])
        if name in self._world.host_pods:
            return self._node(name, self._world.host_pods[name])
        try:
            ip = ip_address(name).packed
        except ValueError:
            raise FlowError(f"{name}: there is no such pod, and it is no address") from None
        return self._address(name, ip)

    def targets(self, flow: Flow) -> list[tuple[str, int]]:
        """Return what a flow's destination stands for: (name of an end, destination port) each.

        Raises FlowError for a Service that is unknown, has no such port, or nothing behind it.
        """
        key = self._service(flow.destination)
        if key is None:
            return [(flow.destination, flow.port)]
        name = f"service {key[0]}/{key[1]}"
        service = self._world.services[key]
        wanted = flow.protocol.upper()
        ports = [
            port
            for port in self._world.service_ports[key]
            if port.port == flow.port and port.protocol == wanted
        ]
        if not ports:
            raise FlowError(f"{name} has no port {flow.port}/{wanted}")
        target = ports[0].target_port or flow.port
        if service.selector is None:
            found = [str(ip_address(ip)) for ip in service.backends]
            pairs = [(ip, flow.port if isinstance(target, str) else target) for ip in found]
        else:
            pods = [
                pod
                for pod in self._world.pods.values()
                if pod.namespace == key[0] and service.selector.matches(self.labels(pod.identity))
            ]
            pairs = [
                (str(pod), number)
                for pod in pods
                for number in _numbers(pod, target, PROTOCOLS.get(wanted, 0))
            ]
        if not pairs:
            raise FlowError(f"{name} has nothing behind its port {flow.port}/{wanted}")
        return pairs

    def stands_for_others(self, name: str) -> bool:
        """Return whether a destination of that name is a Service."""
        return self._service(name) is not None

    def _service(self, name: str) -> ServiceKey | None:
        """Return the Service that a destination is, None if it is none."""
        if name.startswith("svc:"):
            namespace, _, bare = name.removeprefix("svc:").rpartition("/")
            key = namespace or "default", bare
            if key not in self._world.services:
                raise FlowError(f"{name}: there is no such service")
            return key
        if not self._world.service_ips:
            return None
        try:
            return self._world.service_ips.get(ip_address(name).packed)
        except ValueError:
            return None

    def labels(self, identity: int) -> LabelSet:
        """Return the labels of an identity."""
        found = self._labels.get(identity)
        if found is None:
            labels = self._world.identities.get(identity, ())
            if identity == Identity.HOST and self._world.node_labels:
                labels = (*labels, *self._own_labels)
            found = self._labels[identity] = LabelSet(labels)
        return found

    def end(self, identity: int, net: Prefix | None = None) -> End:
        """Return an end as rules see it, with the ports that anyone of its identity names."""
        named = self._world.named.get(identity, frozenset())
        return End(identity, self.labels(identity), named, net)

    def _pod(self, name: str, pod: Pod, ip: bytes | None = None) -> Place:
        ip = ip or pod.addresses[0]
        net, cidr = self._cidr(ip)
        end = self.end(pod.identity, net)
        own = End(pod.identity, end.labels, frozenset(pod.named), net)
        number = self._world.units[pod.unit]
        return Place(name, end, own, number, pod.node, pod.family, cidr, pod=pod)

    def _node(self, name: str, node: str, ip: bytes | None = None) -> Place:
        row = self._world.nodes.get(node)
        if row is None and name.startswith("node:"):
            raise FlowError(f"{name}: there is no such node")
        if ip is None and row is not None:
            ip = next(iter(row.addresses), None)
        if ip is None:
            end = self.end(int(Identity.REMOTE_NODE))
            return Place(name, end, end, 0, node, is_node=True)
        end = self._ends.end(ip)
        if end.identity != Identity.HOST:
            end = replace(end, identity=self._ipcache.find(ip) or end.identity)
        cidr = 0 if end.net is None else self._cidrs.find(ip)
        own, unit = end, 0
        if node == self._self and self._host:
            own = replace(end, labels=LabelSet((*RESERVED[Identity.HOST], *self._own_labels)))
            unit = self._host
        family = 0 if made_up(ip) else 4 if len(ip) == 4 else 6
        return Place(name, end, own, unit, node, family, cidr, is_node=True)

    def _entity(self, name: str) -> Place:
        identity = ENTITIES.get(name.removeprefix("entity:"))
        if identity is None:
            raise FlowError(f"{name}: the entities of a flow are {', '.join(ENTITIES)}")
        return self._reserved(name, int(identity))

    def _identity(self, name: str) -> Place:
        text = name.removeprefix("identity:")
        if not text.isdecimal() or int(text) not in self._world.identities:
            raise FlowError(f"{name}: there is no such identity")
        return self._reserved(name, int(text))

    def _reserved(self, name: str, identity: int) -> Place:
        family, net = _WORLDS.get(identity, (0, None))
        end = self.end(identity, net)
        return Place(name, end, end, family=family)

    def _address(self, name: str, ip: bytes) -> Place:
        pod = self._world.by_address.get(ip)
        if pod is not None:
            return self._pod(name, pod, ip)
        if ip in self._world.node_of:
            return self._node(name, self._world.node_of[ip], ip)
        family = 4 if len(ip) == 4 else 6
        end = self._ends.end(ip)
        end = replace(end, identity=self._ipcache.find(ip) or end.identity)
        return Place(name, end, end, family=family)

    def _cidr(self, ip: bytes) -> tuple[Prefix | None, int]:
        """Return what rules by CIDR see of an address of the cluster."""
        net = self._ends.end(ip).net
        return net, 0 if net is None else self._cidrs.find(ip)


def _numbers(pod: Pod, target: int | str, protocol: int) -> list[int]:
    """Return the number of a Service's target port at a pod; none if it names no such port."""
    if isinstance(target, int):
        return [target]
    return [number for name, of, number in pod.named if (name, of) == (target, protocol)][:1]


def packet(flow: Flow, source: Place, destination: Place, port: int) -> tuple[int, int]:
    """Return (protocol, port) of a flow's packet between two places, `port` at the destination.

    Raises FlowError.
    """
    protocol = PROTOCOLS.get(flow.protocol.upper())
    if protocol is None:
        raise FlowError(f"protocol {flow.protocol!r} is none of {', '.join(PROTOCOLS)}")
    families = {source.family, destination.family} - {0}
    if len(families) > 1:
        raise FlowError(f"{source.name} and {destination.name} have no address family in common")
    if protocol == Protocol.ICMP and families == {6}:
        protocol = int(Protocol.ICMPV6)
    icmp = protocol in (Protocol.ICMP, Protocol.ICMPV6)
    first, last = (0, 0xFF) if icmp else (1, 0xFFFF)
    if not first <= port <= last:
        word = "ICMP type" if icmp else "port"
        raise FlowError(f"{word} {port} is not from {first} to {last}")
    return protocol, port
