"""The datapath's load-time constants, from configuration and devices (see bpf/config.h)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fimbria.agent.devices import NodeDevices
    from fimbria.sources.options import Config

TRACE_LEVELS = {"none": 0, "low": 1, "medium": 3, "maximum": 4}


def constants(
    config: Config, devices: NodeDevices, router4: str, router6: str, hz: int
) -> dict[str, int | bytes]:
    """Return every constant by name; addresses in network order as the C stores them."""
    return {
        "cfg_ipv4": int(config.enable_ipv4),
        "cfg_ipv6": int(config.enable_ipv6),
        "cfg_tunnel": int(config.routing_mode == "tunnel"),
        "cfg_host_routing": int(not config.enable_host_legacy_routing),
        "cfg_endpoint_routes": int(config.enable_endpoint_routes),
        "cfg_trace": TRACE_LEVELS[config.monitor_aggregation],
        "cfg_trace_interval": int(config.monitor_aggregation_interval),
        "cfg_cidr_nodes": int("nodes" in config.policy_cidr_match_mode),
        "cfg_cidr_pods": int("pods" in config.policy_cidr_match_mode),
        "cfg_host_firewall": int(config.enable_host_firewall),
        "cfg_overlay_port": config.tunnel_port,
        "cfg_overlay_ifindex": devices.overlay,
        "cfg_router_ip4": IPv4Address(router4).packed if router4 else bytes(4),
        "cfg_router_ip6": IPv6Address(router6).packed if router6 else bytes(16),
        "cfg_hz": hz,
        "cfg_ct_syn": int(config.bpf_ct_timeout_regular_tcp_syn),
        "cfg_ct_tcp": int(config.bpf_ct_timeout_regular_tcp),
        "cfg_ct_any": int(config.bpf_ct_timeout_regular_any),
        "cfg_ct_close": int(config.bpf_ct_timeout_regular_tcp_fin),
    }
