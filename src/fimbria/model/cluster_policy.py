"""Reading policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.

Source of the rules: the network policy API of SIG Network. The rules of an object are asked in
their order, objects by priority, the Admin tier before NetworkPolicies and Baseline after them.
Ports may also be written as `ports`, which `protocols` has replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.datapath.abi import Direction
from fimbria.model import select_parse
from fimbria.model.cidr_parse import network
from fimbria.model.cluster_ports import cluster_port, cluster_protocol
from fimbria.model.fields import Fields, word
from fimbria.model.fqdn import domain
from fimbria.model.peers import Cidr
from fimbria.model.policy import Action, Peer, PolicyError, PortSpec, Rule, Spec, Tier
from fimbria.model.reading import Place
from fimbria.model.selector import Selector, exists

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from fimbria.model.reading import Reading

    T = TypeVar("T")

MAX_ITEMS = 25
"""Of rules in a direction, peers and ports in a rule, networks and names in a peer."""

MAX_PRIORITY = 1000
MAX_NAME = 100
_TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
_ACTIONS = {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_PODS = ("namespaces", "pods")
_OTHERS = ("nodes", "networks", "domainNames")


def cluster_specs(
    document: Mapping[str, Any], reading: Reading
) -> tuple[Tier, int, tuple[Spec, ...]]:
    """Return tier, priority and the one spec of an object. Raises PolicyError."""
    fields = Fields(document.get("spec"), "spec")
    tier = _one_of(fields, "tier", _TIERS)
    priority = fields.integer("priority")
    if priority is None or not 0 <= priority <= MAX_PRIORITY:
        raise PolicyError(fields.at("priority"), f"expected a number from 0 to {MAX_PRIORITY}")
    subject = cluster_subject(fields.any("subject"), fields.at("subject"))
    rules: dict[Direction, tuple[Rule, ...]] = {}
    for name, direction in (("ingress", Direction.INGRESS), ("egress", Direction.EGRESS)):
        place = Place(direction)
        found = _few(fields, name, lambda v, p, at=place: _rule(v, p, at, reading), least=0)
        rules[direction] = found or ()
    fields.done()
    ingress, egress = rules.values()
    spec = Spec(
        "spec", subject, False if ingress else None, False if egress else None, ingress + egress
    )
    return tier, priority, (spec,)


def cluster_subject(value: Any, path: str) -> Selector:
    """Read whom an object is about: pods, by namespaces or by both. Raises PolicyError."""
    fields = Fields(value, path)
    fields.only_one(*_PODS)
    found = _pods(fields)
    fields.done()
    return found


def _pods(fields: Fields) -> Selector:
    """Take `namespaces` or `pods`. Only pods have a namespace."""
    if fields.has("namespaces"):
        path = fields.at("namespaces")
        chosen = select_parse.label_selector(
            fields.any("namespaces"), path, select_parse.namespace_key
        )
    else:
        inner = Fields(fields.any("pods"), fields.at("pods"))
        pods, path = inner.any("podSelector"), inner.at("podSelector")
        where = select_parse.label_selector(
            inner.any("namespaceSelector") or {},
            inner.at("namespaceSelector"),
            select_parse.namespace_key,
        )
        chosen = select_parse.label_selector(pods, path, select_parse.kubernetes_key)
        chosen = chosen.also(*where.requirements)
        inner.done()
    return chosen.also(exists(select_parse.K8S_NAMESPACE))


def _rule(value: Any, path: str, place: Place, reading: Reading) -> Rule:
    fields = Fields(value, path)
    if len(fields.text("name")) > MAX_NAME:
        raise PolicyError(fields.at("name"), f"is longer than {MAX_NAME} characters")
    action = _one_of(fields, "action", _ACTIONS)
    groups = _few(fields, place.end, lambda v, p: _peer(v, p, place, action, reading))
    if groups is None:
        raise PolicyError(fields.at(place.end), "is missing")
    peers = tuple(peer for group in groups for peer in group)
    ports = _ports(fields)
    fields.done()
    named = next((port for port in ports if port.name), None)
    if named is not None and not all(_is_pod(peer) for peer in peers):
        raise PolicyError(named.path, "only pods name ports")
    return Rule(path, place.direction, action, peers, ports)


def _is_pod(peer: Peer) -> bool:
    return isinstance(peer.whom, Selector) and not peer.whom.has_source("reserved")


def _ports(fields: Fields) -> tuple[PortSpec, ...]:
    if fields.has("protocols"):
        fields.refuse(["ports"], "Combining protocols and ports is not supported")
    protocols = _few(fields, "protocols", cluster_protocol)
    return protocols or _few(fields, "ports", cluster_port) or ()


def _peer(
    value: Any, path: str, place: Place, action: Action, reading: Reading
) -> tuple[Peer, ...]:
    fields = Fields(value, path)
    egress = place.direction is Direction.EGRESS
    given = fields.only_one(*_PODS, *(_OTHERS if egress else ()))
    at = fields.at(given)
    if given in _PODS:
        found = (Peer(path, _pods(fields)),)
    elif given == "nodes":
        if not reading.node_labels:
            fields.refuse(["nodes"], "needs enable-node-selector-labels")
        found = select_parse.node_peers(select_parse.node_selector(fields.any("nodes"), at), path)
    elif given == "networks":
        found = _few(fields, given, lambda v, p: Peer(p, Cidr(network(v, p)))) or ()
    else:
        if action is not Action.ALLOW:
            raise PolicyError(at, "only a rule that accepts can name names of the DNS")
        found = _few(fields, given, lambda v, p: Peer(p, domain(word(v, p), p))) or ()
        for peer in found:
            reading.needs_proxy(peer.path)
    fields.done()
    return found


def _few(
    fields: Fields, name: str, read: Callable[[Any, str], T], *, least: int = 1
) -> tuple[T, ...] | None:
    """Take a list of `least` to MAX_ITEMS; None if it is absent."""
    found = fields.each(name, read)
    if found is not None and not least <= len(found) <= MAX_ITEMS:
        raise PolicyError(
            fields.at(name), f"{len(found)} items where {least} to {MAX_ITEMS} belong"
        )
    return found


def _one_of(fields: Fields, name: str, values: Mapping[str, T]) -> T:
    text = fields.text(name)
    if text not in values:
        raise PolicyError(fields.at(name), f"{text!r} is none of {', '.join(values)}")
    return values[text]
