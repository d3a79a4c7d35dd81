"""The space of packets, cut where any policy could tell two packets apart.

    ports    ─► atoms: ranges of one protocol's ports that every entry holds all or nothing of
    ends     ─► groups: pods of one kind, entities, and ranges of outside addresses
    groups x groups x atoms is the whole space; one packet of each cell stands for all of it

Nothing is sampled: bounds of atoms come from the entries of all the compiled maps at hand, and the
ranges of addresses from every prefix that a rule, a group or a Service names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.places import ENTITIES
from fimbria.datapath.abi import EndpointIds, Identity, PolicyKey, PolicyShape
from fimbria.model.identity import RESERVED, node_labels, world_labels
from fimbria.model.peers import Prefix, host_prefix
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.analysis.engine import Engine
    from fimbria.model.labels import Labels

OTHER = 0
"""Stands for every protocol that rules cannot name."""

SPACES = {
    int(Protocol.TCP): (1, 0xFFFF),
    int(Protocol.UDP): (1, 0xFFFF),
    int(Protocol.SCTP): (1, 0xFFFF),
    int(Protocol.ICMP): (0, 0xFF),
    int(Protocol.ICMPV6): (0, 0xFF),
    OTHER: (0, 0),
}
"""First and last port (ICMP: type) by protocol."""

_TRIES = 1 << 16
"""Addresses that are looked at for one that is nobody's; a range has not that many pods."""


class Atom(NamedTuple):
    """Ports `first` to `last` of a protocol; of OTHER it is the protocol as a whole."""

    protocol: int
    first: int
    last: int

    def __str__(self) -> str:
        if self.protocol == OTHER:
            return "other protocols"
        name = Protocol(self.protocol).name
        if (self.first, self.last) == SPACES[self.protocol]:
            return name
        return f"{name} {self.first}" + (f"-{self.last}" if self.last != self.first else "")


@dataclass(frozen=True, slots=True)
class Group:
    """Ends that no policy at hand can tell apart.

    `name` is one of them, as flows name it, and `members` are all where they are pods. `unit` is
    their endpoint id in the world (the node's in its own view), 0 for whom no policy selects.
    `family` is 4 or 6, 0 if both or neither. `node` is the node that it is, or that all of the pods
    run on where nodes are ends by name. `net` is the range of outside addresses (less the narrower
    ranges of other groups).
    """

    name: str
    kind: str
    labels: Labels = ()
    unit: int = 0
    family: int = 0
    net: Prefix | None = None
    node: str = ""
    members: tuple[str, ...] = field(default=())

    @property
    def at_home(self) -> Group:
        """Return a node as the pods that run on it see it."""
        own = (label for label in self.labels if not label.startswith("reserved:"))
        return replace(self, labels=(*own, *RESERVED[Identity.HOST]))

    def __str__(self) -> str:
        if self.net is not None:
            return str(self.net)
        if self.kind == "node" and not self.name.startswith("node:"):
            return f"node:{self.node} ({self.name})"
        if len(self.members) > 1:
            return f"{self.name} (+{len(self.members) - 1})"
        return self.name


def cut_ports(engines: Iterable[Engine], extra: Iterable[Atom] = ()) -> list[Atom]:
    """Return the atoms of all ports, in order of protocol and port.

    `extra` are ranges whose bounds are to be bounds too. What nodes see in their own way counts.
    """
    bounds = {protocol: {first, last + 1} for protocol, (first, last) in SPACES.items()}
    suffixes = {
        key[4:]
        for engine in engines
        for view in (engine, *engine.views.all().values())
        for policy in view.policy_maps.values()
        for key in policy.entries
    }
    for suffix in suffixes:
        key = PolicyKey.unpack(bytes(4) + suffix)
        shape = key.shape & ~PolicyShape.EGRESS
        if shape > PolicyShape.PROTO and key.protocol in bounds:
            bounds[key.protocol] |= {key.dport, key.dport + (1 << (PolicyShape.PORT - shape))}
    for atom in extra:
        bounds[atom.protocol] |= {atom.first, atom.last + 1}
    return [
        Atom(protocol, first, following - 1)
        for protocol, (low, high) in SPACES.items()
        for first, following in pairwise(
            sorted(b for b in bounds[protocol] if low <= b <= high + 1)
        )
    ]


def cut_ends(engines: Sequence[Engine], extra: Iterable[Prefix] = ()) -> list[Group]:
    """Return the groups of all ends, pods first.

    The engines' worlds must have the same pods, nodes and namespaces. `extra` are prefixes to cut
    at besides those that are in use.
    """
    return [*_pods(engines), *_nodes(engines), *_entities(), *_outside(engines, extra)]


