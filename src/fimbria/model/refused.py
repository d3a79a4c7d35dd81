"""What an object closes that cannot be enforced: its subjects, in the directions that it names.

Nothing in here raises, whatever the object contains. A part that cannot be read counts as wide as
it could have been meant, within the object's own namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.model import select_parse
from fimbria.model.cluster_policy import cluster_subject
from fimbria.model.fields import listing, mapping
from fimbria.model.kinds import CLUSTER_NETWORK_POLICY, NETWORK_POLICY
from fimbria.model.policy import PolicyError, PolicyKey, Spec
from fimbria.model.selector import EVERYTHING, Selector

if TYPE_CHECKING:
    from collections.abc import Mapping


def closed(document: Mapping[str, Any], key: PolicyKey) -> tuple[Spec, ...]:
    """Return the specs of a refused object, without rules.

    A policy about nodes closes nothing: a node that nobody can reach cannot be repaired.
    """
    found: list[Spec] = []
    values = [("spec", document.get("spec"))]
    if key.kind not in (NETWORK_POLICY, CLUSTER_NETWORK_POLICY):
        many = listing(document.get("specs"))
        values += [(f"specs[{index}]", value) for index, value in enumerate(many)]
    for path, value in values:
        spec = mapping(value)
        nodes, endpoints = (spec.get(name) for name in ("nodeSelector", "endpointSelector"))
        if nodes is not None and endpoints is None:
            continue
        ingress, egress = _directions(spec, key.kind)
        if ingress or egress:
            found.append(Spec(path, _subject(spec, path, key), ingress or None, egress or None))
    return tuple(found)


def _directions(spec: Mapping[str, Any], kind: str) -> tuple[bool, bool]:
    if kind == CLUSTER_NETWORK_POLICY:
        return _says(spec, "ingress"), _says(spec, "egress")
    if kind == NETWORK_POLICY:
        types = listing(spec.get("policyTypes"))
        if "Ingress" in types or "Egress" in types:
            return "Ingress" in types, "Egress" in types
        return True, _says(spec, "egress")
    wanted = mapping(spec.get("enableDefaultDeny"))
    return (
        _says(spec, "ingress") or _says(spec, "ingressDeny") or bool(wanted.get("ingress")),
        _says(spec, "egress") or _says(spec, "egressDeny") or bool(wanted.get("egress")),
    )


def _says(spec: Mapping[str, Any], section: str) -> bool:
    """Return whether a section is there, be it of the wrong type; no rules say nothing."""
    return spec.get(section) not in (None, [])


def _subject(spec: Mapping[str, Any], path: str, key: PolicyKey) -> Selector:
    try:
        if key.kind == CLUSTER_NETWORK_POLICY:
            return cluster_subject(spec.get("subject"), f"{path}.subject")
        kubernetes = key.kind == NETWORK_POLICY
        name = "podSelector" if kubernetes else "endpointSelector"
        prefix = select_parse.kubernetes_key if kubernetes else select_parse.cilium_key
        chosen = select_parse.label_selector(spec.get(name), f"{path}.{name}", prefix)
        if key.namespace and not kubernetes:
            chosen = select_parse.of_any_namespace(chosen)
        return select_parse.subject(chosen, key.namespace, path)
    except PolicyError:
        return select_parse.subject(EVERYTHING, key.namespace, path)
