"""The second judge: what the C decides, in Python, over the exact bytes of the maps.

`policy_lookup` is bpf/policy.h step by step; `walk` follows a packet from a pod of this node, or to
one, through endpoints, ipcache and policy. Nothing in here knows rules, labels or objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.datapath.abi import (
    Direction,
    DropReason,
    EndpointFlags,
    EndpointInfo,
    EndpointKey,
    Family,
    Identity,
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyIds,
    PolicyInfo,
    PolicyKey,
    PolicyRef,
    PolicyShape,
    RuleIds,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SHAPES = 18
_MASKS = (0, 0, *(0xFFFF << (16 - bits) & 0xFFFF for bits in range(1, 17)))
_STATIC_BITS = 32


@dataclass(frozen=True, slots=True)
class Hit:
    """The answer of one policy lookup; `key` and `entry` are None if nothing matched.

    `verdict` is 0 for allow, otherwise minus the drop reason.
    """

    verdict: int
    rule_id: int = int(RuleIds.NONE)
    shape: int = 0
    enforced: bool = True
    key: PolicyKey | None = None
    entry: PolicyEntry | None = None

    @property
    def allowed(self) -> bool:
        """Return whether the packet may pass."""
        return self.verdict == 0


def policy_lookup(
    info: bytes,
    entries: Mapping[bytes, bytes],
    identity: int,
    direction: Direction,
    protocol: int,
    port: int,
) -> Hit:
    """Judge a packet by one policy map.

    `info` is its struct policy_info, `entries` the inner map; `identity` is the peer's, `port` the
    destination port, for ICMP the type.
    """
    policy = PolicyInfo.unpack(info)
    if not policy.flags & direction:
        return Hit(0, enforced=False)
    way = 1 if direction is Direction.EGRESS else 0
    peer = _side(entries, identity, policy.peer_shapes[way], way, protocol, port)
    anyone = _side(entries, 0, policy.any_shapes[way], way, protocol, port)
    for hit in (peer, anyone):
        if hit is not None and hit[1].flags & PolicyEntryFlags.DENY:
            return _hit(-DropReason.POLICY_DENY, hit)
    if peer is not None and (anyone is None or _shape(peer[0]) >= _shape(anyone[0])):
        return _hit(0, peer)
    return Hit(-DropReason.POLICY) if anyone is None else _hit(0, anyone)


def endpoint_policy(maps: Mapping[str, Mapping[bytes, bytes]], endpoint_id: int) -> int:
    """Return the policy id that an endpoint refers to; NONE if there is no reference."""
    value = maps["cilium_policy_ref"].get(endpoint_id.to_bytes(4, "little"))
    return int(PolicyIds.NONE) if value is None else PolicyRef.unpack(value).policy_id


def ipcache_lookup(ipcache: Mapping[bytes, bytes], ip: bytes) -> IpcacheInfo | None:
    """Return the value of the longest prefix of a packed address; None if there is none."""
    family, bits = (Family.IPV4, 32) if len(ip) == 4 else (Family.IPV6, 128)
    number = int.from_bytes(ip, "big")
    for length in range(bits, -1, -1):
        masked = number >> (bits - length) << (bits - length)
        prefix = masked.to_bytes(len(ip), "big").ljust(16, b"\0")
        value = ipcache.get(IpcacheKey(_STATIC_BITS + length, 0, family, prefix).pack())
        if value is not None:
            return IpcacheInfo.unpack(value)
    return None


def endpoint_lookup(lxc: Mapping[bytes, bytes], ip: bytes) -> EndpointInfo | None:
    """Return what cilium_lxc says about a packed address."""
    family = Family.IPV4 if len(ip) == 4 else Family.IPV6
    value = lxc.get(EndpointKey(ip.ljust(16, b"\0"), family).pack())
    return None if value is None else EndpointInfo.unpack(value)


@dataclass(frozen=True, slots=True)
class Step:
    """One judgement on a packet's way: at which endpoint, in which direction, by which policy."""

    endpoint_id: int
    direction: Direction
    peer: int
    policy_id: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Walk:
    """A packet's way. `steps` are its judgements in order; `tunnel` is where it would be sent.

    `tunnel` is an IPv4 address as a number, 0 for no tunnel.
    """

    source: int
    destination: int
    steps: tuple[Step, ...]
    tunnel: int = 0

    @property
    def allowed(self) -> bool:
        """Return whether every judgement lets it pass."""
        return all(step.hit.allowed for step in self.steps)


def walk(
    maps: Mapping[str, Mapping[bytes, bytes]],
    policies: Mapping[int, tuple[bytes, Mapping[bytes, bytes]]],
    source: bytes,
    destination: bytes,
    protocol: int,
    port: int,
    *,
    dual_stack: bool = False,
) -> Walk:
    """Follow a new flow's first packet through one node's maps.

    `policies` are (info, entries) by policy id. The node judges egress if the source is its pod and
    ingress if the destination is; it stops at the first denial.
    """
    unknown = Identity.WORLD
    if dual_stack:
        unknown = Identity.WORLD_IPV4 if len(source) == 4 else Identity.WORLD_IPV6
    ends: list[tuple[EndpointInfo | None, int, int]] = []
    for ip in (source, destination):
        cached = ipcache_lookup(maps["cilium_ipcache"], ip)
        identity = int(unknown) if cached is None else cached.sec_identity
        tunnel = 0 if cached is None else cached.tunnel_endpoint
        endpoint = endpoint_lookup(maps["cilium_lxc"], ip)
        if endpoint is not None:
            identity = endpoint.sec_id
        if endpoint is not None and endpoint.flags & EndpointFlags.HOST:
            endpoint = None
        ends.append((endpoint, identity, tunnel))
    (sender, source_id, _), (receiver, destination_id, tunnel) = ends
    steps: list[Step] = []
    for endpoint, direction, peer in (
        (sender, Direction.EGRESS, destination_id),
        (receiver, Direction.INGRESS, source_id),
    ):
        if endpoint is None or not all(step.hit.allowed for step in steps):
            continue
        number = endpoint_policy(maps, endpoint.lxc_id)
        info, entries = policies[number]
        hit = policy_lookup(info, entries, peer, direction, protocol, port)
        steps.append(Step(endpoint.lxc_id, direction, peer, number, hit))
    return Walk(source_id, destination_id, tuple(steps), 0 if receiver is not None else tunnel)


_Found = tuple[PolicyKey, PolicyEntry]


def _side(
    entries: Mapping[bytes, bytes], identity: int, shapes: int, way: int, protocol: int, port: int
) -> _Found | None:
    """Return one side's first hit, longest shape first."""
    for shape in range(SHAPES - 1, -1, -1):
        if not shapes >> shape & 1:
            continue
        key = PolicyKey(
            identity=identity,
            dport=port & _MASKS[shape],
            protocol=protocol if shape else 0,
            shape=shape | (PolicyShape.EGRESS if way else 0),
        )
        value = entries.get(key.pack())
        if value is not None:
            return key, PolicyEntry.unpack(value)
    return None


def _shape(key: PolicyKey) -> int:
    return key.shape & ~PolicyShape.EGRESS


def _hit(verdict: int, found: _Found) -> Hit:
    key, entry = found
    return Hit(int(verdict), entry.rule_id, _shape(key), True, key, entry)
