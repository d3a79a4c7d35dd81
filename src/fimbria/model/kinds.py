"""Which kinds of objects are policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NETWORK_POLICY = "NetworkPolicy"
CLUSTER_NETWORK_POLICY = "ClusterNetworkPolicy"
CILIUM_NETWORK_POLICY = "CiliumNetworkPolicy"
CILIUM_CLUSTERWIDE_POLICY = "CiliumClusterwideNetworkPolicy"
GROUPS: Mapping[str, str] = {
    NETWORK_POLICY: "networking.k8s.io",
    CILIUM_NETWORK_POLICY: "cilium.io",
    CILIUM_CLUSTERWIDE_POLICY: "cilium.io",
    CLUSTER_NETWORK_POLICY: "policy.networking.k8s.io",
}
"""API groups of the kinds; others have kinds of the same names."""
CIDR_GROUP = "CiliumCIDRGroup"
VERSIONS: Mapping[str, tuple[str, ...]] = {
    NETWORK_POLICY: ("v1",),
    CILIUM_NETWORK_POLICY: ("v2",),
    CILIUM_CLUSTERWIDE_POLICY: ("v2",),
    CLUSTER_NETWORK_POLICY: ("v1alpha2",),
    CIDR_GROUP: ("v2", "v2alpha1"),
}
"""Versions that the groups have of the kinds, and of what rules refer to; the first is current."""
KINDS = tuple(GROUPS)
CLUSTERWIDE = (CILIUM_CLUSTERWIDE_POLICY, CLUSTER_NETWORK_POLICY)
"""Those without a namespace."""
