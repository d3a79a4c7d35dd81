"""Rows for the node's own addresses and pods: cilium_lxc, cilium_devices, cilium_policy_ref."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.datapath.abi import (
    DeviceInfo,
    DeviceKey,
    EndpointFlags,
    EndpointInfo,
    EndpointKey,
    Family,
    Identity,
    PolicyIds,
    PolicyRef,
)

if TYPE_CHECKING:
    from fimbria.compile.state import LocalEndpoint

_MAPPED = bytes(10) + b"\xff\xff"
HOST = EndpointInfo(flags=EndpointFlags.HOST, sec_id=Identity.HOST).pack()
"""Value of the node's own addresses in cilium_lxc."""


def address_key(ip: bytes) -> tuple[bytes, int]:
    """Return an address as map keys hold it: sixteen bytes, IPv4 in the first four; and family."""
    if len(ip) == 4:
        return ip + bytes(12), Family.IPV4
    return ip, Family.IPV6


def identity_of(endpoint: LocalEndpoint) -> int:
    """Return an endpoint's identity; `init` while it has none."""
    return endpoint.identity or Identity.INIT


def lxc_key(ip: bytes) -> bytes:
    """Return the key of an address in cilium_lxc."""
    padded, family = address_key(ip)
    return EndpointKey(ip=padded, family=family).pack()


def lxc_value(endpoint: LocalEndpoint) -> bytes:
    """Return a pod's value in cilium_lxc."""
    return EndpointInfo(
        ifindex=endpoint.ifindex,
        lxc_id=endpoint.id,
        mac=endpoint.mac,
        node_mac=endpoint.node_mac,
        sec_id=identity_of(endpoint),
    ).pack()


def device_key(endpoint: LocalEndpoint) -> bytes:
    """Return the key of an endpoint's device in cilium_devices."""
    return DeviceKey(ifindex=endpoint.ifindex).pack()


def device_value(endpoint: LocalEndpoint) -> bytes:
    """Return an endpoint's value in cilium_devices."""
    return DeviceInfo(
        ip4=_MAPPED + endpoint.ipv4 if endpoint.ipv4 else bytes(16),
        ip6=endpoint.ipv6 or bytes(16),
        sec_id=identity_of(endpoint),
        lxc_id=endpoint.id,
        mac=endpoint.mac,
        node_mac=endpoint.node_mac,
    ).pack()


def ref_key(endpoint_id: int) -> bytes:
    """Return an endpoint's key in cilium_policy_ref."""
    return endpoint_id.to_bytes(4, "little")


def reference(policy_id: int, shadow_id: int = 0) -> PolicyRef:
    """Return a reference to a policy that nothing takes back.

    The datapath may see half of a change. So the fallback is the policy itself: with the deadline
    of a trial that is just being confirmed it must not lead anywhere else.
    """
    return PolicyRef(policy_id, shadow_id, fallback_id=policy_id)


LOCKED = reference(int(PolicyIds.LOCKED))
"""Reference of an endpoint without a policy yet."""
