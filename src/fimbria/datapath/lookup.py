"""The second judge: what the C decides, in Python, over the exact bytes of the maps.

`policy_lookup` is bpf/policy.h step by step, tiers included; `walk` follows a packet from a pod of
this node, or to one, through endpoints, ipcache and policy. Nothing in here knows rules, labels or
objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fimbria.datapath.abi import (
    CidrInfo,
    Direction,
    DropReason,
    EndpointFlags,
    EndpointInfo,
    EndpointKey,
    Family,
    Identity,
    IdentityScope,
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyFlags,
    PolicyIds,
    PolicyInfo,
    PolicyKey,
    PolicyRef,
    PolicyShape,
    RuleIds,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.compile.ids import PolicyMap

SHAPES = 18
TIERS = 3
"""Policies that may follow each other."""
_MASKS = (0, 0, *(0xFFFF << (16 - bits) & 0xFFFF for bits in range(1, 17)))
_STATIC_BITS = 32
_WORLD = (Identity.WORLD, Identity.WORLD_IPV4, Identity.WORLD_IPV6)
_NODES = (Identity.HOST, Identity.REMOTE_NODE, Identity.KUBE_APISERVER)


@dataclass(frozen=True, slots=True)
class Hit:
    """The answer of one policy lookup; `key` and `entry` are None if no entry decided.

    `verdict` is 0 for allow, otherwise minus the drop reason. An entry with a proxy port allows as
    far as policy goes; the datapath drops what it redirects as long as no proxy listens.
    """

    verdict: int
    rule_id: int = int(RuleIds.NONE)
    shape: int = 0
    enforced: bool = True
    key: PolicyKey | None = None
    entry: PolicyEntry | None = None
    tier: int = int(PolicyIds.NONE)
    """The policy that decided, or the last that was asked."""

    @property
    def allowed(self) -> bool:
        """Return whether policy lets the packet pass."""
        return self.verdict == 0

    @property
    def proxy_port(self) -> int:
        """Return where the packet is redirected to, 0 for nowhere."""
        return self.entry.proxy_port if self.entry is not None and self.allowed else 0


class Asked(NamedTuple):
    """A packet as the policy of one of its ends sees it.

    `identity` is the peer's; `port` the destination port, for ICMP the type. `cidr` is the identity
    of the prefix that the peer's address is in, 0 where rules by CIDR see no more than `identity`.
    """

    identity: int
    direction: Direction
    protocol: int
    port: int
    cidr: int = 0


def policy_lookup(policies: Mapping[int, PolicyMap], policy_id: int, asked: Asked) -> Hit:
    """Judge a packet by a policy and those that follow it. `policies` are by policy id."""
    enforced, tier, following = False, policy_id, policy_id
    for _ in range(TIERS):
        tier = following
        policy = policies.get(tier)
        if policy is None:
            return Hit(-DropReason.EP_NOT_READY, enforced=enforced, tier=tier)
        info = PolicyInfo.unpack(policy.info)
        following = info.next_id
        if info.flags & asked.direction:
            enforced = True
            hit = _tier(policy.entries, info, asked, tier)
            if hit is not None:
                return hit
        if not following:
            rule = RuleIds.ALLOW_ALL if enforced else RuleIds.NONE
            return Hit(0, int(rule), enforced=enforced, tier=tier)
    return Hit(-DropReason.POLICY, enforced=enforced, tier=tier)


def endpoint_policy(maps: Mapping[str, Mapping[bytes, bytes]], endpoint_id: int) -> int:
    """Return the policy id that an endpoint refers to; NONE if there is no reference."""
    value = maps["cilium_policy_ref"].get(endpoint_id.to_bytes(4, "little"))
    return int(PolicyIds.NONE) if value is None else PolicyRef.unpack(value).policy_id


def ipcache_lookup(ipcache: Mapping[bytes, bytes], ip: bytes) -> IpcacheInfo | None:
    """Return the value of the longest prefix of a packed address; None if there is none."""
    value = _longest_prefix(ipcache, ip)
    return None if value is None else IpcacheInfo.unpack(value)


def cidr_lookup(
    cidrs: Mapping[bytes, bytes], identity: int, ip: bytes, *, nodes: bool, pods: bool
) -> int:
    """Return what rules by CIDR see of a peer in the cluster: its prefix's identity, or 0.

    `cidrs` is cilium_cidr, `identity` the peer's, `ip` its packed address; `nodes` and `pods` are
    policy-cidr-match-mode.
    """
    scope = identity & IdentityScope.MASK
    if not identity or identity in _WORLD or scope == IdentityScope.CIDR:
        return 0
    if not (nodes if identity in _NODES or scope == IdentityScope.NODE else pods):
        return 0
    value = _longest_prefix(cidrs, ip)
    return 0 if value is None else CidrInfo.unpack(value).identity


def endpoint_lookup(lxc: Mapping[bytes, bytes], ip: bytes) -> EndpointInfo | None:
    """Return what cilium_lxc says about a packed address."""
    family = Family.IPV4 if len(ip) == 4 else Family.IPV6
    value = lxc.get(EndpointKey(ip.ljust(16, b"\0"), family).pack())
    return None if value is None else EndpointInfo.unpack(value)


def address_identity(
    maps: Mapping[str, Mapping[bytes, bytes]], ip: bytes, *, dual_stack: bool
) -> int:
    """Return the identity of a packed address: an endpoint's of this node, or the ipcache's."""
    endpoint = endpoint_lookup(maps["cilium_lxc"], ip)
    if endpoint is not None:
        return endpoint.sec_id
    cached = ipcache_lookup(maps["cilium_ipcache"], ip)
    if cached is not None and cached.sec_identity not in (Identity.UNKNOWN, Identity.HOST):
        return cached.sec_identity
    if not dual_stack:
        return int(Identity.WORLD)
    return int(Identity.WORLD_IPV4 if len(ip) == 4 else Identity.WORLD_IPV6)


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
    policies: Mapping[int, PolicyMap],
    source: bytes,
    destination: bytes,
    protocol: int,
    port: int,
    *,
    dual_stack: bool = False,
    cidr_nodes: bool = False,
    cidr_pods: bool = False,
) -> Walk:
    """Follow a new flow's first packet through one node's maps.

    `policies` are by policy id. The node judges egress if the source is its pod and ingress if the
    destination is; it stops at the first denial. `cidr_nodes` and `cidr_pods` are
    policy-cidr-match-mode.
    """
    source_id = address_identity(maps, source, dual_stack=dual_stack)
    destination_id = address_identity(maps, destination, dual_stack=dual_stack)
    sender, receiver = (_pod(maps["cilium_lxc"], ip) for ip in (source, destination))
    steps: list[Step] = []
    for endpoint, direction, peer, ip in (
        (sender, Direction.EGRESS, destination_id, destination),
        (receiver, Direction.INGRESS, source_id, source),
    ):
        if endpoint is None or not all(step.hit.allowed for step in steps):
            continue
        number = endpoint_policy(maps, endpoint.lxc_id)
        cidr = 0
        if cidr_nodes or cidr_pods:
            cidr = cidr_lookup(maps["cilium_cidr"], peer, ip, nodes=cidr_nodes, pods=cidr_pods)
        hit = policy_lookup(policies, number, Asked(peer, direction, protocol, port, cidr))
        steps.append(Step(endpoint.lxc_id, direction, peer, number, hit))
    cached = None if receiver is not None else ipcache_lookup(maps["cilium_ipcache"], destination)
    tunnel = 0 if cached is None else cached.tunnel_endpoint
    return Walk(source_id, destination_id, tuple(steps), tunnel)


def _pod(lxc: Mapping[bytes, bytes], ip: bytes) -> EndpointInfo | None:
    """Return the pod of this node that has an address."""
    endpoint = endpoint_lookup(lxc, ip)
    return None if endpoint is None or endpoint.flags & EndpointFlags.HOST else endpoint


def _tier(entries: Mapping[bytes, bytes], info: PolicyInfo, asked: Asked, tier: int) -> Hit | None:
    """Return what one tier decides about a direction that it enforces; None: on to the next."""
    egress = asked.direction is Direction.EGRESS
    peer_shapes, any_shapes = info.peer_shapes[egress], info.any_shapes[egress]
    sides = [(asked.identity, peer_shapes), (asked.cidr, peer_shapes), (0, any_shapes)]
    if not asked.cidr:
        del sides[1]
    best, best_rank = None, (0, 0)
    for identity, shapes in sides:
        found = _side(entries, identity, shapes, asked)
        if found is None:
            continue
        rank = found[1].precedence, _shape(found[0]) + 1
        if rank > best_rank:
            best, best_rank = found, rank
    if best is None:
        is_open = info.flags & (PolicyFlags.EGRESS_OPEN if egress else PolicyFlags.INGRESS_OPEN)
        return None if is_open else Hit(-DropReason.POLICY, tier=tier)
    key, entry = best
    if entry.flags & PolicyEntryFlags.PASS:
        return None
    verdict = -DropReason.POLICY_DENY if entry.flags & PolicyEntryFlags.DENY else 0
    return Hit(verdict, entry.rule_id, _shape(key), True, key, entry, tier)


def _side(
    entries: Mapping[bytes, bytes], identity: int, shapes: int, asked: Asked
) -> tuple[PolicyKey, PolicyEntry] | None:
    """Return one side's first hit, longest shape first."""
    way = PolicyShape.EGRESS if asked.direction is Direction.EGRESS else 0
    for shape in range(SHAPES - 1, -1, -1):
        if not shapes >> shape & 1:
            continue
        key = PolicyKey(
            identity=identity,
            dport=asked.port & _MASKS[shape],
            protocol=asked.protocol if shape else 0,
            shape=shape | way,
        )
        value = entries.get(key.pack())
        if value is not None:
            return key, PolicyEntry.unpack(value)
    return None


def _longest_prefix(rows: Mapping[bytes, bytes], ip: bytes) -> bytes | None:
    family, bits = (Family.IPV4, 32) if len(ip) == 4 else (Family.IPV6, 128)
    number = int.from_bytes(ip, "big")
    for length in range(bits, -1, -1):
        masked = number >> (bits - length) << (bits - length)
        prefix = masked.to_bytes(len(ip), "big").ljust(16, b"\0")
        value = rows.get(IpcacheKey(_STATIC_BITS + length, 0, family, prefix).pack())
        if value is not None:
            return value
    return None


def _shape(key: PolicyKey) -> int:
    return key.shape & ~PolicyShape.EGRESS
