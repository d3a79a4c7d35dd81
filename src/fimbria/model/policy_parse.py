"""From a policy object, as the API or a file gives it, to a Policy.

An object that this version cannot enforce as a whole is not enforced in part: it becomes a Policy
with a refusal (field path and reason) whose specs keep their subject and their directions but have
no rules, which closes those subjects. Where the subject itself cannot be read, it is every pod that
the object could have been about. Nothing in here raises for what a document contains.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fimbria.model.cilium_policy import cilium_specs
from fimbria.model.cluster_policy import cluster_specs
from fimbria.model.fields import mapping
from fimbria.model.kinds import CLUSTER_NETWORK_POLICY, CLUSTERWIDE, KINDS, NETWORK_POLICY
from fimbria.model.network_policy import network_specs
from fimbria.model.policy import (
    AUDIT_ANNOTATION,
    FORCE_ANNOTATION,
    Policy,
    PolicyError,
    PolicyKey,
    Tier,
)
from fimbria.model.reading import Reading
from fimbria.model.refused import closed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "parse_policy"]


def parse_policy(
    document: Mapping[str, Any],
    kind: str = "",
    *,
    cluster: str = "default",
    node_labels: bool = False,
) -> Policy:
    """Return the Policy of an object; with `refusal` set if it cannot be enforced.

    `kind` is one of KINDS, "" takes the document's own. `cluster` is the cluster's name,
    `node_labels` enable-node-selector-labels: without it no rule can name nodes by their labels.
    Raises PolicyError only if the object has no usable kind or name, so that nobody could be told.
    """
    kind = kind or str(document.get("kind") or "")
    if kind not in KINDS:
        raise PolicyError("kind", f"{kind!r} is none of {', '.join(KINDS)}")
    names = mapping(document.get("metadata"))
    name, namespace = names.get("name"), names.get("namespace") or "default"
    if not isinstance(name, str) or not name:
        raise PolicyError("metadata.name", "expected a name")
    if not isinstance(namespace, str):
        raise PolicyError("metadata.namespace", "expected a string")
    key = PolicyKey(kind, "" if kind in CLUSTERWIDE else namespace, name)
    annotations = mapping(names.get("annotations"))
    said = annotations.get(AUDIT_ANNOTATION)
    mode = "false" if said is None else said.lower() if isinstance(said, str) else ""
    audit = mode == "true"
    forced = annotations.get(FORCE_ANNOTATION) == "true"
    reading = Reading(key.namespace, cluster, node_labels)
    tier, priority = Tier.NORMAL, 0
    try:
        if mode not in ("true", "false"):
            reason = f'{AUDIT_ANNOTATION}: expected "true" or "false", not {json.dumps(said)}'
            raise PolicyError("metadata.annotations", reason)
        if kind == NETWORK_POLICY:
            specs = network_specs(document, key.namespace)
        elif kind == CLUSTER_NETWORK_POLICY:
            tier, priority, specs = cluster_specs(document, reading)
        else:
            specs = cilium_specs(document, reading)
    except PolicyError as error:
        refusal = error.path, error.reason
        return Policy(key, closed(document, key), refusal, document, audit=audit)
    return Policy(key, specs, None, document, tier, priority, audit, tuple(reading.pending), forced)
