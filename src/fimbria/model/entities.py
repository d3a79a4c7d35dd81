"""Entities: names for peers that no pod label describes, each a set of selectors.

Source of the label sets: Cilium's entity mapping (control-plane reference, selectors).
"""

from __future__ import annotations

from fimbria.model.labels import CLUSTER
from fimbria.model.selector import Selector, equals, exists, selector

_RESERVED = {
    "world": ("world", "world-ipv4", "world-ipv6"),
    "host": ("host",),
    "remote-node": ("remote-node",),
    "kube-apiserver": ("kube-apiserver",),
    "health": ("health",),
    "init": ("init",),
    "ingress": ("ingress",),
    "unmanaged": ("unmanaged",),
    "none": (),
    "cluster": (
        "host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver",
    ),
}  # fmt: skip
NAMES = ("all", *_RESERVED)


def entity(name: str, cluster: str) -> tuple[Selector | None, ...]:
    """Return the selectors of an entity of NAMES; (None,), anyone at all, for `all`.

    `cluster` is the cluster's name; its pods belong to entity `cluster`.
    """
    if name == "all":
        return (None,)
    found = [selector([exists(f"reserved:{label}")]) for label in _RESERVED[name]]
    if name == "cluster":
        found.append(selector([equals(f"k8s:{CLUSTER}", cluster)]))
    return tuple(found)
