"""The spec of a networking.k8s.io/v1 NetworkPolicy, with the API's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.model.policy import Direction, Peer, PolicyError, Port, Protocol, Rule, Spec
from fimbria.model.selector_parse import pod_selector

if TYPE_CHECKING:
    from fimbria.model.fields import Fields

TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}


def directions(spec: Fields) -> frozenset[Direction]:
    """policyTypes; absent: Ingress, and Egress if there are egress rules."""
    given = spec.items("policyTypes")
    if not given:
        named = {Direction.INGRESS}
        if spec.items("egress"):
            named.add(Direction.EGRESS)
        return frozenset(named)
    named = set[Direction]()
    for value, path in given:
        if not isinstance(value, str) or value not in TYPES:
            raise PolicyError(path, f"{value!r}; must be Ingress or Egress")
        named.add(TYPES[value])
    return frozenset(named)


def frame(spec: Fields, namespace: str) -> Spec:
    """Whom the policy selects and in which directions it isolates; no rules yet."""
    sections = directions(spec)
    subject = pod_selector(spec.fields("podSelector"), None, namespace)
    return Spec(subject, (), sections, sections, spec.path)


def rules(spec: Fields, namespace: str, cluster: str) -> tuple[Rule, ...]:
    """All rules of the directions that policyTypes names."""
    del cluster  # no entity in this API
    spec.only(("podSelector", "policyTypes", "ingress", "egress"))
    named = directions(spec)
    found: list[Rule] = []
    for section, peers, direction in (
        ("ingress", "from", Direction.INGRESS),
        ("egress", "to", Direction.EGRESS),
    ):
        for entry in spec.list_of(section) or []:
            entry.only((peers, "ports"))
            who = [_peer(peer, namespace) for peer in entry.list_of(peers) or []]
            which = [_port(port) for port in entry.list_of("ports") or []]
            if direction in named:
                found.append(
                    Rule(direction, False, tuple(who) or None, tuple(which) or None, entry.path)
                )
    return tuple(found)


def _peer(peer: Fields, namespace: str) -> Peer:
    peer.only(("podSelector", "namespaceSelector", "ipBlock"))
    peer.refuse({"ipBlock": "address ranges are not enforced by this version"})
    pods = peer.fields("podSelector") if peer.get("podSelector") is not None else None
    spaces = peer.fields("namespaceSelector") if peer.get("namespaceSelector") is not None else None
    if pods is None and spaces is None:
        raise PolicyError(peer.path, "needs podSelector, namespaceSelector or ipBlock")
    return Peer(pod_selector(pods, spaces, namespace), path=peer.path)


def _port(port: Fields) -> Port:
    port.only(("protocol", "port", "endPort"))
    text = port.text("protocol") or "TCP"
    if text not in PROTOCOLS:
        raise PolicyError(port.at("protocol"), f"{text}; must be TCP, UDP or SCTP")
    protocol = PROTOCOLS[text]
    given = port.get("port")
    end = port.number("endPort", 1, 65535)
    if given is None:
        if end is not None:
            raise PolicyError(port.at("endPort"), "needs port")
        return Port(protocol, path=port.path)
    if isinstance(given, str):
        if end is not None:
            raise PolicyError(port.at("endPort"), "may not be given with a named port")
        if not given:
            raise PolicyError(port.at("port"), "may not be empty")
        return Port(protocol, name=given, path=port.path)
    first = port.number("port", 1, 65535)
    assert first is not None  # `given` is not None
    if end is not None and end < first:
        raise PolicyError(port.at("endPort"), f"{end} is below port {first}")
    return Port(protocol, first, end or first, path=port.path)