def _pods(engines: Sequence[Engine]) -> Iterable[Group]:
    """Yield groups of pods: of one unit, and of one node where nodes are ends by name.

    Where CIDRs match pods they are of one prefix, too.
    """
    world, match = engines[0].world, engines[0].state.config.cidr_match
    named = world.nodes if engines[0].views.names_nodes else ()
    found: dict[tuple[int | str, ...], list[str]] = {}
    for name, pod in world.pods.items():
        nets = [engine.place(name).cidr for engine in engines] if "pods" in match else []
        node = pod.node if pod.node in named else ""
        found.setdefault((world.units[pod.unit], pod.family, node, *nets), []).append(name)
    for (_, _, node, *_), names in found.items():
        one = world.pods[names[0]]
        unit = world.units[one.unit]
        yield Group(names[0], "pods", one.labels, unit, one.family, None, str(node), tuple(names))


def _nodes(engines: Sequence[Engine]) -> Iterable[Group]:
    """Yield nodes where policies can tell them apart; the entities stand for them elsewhere.

    Each is there once for all its addresses that are alike, under its name and those of the others.
    """
    first = engines[0]
    if not first.views.names_nodes:
        return
    unit = int(EndpointIds.HOST) if first.host_firewall else 0
    for node, row in first.world.nodes.items():
        seen: set[tuple[int, ...]] = set()
        for at, ip in enumerate(row.addresses):
            name = str(ip_address(ip)) if at else f"node:{node}"
            places = [engine.place(name) for engine in engines]
            kind = len(ip), *(part for one in places for part in (one.end.identity, one.cidr))
            if kind not in seen and all(one.is_node and one.node == node for one in places):
                seen.add(kind)
                labels = node_labels(row.labels, apiserver=ip in first.world.api_servers)
                yield Group(name, "node", labels, unit, places[0].family, node=node)


def _entities() -> Iterable[Group]:
    for name, identity in ENTITIES.items():
        if name == "world":
            continue
        family = {Identity.WORLD_IPV4: 4, Identity.WORLD_IPV6: 6}.get(identity, 0)
        kind = "world" if family else "entity"
        yield Group(f"entity:{name}", kind, (f"reserved:{name}",), 0, family)


def _outside(engines: Sequence[Engine], extra: Iterable[Prefix]) -> Iterable[Group]:
    """Yield ranges of outside addresses, each with an address that is in no narrower one."""
    used = {one.prefix for e in engines for one in e.compiler.policies.selectors.cidrs.local()}
    nets = sorted({*used, *extra}, key=lambda net: (len(net.ip), net))
    taken = {ip for engine in engines for ip in _taken(engine)}
    inside: dict[Prefix, list[Prefix]] = {net: [] for net in nets}
    around: list[Prefix] = []
    for net in nets:  # an enclosing prefix sorts before what it encloses
        while around and not around[-1].covers(net):
            around.pop()
        if around:
            inside[around[-1]].append(net)
        around.append(net)
    for net in nets:
        ip = _free(net, inside[net], taken)
        if ip is not None:
            name, family = str(ip_address(ip)), 4 if len(ip) == 4 else 6
            server = any(ip in engine.world.api_servers for engine in engines)
            labels = world_labels(len(ip) * 8, dual_stack=True, apiserver=server)
            yield Group(name, "world", labels, 0, family, net)


def _taken(engine: Engine) -> Iterable[bytes]:
    world = engine.world
    return {*world.by_address, *world.node_of, *world.service_ips}


def _free(net: Prefix, inside: list[Prefix], taken: set[bytes]) -> bytes | None:
    """Return an address of `net` that is in none of `inside`, and nobody's; None if all are."""
    size = len(net.ip)
    at, end = int.from_bytes(net.ip, "big"), _end(net)
    # An address that ends in 0 reads like a network.
    holes = [(_end(one), int.from_bytes(one.ip, "big")) for one in inside]
    gaps = [*sorted((first, last) for last, first in holes), (end, end)]
    for first, last in gaps:
        for ip in range(min(at + 1, first), min(first, at + _TRIES)):
            packed = ip.to_bytes(size, "big")
            if packed not in taken and not any(one.covers(host_prefix(packed)) for one in inside):
                return packed
        if at < first and (packed := at.to_bytes(size, "big")) not in taken:
            return packed
        at = max(at, last)
    return None


def _end(net: Prefix) -> int:
    """Return the number of the first address behind a prefix."""
    return int.from_bytes(net.ip, "big") + (1 << (len(net.ip) * 8 - net.bits))
