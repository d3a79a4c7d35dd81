"""Policy objects to values: what they say, or why this version cannot enforce them.

    object -> parse_policy -> Policy            enforced as written
                           -> Policy.refusal    refused whole; its specs only close what they name
                           -> PolicyError       not even its subjects can be read

A spec is read in two passes. The first finds subject and directions, which is all that is needed
to close them; the second reads the rules, and its first complaint refuses the object. Fields that
no pass knows are complaints too: ignoring one would enforce half a policy.
(Kubernetes NetworkPolicy v1; Cilium policy language, validation included.)
"""

from __future__ import annotations

from dataclasses import replace

from fimbria.model import rules_cilium, rules_kubernetes
from fimbria.model.fields import Fields
from fimbria.model.policy import (
    Policy,
    PolicyError,
    PolicyKey,
    Refusal,
    Spec,
)

CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
CILIUM = "CiliumNetworkPolicy"
KUBERNETES = "NetworkPolicy"
KINDS = (KUBERNETES, CILIUM, CLUSTERWIDE)


def parse_policy(obj: object, cluster: str = "default") -> Policy:
    """A policy object as it comes from the API or a file; `cluster` is what the entity of that
    name means.

    Raises PolicyError when kind, name or the selected pods cannot be told; everything else that
    cannot be enforced is in `refusal`."""
    top = Fields.of(obj, "")
    kind = top.text("kind")
    if kind not in KINDS:
        raise PolicyError("kind", f"{kind or 'missing'}; must be one of {', '.join(KINDS)}")
    meta = top.fields("metadata")
    name = meta.text("name")
    if not name:
        raise PolicyError("metadata.name", "missing")
    namespace = "" if kind == CLUSTERWIDE else meta.text("namespace") or "default"
    generation = meta.get("generation")
    key = PolicyKey(kind, namespace, name)
    rules_of = rules_kubernetes.rules if kind == KUBERNETES else rules_cilium.rules
    frames = list(_frames(top, key))
    refusal: Refusal | None = None
    specs: list[Spec] = []
    for fields, frame in frames:
        if refusal is None:
            try:
                rules = rules_of(fields, namespace, cluster)
            except PolicyError as error:
                refusal, rules = Refusal(error.field, error.reason), ()
            frame = replace(frame, rules=rules)
        specs.append(frame)
    if refusal:
        specs = [replace(spec, rules=(), default_deny=spec.sections) for spec in specs]
    return Policy(
        key,
        tuple(specs),
        meta.text("uid"),
        generation if isinstance(generation, int) else 0,
        refusal,
    )


def _frames(top: Fields, key: PolicyKey) -> list[tuple[Fields, Spec]]:
    """Each spec's fields with its subject and directions."""
    if key.kind == KUBERNETES:
        fields = top.fields("spec")
        return [(fields, rules_kubernetes.frame(fields, key.namespace))]
    found: list[Fields] = []
    if top.get("spec") is not None:
        found.append(top.fields("spec"))
    found += top.list_of("specs") or []
    if not found:
        raise PolicyError("spec", "missing; a policy needs spec or specs")
    return [(fields, rules_cilium.frame(fields, key.namespace)) for fields in found]
