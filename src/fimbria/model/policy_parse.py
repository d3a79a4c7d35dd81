"""From a policy object, as the API or a file gives it, to a Policy.

An object that this version cannot enforce as a whole is not enforced in part: it becomes a Policy
with a refusal (field path and reason) whose specs keep their subject and their directions but have
no rules, which closes those subjects. Where the subject itself cannot be read, it is every pod that
the object could have been about. Nothing in here raises for what a document contains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fimbria.datapath.abi import Direction
from fimbria.model import select_parse
from fimbria.model.entities import NAMES, entity
from fimbria.model.fields import UNSUPPORTED, Fields, word
from fimbria.model.network_policy import network_specs
from fimbria.model.policy import (
    DIRECTIONS,
    Action,
    Peer,
    Policy,
    PolicyError,
    PolicyKey,
    Rule,
    Spec,
)
from fimbria.model.ports import cilium_ports
from fimbria.model.selector import EVERYTHING, Selector

if TYPE_CHECKING:
    from collections.abc import Mapping

NETWORK_POLICY = "NetworkPolicy"
CILIUM_NETWORK_POLICY = "CiliumNetworkPolicy"
CILIUM_CLUSTERWIDE_POLICY = "CiliumClusterwideNetworkPolicy"
KINDS = (NETWORK_POLICY, CILIUM_NETWORK_POLICY, CILIUM_CLUSTERWIDE_POLICY)

_SECTIONS = {
    "ingress": (Direction.INGRESS, False),
    "ingressDeny": (Direction.INGRESS, True),
    "egress": (Direction.EGRESS, False),
    "egressDeny": (Direction.EGRESS, True),
}
_ENDS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_UNSUPPORTED_PEERS = (
    "CIDR", "CIDRSet", "Groups", "Nodes", "Services", "FQDNs",
)  # fmt: skip


def parse_policy(
    document: Mapping[str, Any], kind: str = "", *, cluster: str = "default"
) -> Policy:
    """Return the Policy of an object; with `refusal` set if it cannot be enforced.

    `kind` is one of KINDS, "" takes the document's own. `cluster` is the cluster's name.
    Raises PolicyError only if the object has no usable kind or name, so that nobody could be told.
    """
    kind = kind or str(document.get("kind") or "")
    if kind not in KINDS:
        raise PolicyError("kind", f"{kind!r} is none of {', '.join(KINDS)}")
    names = _mapping(document.get("metadata"))
    name, namespace = names.get("name"), names.get("namespace") or "default"
    if not isinstance(name, str) or not name:
        raise PolicyError("metadata.name", "expected a name")
    if not isinstance(namespace, str):
        raise PolicyError("metadata.namespace", "expected a string")
    key = PolicyKey(kind, "" if kind == CILIUM_CLUSTERWIDE_POLICY else namespace, name)
    try:
        if kind == NETWORK_POLICY:
            specs = network_specs(document, key.namespace)
        else:
            specs = _cilium_specs(document, key.namespace, cluster)
    except PolicyError as error:
        return Policy(key, _closed(document, key), (error.path, error.reason), document)
    return Policy(key, specs, None, document)


def _cilium_specs(document: Mapping[str, Any], namespace: str, cluster: str) -> tuple[Spec, ...]:
    found: list[Spec] = []
    if document.get("spec") is not None:
        found.append(_spec(document["spec"], "spec", namespace, cluster))
    if document.get("specs") is not None:
        top = Fields({"specs": document["specs"]}, "")
        found += [
            _spec(value, path, namespace, cluster) for path, value in top.items("specs") or ()
        ]
    if not found:
        raise PolicyError("spec", "the object has neither spec nor specs")
    return tuple(found)


def _spec(value: Any, path: str, namespace: str, cluster: str) -> Spec:
    fields = Fields(value, path)
    if fields.has("nodeSelector"):
        where = "a clusterwide policy only" if namespace else UNSUPPORTED
        raise PolicyError(fields.at("nodeSelector"), f"host policies: {where}")
    if not fields.has("endpointSelector"):
        raise PolicyError(fields.at("endpointSelector"), "is missing")
    subject = _subject(fields, namespace)
    fields.any("description")
    fields.any("labels")
    fields.refuse(["log"])
    rules: list[Rule] = []
    present: dict[Direction, bool] = dict.fromkeys(DIRECTIONS, False)
    for name, (direction, deny) in _SECTIONS.items():
        section = fields.each(
            name, lambda v, p, d=direction, n=deny: _rule(v, p, d, n, namespace, cluster)
        )
        present[direction] |= bool(section)
        rules += section or ()
    wanted = _default_deny(fields)
    fields.done()
    # Saying `false` about a direction without rules says nothing.
    ingress, egress = (
        (True if wanted[d] is None else wanted[d]) if present[d] else (wanted[d] or None)
        for d in DIRECTIONS
    )
    if ingress is None and egress is None:
        raise PolicyError(path, "has none of ingress, ingressDeny, egress, egressDeny")
    return Spec(path, subject, ingress, egress, tuple(rules))


def _subject(fields: Fields, namespace: str) -> Selector:
    path = fields.at("endpointSelector")
    chosen = select_parse.label_selector(
        fields.any("endpointSelector"), path, select_parse.cilium_key
    )
    return select_parse.subject(chosen, namespace, path)


def _default_deny(fields: Fields) -> dict[Direction, bool | None]:
    given = fields.mapping("enableDefaultDeny")
    found: dict[Direction, bool | None] = {Direction.INGRESS: None, Direction.EGRESS: None}
    if given is not None:
        found = {Direction.INGRESS: given.flag("ingress"), Direction.EGRESS: given.flag("egress")}
        given.done()
    return found


def _rule(
    value: Any, path: str, direction: Direction, deny: bool, namespace: str, cluster: str
) -> Rule:
    fields = Fields(value, path)
    end = _ENDS[direction]
    fields.refuse([f"{end}{name}" for name in _UNSUPPORTED_PEERS] + ["authentication"])
    fields.refuse(
        [f"{end}Requires"], f"is not supported: put the demands into every {end}Endpoints selector"
    )
    endpoints = fields.each(
        f"{end}Endpoints",
        lambda v, p: Peer(p, select_parse.peer(
            select_parse.label_selector(v, p, select_parse.cilium_key), namespace)),
    )  # fmt: skip
    entities = fields.each(f"{end}Entities", lambda v, p: _entity(v, p, cluster))
    if endpoints is not None and entities is not None:
        names = f"{end.capitalize()}Endpoints and {end.capitalize()}Entities"
        raise PolicyError(fields.at(f"{end}Entities"), f"Combining {names} is not supported yet")
    ports = cilium_ports(fields)
    fields.done()
    peers: tuple[Peer, ...] = ()
    if endpoints is not None:
        peers = endpoints
    elif entities is not None:
        peers = tuple(peer for group in entities for peer in group)
    elif ports:
        peers = (Peer(path, None),)
    return Rule(path, direction, Action.DENY if deny else Action.ALLOW, peers, ports)


def _entity(value: Any, path: str, cluster: str) -> tuple[Peer, ...]:
    name = word(value, path)
    if name not in NAMES:
        raise PolicyError(path, f"{name!r} is none of {', '.join(NAMES)}")
    return tuple(Peer(path, chosen) for chosen in entity(name, cluster))


def _closed(document: Mapping[str, Any], key: PolicyKey) -> tuple[Spec, ...]:
    """Return what a refused object closes: its subjects, in the directions that it names."""
    found: list[Spec] = []
    many = _list(document.get("specs"))
    values = [("spec", document.get("spec")), *((f"specs[{i}]", v) for i, v in enumerate(many))]
    for path, value in values:
        spec = _mapping(value)
        if "nodeSelector" in spec and "endpointSelector" not in spec:
            continue  # about hosts, not pods
        ingress, egress = _named(spec, key.kind)
        if ingress or egress:
            subject = _closed_subject(spec, path, key)
            found.append(Spec(path, subject, ingress or None, egress or None))
    return tuple(found)


def _named(spec: Mapping[str, Any], kind: str) -> tuple[bool, bool]:
    """Return which directions an object that could not be read is about."""
    if kind == NETWORK_POLICY:
        types = _list(spec.get("policyTypes"))
        if "Ingress" in types or "Egress" in types:
            return "Ingress" in types, "Egress" in types
        return True, _says(spec, "egress")
    wanted = _mapping(spec.get("enableDefaultDeny"))
    return (
        _says(spec, "ingress") or _says(spec, "ingressDeny") or bool(wanted.get("ingress")),
        _says(spec, "egress") or _says(spec, "egressDeny") or bool(wanted.get("egress")),
    )


def _says(spec: Mapping[str, Any], section: str) -> bool:
    """Return whether a section is there, be it of the wrong type; no rules say nothing."""
    return spec.get(section) not in (None, [])


def _closed_subject(spec: Mapping[str, Any], path: str, key: PolicyKey) -> Selector:
    kubernetes = key.kind == NETWORK_POLICY
    name = "podSelector" if kubernetes else "endpointSelector"
    prefix = select_parse.kubernetes_key if kubernetes else select_parse.cilium_key
    try:
        chosen = select_parse.label_selector(spec.get(name), f"{path}.{name}", prefix)
        return select_parse.subject(chosen, key.namespace, path)
    except PolicyError:
        return select_parse.subject(EVERYTHING, key.namespace, path)


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
