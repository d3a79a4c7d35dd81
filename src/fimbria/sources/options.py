"""Every configuration key that agent and operator know: type, default, and what it is for.

The keys are those of `cilium-config`; a field's name is the key with `_` for `-`. `check` refuses
values and combinations that this version cannot give, because a mode that was asked for is either
had or it is an error (never a silent fallback).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from typing import Any

CHOICES = "choices"
DESCRIPTION = "description"
OPTIONAL_MTU = 0


class ConfigError(Exception):
    """A configuration that cannot be used. `key` is the offending key, "" for a file."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


def _option(default: Any, description: str, choices: tuple[str, ...] = ()) -> Any:
    metadata = {DESCRIPTION: description, CHOICES: choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """The agent's configuration, one field per key. Durations are seconds, sizes are entries."""

    # Who and where
    node_name: str = _option("", "Name of this node's Node object (K8S_NODE_NAME, or hostname).")
    cluster_name: str = _option("default", "Name of the cluster, a label of every pod identity.")
    cluster_id: int = _option(0, "Number of the cluster in a mesh; 0: no mesh.")
    k8s_kubeconfig_path: str = _option("", "Kubeconfig of the API; empty: the service account.")
    k8s_namespace: str = _option("kube-system", "Namespace that CiliumNodeConfigs are read from.")
    state_dir: str = _option("/var/run/cilium/state", "Folder of the endpoints' state files.")
    socket_path: str = _option("/var/run/cilium/cilium.sock", "Unix socket of the agent's API.")
    socket_group: str = _option(
        "fimbria", "Group that may use the agent's API; without it (or empty) only root may."
    )
    bpf_root: str = _option("/sys/fs/bpf", "Where the node's BPF file system is mounted.")
    # Addresses and routing
    enable_ipv4: bool = _option(True, "Give pods IPv4 addresses.")
    enable_ipv6: bool = _option(False, "Give pods IPv6 addresses.")
    routing_mode: str = _option("tunnel", "How pods reach other nodes.", ("tunnel", "native"))
    tunnel_protocol: str = _option("vxlan", "Encapsulation in tunnel mode.", ("vxlan",))
    tunnel_port: int = _option(8472, "UDP port of the tunnel.")
    auto_direct_node_routes: bool = _option(
        False, "Native routing: install routes to the pod CIDRs of nodes on the same network."
    )
    ipv4_native_routing_cidr: str = _option("", "IPv4 range routed natively by the network.")
    ipv6_native_routing_cidr: str = _option("", "IPv6 range routed natively by the network.")
    enable_host_legacy_routing: bool = _option(
        False, "Send pod traffic through the kernel's stack instead of redirecting it past it."
    )
    enable_endpoint_routes: bool = _option(
        False, "A route per pod, and policy at the pod's device for what the kernel routed."
    )
    devices: tuple[str, ...] = _option((), "Network devices; empty: those of the default routes.")
    direct_routing_device: str = _option("", "Device towards other nodes; empty: the first one.")
    mtu: int = _option(OPTIONAL_MTU, "MTU of the network; 0: that of the device.")
    ipam: str = _option(
        "cluster-pool", "Who gives this node its pod CIDRs.", ("cluster-pool", "kubernetes")
    )
    # Policy
    enable_policy: str = _option(
        "default", "When policy is enforced.", ("default", "always", "never")
    )
    policy_audit_mode: bool = _option(False, "Judge and report, but let everything pass.")
    allow_localhost: str = _option(
        "auto", "Whether the node reaches its pods whatever policy says.",
        ("auto", "always"),
    )  # fmt: skip
    identity_allocation_mode: str = _option("crd", "Where identities are kept.", ("crd",))
    labels: str = _option("", "Which labels make an identity: regular expressions, ! excludes.")
    policy_cidr_match_mode: tuple[str, ...] = _option(
        (), "What of the cluster rules by CIDR match, too: nodes, pods, or both."
    )
    enable_node_selector_labels: bool = _option(
        False, "Let rules select nodes by their labels (fromNodes, toNodes)."
    )
    enable_host_firewall: bool = _option(
        False, "Enforce policies about nodes (nodeSelector) on what nodes send and get themselves."
    )
    bpf_policy_map_max: int = _option(16384, "Entries that one policy may take.")
    # Conntrack
    bpf_ct_global_tcp_max: int = _option(524288, "Entries of the connection table.")
    bpf_ct_half_open_max: int = _option(
        65536, "Entries of the table of connections that are not established yet."
    )
    bpf_ct_timeout_regular_tcp: float = _option(8000.0, "Lifetime of an idle TCP connection.")
    bpf_ct_timeout_regular_any: float = _option(60.0, "Lifetime of other idle flows.")
    bpf_ct_timeout_regular_tcp_syn: float = _option(60.0, "Lifetime while only SYN was seen.")
    bpf_ct_timeout_regular_tcp_fin: float = _option(10.0, "Lifetime after FIN or RST.")
    conntrack_gc_interval: float = _option(0.0, "Between collections; 0: adapts to the churn.")
    # Observation
    monitor_aggregation: str = _option(
        "medium", "How many trace events there are.", ("none", "low", "medium", "maximum")
    )
    monitor_aggregation_interval: float = _option(5.0, "Between two trace events of one flow.")
    prometheus_serve_addr: str = _option(
        "", "host:port where Prometheus finds /metrics (Cilium's is :9962); empty: nowhere."
    )
    debug: bool = _option(False, "Log what the agent does in detail.")
    # CNI
    write_cni_conf_when_ready: str = _option("", "CNI configuration file to write once ready.")
    cni_exclusive: bool = _option(False, "Put other CNI configurations aside (*.cilium_bak).")
    cni_chaining_mode: str = _option(
        "none", "Plugins that follow ours in the written configuration.", ("none", "portmap")
    )
    # The operator's
    cluster_pool_ipv4_cidr: tuple[str, ...] = _option(
        ("10.0.0.0/8",), "Where nodes' IPv4 pod CIDRs are cut from."
    )
    cluster_pool_ipv4_mask_size: int = _option(24, "Prefix length of a node's IPv4 pod CIDR.")
    cluster_pool_ipv6_cidr: tuple[str, ...] = _option(
        ("fd00::/104",), "Where nodes' IPv6 pod CIDRs are cut from."
    )
    cluster_pool_ipv6_mask_size: int = _option(120, "Prefix length of a node's IPv6 pod CIDR.")
    identity_gc_interval: float = _option(900.0, "Between two looks for unused identities.")
    identity_heartbeat_timeout: float = _option(
        1800.0, "How long an identity must be unused before it is removed."
    )
    cilium_endpoint_gc_interval: float = _option(
        300.0, "Between two looks for CiliumEndpoints without pod; 0: never."
    )
    nodes_gc_interval: float = _option(
        300.0, "Between two looks for CiliumNodes without node; 0: never."
    )
    # Asked for elsewhere, not here
    kube_proxy_replacement: bool = _option(False, "Translate services; not in this version.")
    enable_ipv4_masquerade: bool = _option(False, "Masquerade to the world; not in this version.")
    enable_ipv6_masquerade: bool = _option(False, "Masquerade to the world; not in this version.")
    enable_l7_proxy: bool = _option(False, "Policy for HTTP and DNS; not in this version.")
    enable_wireguard: bool = _option(False, "Encryption between nodes; not in this version.")
    enable_ipsec: bool = _option(False, "Encryption between nodes; not in this version.")


UNAVAILABLE = (
    "kube_proxy_replacement",
    "enable_ipv4_masquerade",
    "enable_ipv6_masquerade",
    "enable_l7_proxy",
    "enable_wireguard",
    "enable_ipsec",
)
CIDR_MATCH_MODES = ("nodes", "pods")
FIELDS = {one.name.replace("_", "-"): one for one in fields(Config)}
"""Key -> dataclass field."""


def check(config: Config) -> None:
    """Raise ConfigError for a value or combination that cannot be had."""
    for name in UNAVAILABLE:
        if getattr(config, name):
            raise ConfigError(name.replace("_", "-"), "not in this version; set it to false")
    if not config.enable_ipv4 and not config.enable_ipv6:
        raise ConfigError("enable-ipv4", "false like enable-ipv6: pods would have no address")
    if config.enable_endpoint_routes and not config.enable_host_legacy_routing:
        raise ConfigError(
            "enable-endpoint-routes", "needs enable-host-legacy-routing=true: the kernel routes"
        )
    if config.cni_chaining_mode == "portmap" and not config.enable_host_legacy_routing:
        raise ConfigError(
            "cni-chaining-mode",
            "portmap needs enable-host-legacy-routing=true: it translates in the kernel's stack, "
            "which BPF host routing goes past",
        )
    if config.auto_direct_node_routes and config.routing_mode == "tunnel":
        raise ConfigError("auto-direct-node-routes", "needs routing-mode=native")
    unknown = [one for one in config.policy_cidr_match_mode if one not in CIDR_MATCH_MODES]
    if unknown:
        raise ConfigError(
            "policy-cidr-match-mode",
            f"{unknown[0]!r} is not one of {', '.join(CIDR_MATCH_MODES)}",
        )
    for key, low, high in (
        ("tunnel-port", 1, 65535),
        ("cluster-id", 0, 0),
        ("bpf-policy-map-max", 256, 65536),
        ("bpf-ct-global-tcp-max", 1024, 1 << 24),
        ("bpf-ct-half-open-max", 1024, 1 << 24),
        ("mtu", 0, 65520),
    ):
        value = getattr(config, FIELDS[key].name)
        if not low <= value <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise ConfigError(key, f"{value} is out of range, this version takes {wanted}")
    if 0 < config.mtu < 1280:
        raise ConfigError("mtu", f"{config.mtu} is below 1280, the least that IPv6 needs")
    for key in ("ipv4-native-routing-cidr", "ipv6-native-routing-cidr"):
        _check_cidr(key, getattr(config, FIELDS[key].name))
    for family, bits in (("ipv4", 32), ("ipv6", 128)):
        size = getattr(config, f"cluster_pool_{family}_mask_size")
        for cidr in getattr(config, f"cluster_pool_{family}_cidr"):
            _check_cidr(f"cluster-pool-{family}-cidr", cidr)
            if not ip_network(cidr).prefixlen <= size <= bits - 2:
                raise ConfigError(
                    f"cluster-pool-{family}-mask-size", f"{size} does not fit into {cidr}"
                )


def _check_cidr(key: str, value: str) -> None:
    if not value:
        return
    try:
        network = ip_network(value)
    except ValueError as error:
        raise ConfigError(key, f"{value!r} is no CIDR: {error}") from error
    if ("ipv4" in key) != (network.version == 4):
        raise ConfigError(key, f"{value} is of the other address family")


def default_node_name() -> str:
    """Return the node's name where none is configured."""
    return os.environ.get("K8S_NODE_NAME") or socket.gethostname().lower()
