"""Reading networking.k8s.io/v1 NetworkPolicy.

Source of the rules: the Kubernetes API reference. Without policyTypes a policy is about ingress,
and about egress if it has egress rules; an empty list of peers or ports means all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.datapath.abi import Direction
from fimbria.model import select_parse
from fimbria.model.cidr_parse import block
from fimbria.model.fields import Fields, word
from fimbria.model.policy import Action, Peer, PolicyError, Rule, Spec
from fimbria.model.ports import kubernetes_port
from fimbria.model.selector import Selector, equals, exists, selector

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}


def network_specs(document: Mapping[str, Any], namespace: str) -> tuple[Spec, ...]:
    """Return the one spec of a NetworkPolicy. Raises PolicyError."""
    fields = Fields(document.get("spec"), "spec")
    chosen = select_parse.label_selector(
        fields.any("podSelector") or {}, fields.at("podSelector"), select_parse.kubernetes_key
    )
    subject = chosen.also(equals(select_parse.K8S_NAMESPACE, namespace))
    types = fields.each("policyTypes", _type)
    ingress = fields.each("ingress", lambda v, p: _rule(v, p, Direction.INGRESS, namespace)) or ()
    egress = fields.each("egress", lambda v, p: _rule(v, p, Direction.EGRESS, namespace)) or ()
    fields.done()
    if not types:
        types = (Direction.INGRESS, Direction.EGRESS) if egress else (Direction.INGRESS,)
    rules = tuple(rule for rule in (*ingress, *egress) if rule.direction in types)
    return (
        Spec(
            "spec",
            subject,
            True if Direction.INGRESS in types else None,
            True if Direction.EGRESS in types else None,
            rules,
        ),
    )


def _type(value: Any, path: str) -> Direction:
    found = _TYPES.get(word(value, path))
    if found is None:
        raise PolicyError(path, f"{value!r} is none of Ingress, Egress")
    return found


def _rule(value: Any, path: str, direction: Direction, namespace: str) -> Rule:
    fields = Fields(value, path)
    name = "from" if direction is Direction.INGRESS else "to"
    peers = fields.each(name, lambda v, p: _peer(v, p, namespace))
    ports = fields.each("ports", kubernetes_port) or ()
    fields.done()
    return Rule(path, direction, Action.ALLOW, peers or (Peer(path, None),), ports)


def _peer(value: Any, path: str, namespace: str) -> Peer:
    fields = Fields(value, path)
    pods = fields.any("podSelector")
    namespaces = fields.any("namespaceSelector")
    blocks = fields.mapping("ipBlock")
    fields.done()
    if blocks is not None:
        if pods is not None or namespaces is not None:
            raise PolicyError(blocks.path, "takes no selector beside it")
        whom = block(blocks, strict=True)
        blocks.done()
        return Peer(path, whom)
    if pods is None and namespaces is None:
        raise PolicyError(path, "has none of podSelector, namespaceSelector, ipBlock")
    demands = _demands(pods or {}, fields.at("podSelector"), select_parse.kubernetes_key)
    if namespaces is None:
        where = selector([equals(select_parse.K8S_NAMESPACE, namespace)])
    else:
        where = _demands(
            namespaces, fields.at("namespaceSelector"), select_parse.namespace_key
        ).also(exists(select_parse.K8S_NAMESPACE))
    return Peer(path, demands.also(*where.requirements))


def _demands(value: Any, path: str, prefix: Any) -> Selector:
    return select_parse.label_selector(value, path, prefix)
