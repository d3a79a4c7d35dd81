"""Identities: a number per distinct set of labels.

Reserved numbers have fixed labels. All others are found by hashing the labels, so that every node
finds the same number without asking another; a number that other labels hold already sends the
finder to the next attempt.
"""

from __future__ import annotations

import hashlib
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fimbria.model.labels import Labels
    from fimbria.model.peers import Prefix

FIRST, LAST = 256, 65535
"""Numbers of the cluster's own identities."""

RESERVED: Mapping[int, Labels] = {
    Identity.HOST: ("reserved:host",),
    Identity.WORLD: ("reserved:world",),
    Identity.UNMANAGED: ("reserved:unmanaged",),
    Identity.HEALTH: ("reserved:health",),
    Identity.INIT: ("reserved:init",),
    Identity.REMOTE_NODE: ("reserved:remote-node",),
    Identity.KUBE_APISERVER: ("reserved:kube-apiserver", "reserved:remote-node"),
    Identity.INGRESS: ("reserved:ingress",),
    Identity.WORLD_IPV4: ("reserved:world-ipv4",),
    Identity.WORLD_IPV6: ("reserved:world-ipv6",),
}
"""Labels of the reserved identities."""

API_SERVER = "reserved:kube-apiserver"
"""What an address of the API server has besides the labels of a node, or of the world."""


def candidate(labels: Iterable[str], attempt: int = 0) -> int:
    """Return the number to try for `labels` (in any order) at the given attempt, from 0."""
    digest = hashlib.blake2b("\0".join(sorted(labels)).encode(), digest_size=8)
    digest.update(attempt.to_bytes(4, "big"))
    return FIRST + int.from_bytes(digest.digest(), "big") % (LAST - FIRST + 1)


def world(family_bits: int, *, dual_stack: bool) -> int:
    """Return the identity of addresses outside the cluster; `family_bits` is 32 or 128."""
    if not dual_stack:
        return Identity.WORLD
    return Identity.WORLD_IPV4 if family_bits == 32 else Identity.WORLD_IPV6


def cidr_label(prefix: Prefix) -> str:
    """Return the label of a prefix's identity: "cidr:10.0.0.0/8", "cidr:fd00--0/8".

    A label's key has no colon, and no dash at its ends (Cilium's form).
    """
    text = str(ip_address(prefix.ip)).replace(":", "-")
    before, after = "0" * text.startswith("-"), "0" * text.endswith("-")
    return f"cidr:{before}{text}{after}/{prefix.bits}"


def prefix_labels(prefix: Prefix, *, dual_stack: bool, apiserver: bool = False) -> Labels:
    """Return the labels of the identity of addresses outside the cluster in a prefix.

    `apiserver`: it is an address of the API server, which is outside the cluster.
    """
    bits = len(prefix.ip) * 8
    return (cidr_label(prefix), *world_labels(bits, dual_stack=dual_stack, apiserver=apiserver))


def world_labels(family_bits: int, *, dual_stack: bool, apiserver: bool) -> Labels:
    """Return the reserved labels of an address outside the cluster, as `prefix_labels`."""
    labels = RESERVED[world(family_bits, dual_stack=dual_stack)]
    return (API_SERVER, *labels) if apiserver else labels


def node_labels(labels: Labels, *, apiserver: bool) -> Labels:
    """Return the labels of the identity of another node's address, given the node's labels."""
    kind = Identity.KUBE_APISERVER if apiserver else Identity.REMOTE_NODE
    return tuple(sorted((*labels, *RESERVED[kind])))
