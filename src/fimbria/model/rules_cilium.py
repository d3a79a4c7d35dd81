"""The specs of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, L3 and L4.

What this version cannot enforce is refused by name here, in `UNSUPPORTED_*`; everything that is
neither known nor listed there is an unknown field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.model.icmp import icmp_type
from fimbria.model.identity import ENTITIES
from fimbria.model.labels import CLUSTER
from fimbria.model.policy import Direction, Peer, PolicyError, Port, Protocol, Rule, Spec
from fimbria.model.selector import Operator, Requirement, Selector
from fimbria.model.selector_parse import endpoint_selector, requirements

if TYPE_CHECKING:
    from fimbria.model.fields import Fields

SECTIONS = (
    ("ingress", Direction.INGRESS, False),
    ("ingressDeny", Direction.INGRESS, True),
    ("egress", Direction.EGRESS, False),
    ("egressDeny", Direction.EGRESS, True),
)
SPEC_FIELDS = (
    *(name for name, _, _ in SECTIONS),
    "endpointSelector",
    "nodeSelector",
    "enableDefaultDeny",
    "description",
    "labels",
)
PREFIX = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
PROTOCOLS = {protocol.name: protocol for protocol in Protocol} | {"ICMPv6": Protocol.ICMPV6}
PORTED = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
MAX_PORTS = 40

NOT_YET = "not enforced by this version"
UNSUPPORTED_PEERS = {
    "CIDR": f"address ranges are {NOT_YET}",
    "CIDRSet": f"address ranges are {NOT_YET}",
    "Groups": f"cloud provider groups are {NOT_YET}",
    "Nodes": f"node selectors are {NOT_YET}",
    "Services": f"services as peers are {NOT_YET}",
    "FQDNs": f"DNS names are {NOT_YET}",
    "Requires": "was removed from the language; put the labels into every endpoint selector",
}
UNSUPPORTED_PORT_RULES = {
    "terminatingTLS": f"TLS interception is {NOT_YET}",
    "originatingTLS": f"TLS interception is {NOT_YET}",
    "serverNames": f"TLS server names are {NOT_YET}",
    "listener": f"proxy listeners are {NOT_YET}",
}
NODE_SUBJECT = Selector((Requirement("reserved:host", Operator.EXISTS),))


def frame(spec: Fields, namespace: str) -> Spec:
    """Whom the spec selects and which directions it closes by default; no rules yet."""
    if spec.get("nodeSelector") is not None:
        subject = NODE_SUBJECT
    elif spec.get("endpointSelector") is None:
        raise PolicyError(spec.at("endpointSelector"), "missing; {} selects every pod")
    else:
        selector = spec.fields("endpointSelector")
        subject = endpoint_selector(selector, namespace, init=_is_init(selector))
    deny = spec.fields("enableDefaultDeny")
    sections: set[Direction] = set()
    closed: set[Direction] = set()
    for name, direction, _ in SECTIONS:
        if spec.items(name):
            sections.add(direction)
    for direction in Direction:
        wanted = deny.flag(direction.name.lower())
        if wanted:
            sections.add(direction)
        if direction in sections and wanted is not False:
            closed.add(direction)
    return Spec(subject, (), frozenset(sections), frozenset(closed), spec.path)


def rules(spec: Fields, namespace: str, cluster: str) -> tuple[Rule, ...]:
    """All rules of a spec. Raises PolicyError with the first field that cannot be enforced."""
    spec.only(SPEC_FIELDS)
    if spec.get("nodeSelector") is not None:
        if namespace:
            raise PolicyError(spec.at("nodeSelector"), "only cluster-wide policies select nodes")
        raise PolicyError(spec.at("nodeSelector"), f"the host firewall is {NOT_YET}")
    spec.fields("enableDefaultDeny").only(("ingress", "egress"))
    spec.text("description")
    init = _is_init(spec.fields("endpointSelector"))
    found: list[Rule] = []
    for name, direction, deny in SECTIONS:
        for entry in spec.list_of(name) or []:
            found.append(_rule(entry, direction, deny, namespace, cluster, init))
    if not any(spec.items(name) for name, _, _ in SECTIONS) and not frame(spec, namespace).sections:
        raise PolicyError(spec.path, "needs at least one of ingress, egress and their Deny forms")
    return tuple(found)


def _is_init(selector: Fields) -> bool:
    return any(r.key == "reserved:init" for r in requirements(selector))


def _rule(
    entry: Fields, direction: Direction, deny: bool, namespace: str, cluster: str, init: bool
) -> Rule:
    prefix = PREFIX[direction]
    entry.only(
        (
            f"{prefix}Endpoints",
            f"{prefix}Entities",
            *(prefix + name for name in UNSUPPORTED_PEERS),
            "toPorts",
            "icmps",
            "authentication",
        )
    )
    given = [name for name in entry if name.startswith(prefix) and name != "toPorts"]
    given = [name for name in given if entry.get(name) is not None]
    if len(given) > 1:
        reason = f"Combining {given[0]} and {given[1]} is not supported yet"
        raise PolicyError(entry.path, reason)
    entry.refuse({prefix + name: reason for name, reason in UNSUPPORTED_PEERS.items()})
    mode = entry.fields("authentication").text("mode")
    if mode not in ("", "disabled"):
        raise PolicyError(entry.at("authentication.mode"), f"mutual authentication is {NOT_YET}")
    peers = _peers(entry, prefix, namespace, cluster, init)
    ports = _ports(entry)
    if peers is None and ports is None:
        peers = ()  # an entry that says nothing allows nobody
    return Rule(direction, deny, peers, ports, entry.path)


def _peers(
    entry: Fields, prefix: str, namespace: str, cluster: str, init: bool
) -> tuple[Peer, ...] | None:
    selectors = entry.list_of(f"{prefix}Endpoints")
    if selectors is not None:
        return tuple(
            Peer(endpoint_selector(selector, namespace, init=init), path=selector.path)
            for selector in selectors
        )
    entities = entry.items(f"{prefix}Entities")
    if entities is None:
        return None
    found: list[Peer] = []
    for value, path in entities:
        if value == "all":
            found.append(Peer(anyone=True, path=path))
        elif isinstance(value, str) and value in ENTITIES:
            found.append(Peer(identities=ENTITIES[value], path=path))
            if value == "cluster":
                pods = Requirement(f"k8s:{CLUSTER}", Operator.IN, (cluster,))
                found.append(Peer(Selector((pods,)), path=path))
        else:
            known = ", ".join(("all", *ENTITIES))
            raise PolicyError(path, f"{value!r} is no entity; must be one of {known}")
    return tuple(found)


def _ports(entry: Fields) -> tuple[Port, ...] | None:
    lists = entry.list_of("toPorts")
    icmps = entry.list_of("icmps")
    if lists and icmps:
        raise PolicyError(entry.path, "Combining toPorts and icmps is not supported yet")
    found: list[Port] = []
    for item in icmps or []:
        item.only(("fields",))
        fields = item.list_of("fields") or []
        if len(fields) > MAX_PORTS:
            raise PolicyError(item.at("fields"), f"{len(fields)} entries; at most {MAX_PORTS}")
        found += [icmp_type(field) for field in fields]
    for item in lists or []:
        item.only(("ports", "rules", *UNSUPPORTED_PORT_RULES))
        item.refuse(UNSUPPORTED_PORT_RULES)
        if any(True for _ in item.fields("rules")):
            raise PolicyError(item.at("rules"), f"L7 rules are {NOT_YET}")
        ports = item.list_of("ports") or []
        if len(ports) > MAX_PORTS:
            raise PolicyError(item.at("ports"), f"{len(ports)} entries; at most {MAX_PORTS}")
        found += [port for fields in ports for port in _port(fields)]
        if not ports:
            found.append(Port(Protocol.ANY, path=item.path))
    return tuple(found) if lists or icmps else None


def _port(fields: Fields) -> list[Port]:
    """One entry of ports; ANY with a port stands for the three protocols that have ports."""
    fields.only(("port", "endPort", "protocol"))
    text = fields.text("protocol") or "ANY"
    protocol = PROTOCOLS.get(text) or PROTOCOLS.get(text.upper())
    if protocol is None:
        raise PolicyError(fields.at("protocol"), f"{text}; must be one of {', '.join(PROTOCOLS)}")
    given = fields.get("port")
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str) or not given:
        raise PolicyError(fields.at("port"), "must be a port number or name, as text")
    end = fields.number("endPort", 0, 65535)
    protocols = PORTED if protocol is Protocol.ANY else (protocol,)
    if given.isdecimal() and given.isascii():
        first = int(given)
        if first > 65535:
            raise PolicyError(fields.at("port"), f"{first} is not between 0 and 65535")
        if first == 0:
            if end:
                raise PolicyError(fields.at("endPort"), "port 0 already means all ports")
            return [Port(protocol, path=fields.path)]
        if end and end < first:
            raise PolicyError(fields.at("endPort"), f"{end} is below port {first}")
        last = end or first
        if protocol not in (Protocol.ANY, *PORTED):
            raise PolicyError(fields.at("port"), f"{text} has no ports; use port 0, or icmps")
        return [Port(each, first, last, path=fields.path) for each in protocols]
    if end:
        raise PolicyError(fields.at("endPort"), "may not be given with a named port")
    if protocol not in (Protocol.ANY, *PORTED):
        raise PolicyError(fields.at("port"), f"{text} has no ports; use port 0, or icmps")
    return [Port(each, name=given.lower(), path=fields.path) for each in protocols]
