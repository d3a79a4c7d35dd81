"""Which kinds of objects are policies."""

from __future__ import annotations

NETWORK_POLICY = "NetworkPolicy"
CLUSTER_NETWORK_POLICY = "ClusterNetworkPolicy"
CILIUM_NETWORK_POLICY = "CiliumNetworkPolicy"
CILIUM_CLUSTERWIDE_POLICY = "CiliumClusterwideNetworkPolicy"
KINDS = (
    NETWORK_POLICY, CILIUM_NETWORK_POLICY, CILIUM_CLUSTERWIDE_POLICY, CLUSTER_NETWORK_POLICY,
)  # fmt: skip
CLUSTERWIDE = (CILIUM_CLUSTERWIDE_POLICY, CLUSTER_NETWORK_POLICY)
"""Those without a namespace."""
