"""Policy on a packet's way: verdicts, their events, modes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from bench.frames import tcp, udp
from bench.testnode import (
    EGRESS,
    INGRESS,
    PEER4,
    PEER6,
    REDIRECT,
    REMOTE4,
    REMOTE6,
    REMOTE_ID,
    SHOT,
    A,
    Addresses,
    B,
    Node,
    mapped,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, EventType, PolicyEntry, PolicyFlags, PolicyKey
from fimbria.datapath.abi import PolicyPrecedence as Precedence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.testnode import Outcome

pytestmark = pytest.mark.root


def ports(identity: int, port: int, *, egress: bool, protocol: int = 6) -> PolicyKey:
    """The key of a rule for one port."""
    shape = abi.PolicyShape.PORT | (abi.PolicyShape.EGRESS if egress else 0)
    return PolicyKey(identity, port, protocol, shape)


def deny(rule: int) -> PolicyEntry:
    return PolicyEntry(rule, flags=abi.PolicyEntryFlags.DENY, precedence=Precedence.DENY)


def verdicts(out: Outcome) -> list[abi.Event]:
    """The verdict events that a packet caused."""
    return [e for e in out.events if e.type == EventType.POLICY_VERDICT]


def only(entries: Iterable[abi.CtEntry]) -> abi.CtEntry:
    (entry,) = entries
    return entry


def test_policy_drop_says_why(node: Node, at: Addresses) -> None:
    """A drop by policy names reason, identities, endpoint, direction and policy in its event."""
    node.policy(3, EGRESS)
    node.assign(A, 3)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    (event,) = out.events
    assert (event.type, event.subtype) == (EventType.DROP, DropReason.POLICY)
    assert (event.source, event.direction) == (A.lxc_id, abi.Direction.EGRESS)
    assert (event.src_label, event.dst_label) == (A.identity, REMOTE_ID)
    assert (event.policy_id, event.rule) == (3, abi.RuleIds.NONE)
    assert (event.saddr, event.daddr) == (mapped(at.own), mapped(at.remote))
    assert (event.sport, event.dport, event.protocol) == (4000, 80, 6)
    assert bool(event.flags & abi.EventFlags.IPV6) == (":" in at.own)
    assert event.file == abi.SourceFile.JUDGEMENT
    assert event.line
    assert node.metric(DropReason.POLICY, abi.Direction.EGRESS) == 1
    assert not node.entries()


def test_receivers_policy_is_judged_on_the_way(node: Node, at: Addresses) -> None:
    """A node-local flow needs the receiver's ingress policy too; its drop is the receiver's."""
    node.policy(3, INGRESS, {ports(A.identity, 80, egress=False): PolicyEntry(rule_id=20)})
    node.assign(B, 3)
    out = node.run("from_container", tcp(at.own, at.local, dport=81, pod=A), A.device)
    (event,) = out.events
    assert event.subtype == DropReason.POLICY
    assert (event.source, event.direction) == (B.lxc_id, abi.Direction.INGRESS)
    assert node.metric(DropReason.POLICY, abi.Direction.INGRESS) == 1
    out = node.run("from_container", tcp(at.own, at.local, dport=80, pod=A), A.device)
    assert out.verdict == REDIRECT
    verdict = next(e for e in out.events if e.type == EventType.POLICY_VERDICT)
    assert (verdict.rule, verdict.source, verdict.direction) == (
        20,
        B.lxc_id,
        abi.Direction.INGRESS,
    )
    assert verdict.match == abi.PolicyMatch.L3_L4
    assert only(node.entries().values()).rule_ingress == 20


def test_deny_wins(node: Node, at: Addresses) -> None:
    """A deny drops as 181 and names its rule, whatever allows beside it."""
    node.policy(
        3,
        EGRESS,
        {
            ports(REMOTE_ID, 80, egress=True): PolicyEntry(20, precedence=Precedence.ALLOW),
            PolicyKey(0, 0, 0, 0x80): deny(21),
        },
    )
    node.assign(A, 3)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    assert out.drop == DropReason.POLICY_DENY
    assert out.events[0].rule == 21


def test_audit_mode_lets_pass_and_says_so(node: Node) -> None:
    """With audit mode a denied flow passes, and its verdict event is marked."""
    node.policy(3, EGRESS)
    node.assign(A, 3, flags=abi.PolicyRefFlags.AUDIT)
    out = node.run("from_container", tcp(A.ip4, REMOTE4, pod=A), A.device)
    assert out.verdict == REDIRECT
    verdict = next(e for e in out.events if e.type == EventType.POLICY_VERDICT)
    assert verdict.flags & abi.EventFlags.AUDITED


def test_tiers_on_the_way(node: Node, at: Addresses) -> None:
    """The event names the rule of the tier that decided, and that tier's policy."""
    node.policy(5, EGRESS | PolicyFlags.EGRESS_OPEN, {PolicyKey(0, 81, 6, 0x80 | 17): deny(40)})
    node.policy(4, EGRESS | PolicyFlags.EGRESS_OPEN, {}, next_id=5)
    passed = PolicyEntry(20, flags=abi.PolicyEntryFlags.PASS, precedence=7)
    admin = {PolicyKey(0, 81, 6, 0x80 | 17): passed, PolicyKey(0, 82, 6, 0x80 | 17): deny(21)}
    node.policy(3, EGRESS | PolicyFlags.EGRESS_OPEN, admin, next_id=4)
    node.assign(A, 3)
    outs = [
        node.run("from_container", tcp(at.own, at.remote, dport=port, pod=A), A.device)
        for port in (80, 81, 82)
    ]
    assert [out.drop for out in outs] == [None, DropReason.POLICY_DENY, DropReason.POLICY_DENY]
    assert [(out.events[0].rule, out.events[0].policy_id) for out in outs] == [
        (abi.RuleIds.ALLOW_ALL, 5),
        (40, 5),
        (21, 3),
    ]


def test_redirect_without_a_proxy(node: Node, at: Addresses) -> None:
    """What goes to a proxy is dropped, as long as there is none; the verdict names the port."""
    to_proxy = PolicyEntry(20, proxy_port=10_080, precedence=Precedence.REDIRECT)
    node.policy(3, EGRESS, {ports(REMOTE_ID, 80, egress=True): to_proxy})
    node.assign(A, 3)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.NO_PROXY)
    (verdict,) = verdicts(out)
    assert (verdict.verdict, verdict.rule) == (10_080, 20)
    dropped = out.events[-1]
    assert (dropped.verdict, dropped.rule) == (-DropReason.NO_PROXY, 20)
    assert node.metric(DropReason.NO_PROXY, abi.Direction.EGRESS) == 1
    assert not node.entries()
    node.assign(A, 3, flags=abi.PolicyRefFlags.AUDIT)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    assert out.verdict == REDIRECT
    assert verdicts(out)[0].flags & abi.EventFlags.AUDITED


def test_shadow_that_would_deny(node: Node, at: Addresses) -> None:
    """A flow that the shadow policy denies passes; an event and a count say what it would do."""
    node.policy(3, EGRESS, {ports(REMOTE_ID, 80, egress=True): PolicyEntry(20)})
    node.policy(4, EGRESS, {ports(REMOTE_ID, 80, egress=True): deny(30)})
    node.assign(A, 3, shadow_id=4)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    assert out.verdict == REDIRECT
    shadow, real = verdicts(out)
    assert shadow.flags & abi.EventFlags.SHADOW
    assert (shadow.verdict, shadow.rule, shadow.policy_id) == (-DropReason.POLICY_DENY, 30, 4)
    assert (shadow.source, shadow.direction) == (A.lxc_id, abi.Direction.EGRESS)
    assert not real.flags & abi.EventFlags.SHADOW
    assert (real.verdict, real.rule, real.policy_id) == (0, 20, 3)
    again = node.run("from_container", tcp(at.own, at.remote, "A", pod=A), A.device)
    assert not verdicts(again)
    assert node.metric(abi.MetricsReason.DENIED, abi.Direction.EGRESS) == 1
    assert node.metric(abi.MetricsReason.ALLOWED, abi.Direction.EGRESS) == 0


def test_shadow_that_would_allow(node: Node, at: Addresses) -> None:
    """A packet that the shadow policy allows is dropped all the same, and both are reported."""
    node.policy(3, INGRESS)
    node.policy(4, INGRESS, {ports(A.identity, 80, egress=False): PolicyEntry(30)})
    node.assign(B, 3, shadow_id=4)
    out = node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert out.drop == DropReason.POLICY
    (shadow,) = verdicts(out)
    assert shadow.flags & abi.EventFlags.SHADOW
    assert (shadow.verdict, shadow.rule, shadow.policy_id) == (0, 30, 4)
    assert (out.events[-1].rule, out.events[-1].policy_id) == (0, 3)
    assert not out.events[-1].flags & abi.EventFlags.SHADOW
    assert node.metric(abi.MetricsReason.ALLOWED, abi.Direction.INGRESS) == 1


def test_shadow_that_agrees(node: Node) -> None:
    """Where both say the same, nothing is said about the shadow, however it came to it."""
    node.policy(3, EGRESS, {PolicyKey(0, 0, 0, 0x80): PolicyEntry(20)})
    node.policy(4, EGRESS, {ports(REMOTE_ID, 80, egress=True): PolicyEntry(30)})
    node.assign(A, 3, shadow_id=4)
    out = node.run("from_container", tcp(A.ip4, REMOTE4, pod=A), A.device)
    assert [e.rule for e in verdicts(out)] == [20]
    out = node.run("from_container", tcp(A.ip4, REMOTE4, dport=81, pod=A), A.device)
    assert [e.verdict for e in verdicts(out)] == [-DropReason.POLICY, 0]


def test_fallback_after_its_time(node: Node) -> None:
    """Once its time is over the policy before a change holds again, whatever the agent does."""
    node.policy(3, EGRESS, {PolicyKey(0, 0, 0, 0x80): PolicyEntry(20)})
    node.policy(4, EGRESS)
    assert node.run("from_container", tcp(A.ip4, B.ip4, sport=9, pod=A), A.device).drop is None
    now = only(node.entries().values()).created

    def drop(policy: int, fallback: int, until: int) -> int | None:
        node.assign(A, policy, fallback_id=fallback, until=until & 0xFFFFFFFF or 1)
        packet = udp(A.ip4, REMOTE4, sport=next(source), pod=A)
        return node.run("from_container", packet, A.device).drop

    source = iter(range(1000, 2000))
    hour = 3600 * int(node.constants["cfg_hz"])
    assert drop(3, 4, now + hour) is None
    assert drop(3, 4, now - 1) == DropReason.POLICY
    assert drop(4, 3, now + hour) == DropReason.POLICY
    assert drop(4, 3, now - hour) is None
    node.assign(A, 3, fallback_id=4, until=0)
    assert node.run("from_container", udp(A.ip4, REMOTE4, pod=A), A.device).drop is None


def test_a_prefix_sees_the_cluster_where_asked_to(at: Addresses) -> None:
    """With policy-cidr-match-mode an entry for a prefix matches a node's, or a pod's, address."""
    peer, pods = (PEER6, "fd00::/16") if ":" in at.own else (PEER4, "10.0.0.0/8")
    found: dict[str, list[int | None]] = {}
    for mode in ("cfg_cidr_nodes", "cfg_cidr_pods", "cfg_ipv4"):
        node = Node({mode: 1})
        try:
            node.cidr(pods, 0x01000001)
            node.cidr(peer, 0x01000002)
            node.cidr("::/0" if ":" in at.own else "0.0.0.0/0", 0x01000003)
            keys = [ports(identity, 80, egress=True) for identity in (0x01000001, 0x01000002)]
            node.policy(3, EGRESS, dict.fromkeys(keys, PolicyEntry(20)))
            node.assign(A, 3)
            found[mode] = [
                node.run("from_container", tcp(at.own, other, pod=A), A.device).drop
                for other in (peer, at.remote, at.local, at.world)
            ]
        finally:
            node.close()
    dropped = DropReason.POLICY
    assert found == {
        "cfg_cidr_nodes": [None, dropped, dropped, dropped],
        "cfg_cidr_pods": [dropped, None, None, dropped],
        "cfg_ipv4": [dropped] * 4,
    }


def test_replies_are_judged_by_the_openers_prefix(at: Addresses) -> None:
    """A prefix that is taken out of a rule ends its flows at their next packet, even a reply."""
    peer, pod = (PEER6, B.ip6) if ":" in at.own else (PEER4, B.ip4)
    node = Node({"cfg_tunnel": 0, "cfg_cidr_nodes": 1})
    try:
        node.cidr(peer, 0x01000001)
        entries = {ports(0x01000001, 80, egress=False): PolicyEntry(20)}
        node.policy(3, INGRESS, entries)
        node.assign(B, 3)
        reply = tcp(pod, peer, "A", sport=80, dport=4000, pod=B)
        assert node.run("from_netdev", tcp(peer, pod), "eth0").drop is None
        node.set_revision(2)
        assert node.run("from_container", reply, B.device).drop is None
        node.policy(4, INGRESS)
        node.assign(B, 4)
        node.set_revision(3)
        for _ in range(2):
            assert node.run("from_container", reply, B.device).drop == DropReason.POLICY
    finally:
        node.close()


def test_replies_are_judged_by_what_the_world_is_now(native: Node, at: Addresses) -> None:
    """A prefix that a new rule names concerns flows that were opened when it had no identity."""
    pod = B.ip6 if ":" in at.own else B.ip4
    native.policy(3, INGRESS, {PolicyKey(0, 0, 0, 0): PolicyEntry(20)})
    native.assign(B, 3)
    assert native.run("from_netdev", tcp(at.world, pod), "eth0").drop is None
    native.ipcache(at.world, 0x01000001)
    native.policy(
        4, INGRESS, {PolicyKey(0, 0, 0, 0): PolicyEntry(20), PolicyKey(0x01000001): deny(21)}
    )
    native.assign(B, 4)
    native.set_revision(2)
    reply = tcp(pod, at.world, "A", sport=80, dport=4000, pod=B)
    out = native.run("from_container", reply, B.device)
    assert (out.drop, out.events[-1].rule) == (DropReason.POLICY_DENY, 21)


def test_local_identities_stay_on_their_node(node: Node, at: Addresses) -> None:
    """Prefixes travel as world and nodes as remote-node, and are looked up where they arrive."""
    sent: list[int] = []
    for identity in (0x01000001, 0x02000001, abi.Identity.WORLD_IPV6, 300):
        node.add_pod(dataclasses.replace(A, identity=identity))
        out = node.run("from_container_hop", tcp(at.own, at.remote, pod=A), A.device)
        assert out.verdict == REDIRECT
        sent.append(out.cb(0))
        node.set_revision(2 + len(sent))
    assert sent == [abi.Identity.WORLD, abi.Identity.REMOTE_NODE, abi.Identity.WORLD, 300]

    local = B.ip6 if ":" in at.own else B.ip4
    six = ":" in at.own
    world = abi.Identity.WORLD_IPV6 if six else abi.Identity.WORLD_IPV4
    peer, pod = (PEER6, REMOTE6) if six else (PEER4, REMOTE4)
    node.policy(3, INGRESS)
    node.assign(B, 3)

    def source(address: str, vni: int) -> int:
        packet = tcp(address, local)
        out = node.run("from_overlay_hop", packet, "cilium_vxlan", vni=vni, outer=PEER4)
        assert out.drop == DropReason.POLICY
        return out.events[0].src_label

    assert source(at.world, abi.Identity.WORLD) == world
    node.ipcache("2001:db8::/32" if six else "198.51.100.0/24", 0x01000001)
    assert source(at.world, abi.Identity.WORLD) == 0x01000001
    assert source(peer, abi.Identity.REMOTE_NODE) == abi.Identity.REMOTE_NODE
    node.ipcache(peer, 0x02000009)
    assert source(peer, abi.Identity.REMOTE_NODE) == 0x02000009
    assert source(pod, abi.Identity.WORLD) == world, "the sender's world is nobody's pod"
    assert source(pod, abi.Identity.REMOTE_NODE) == abi.Identity.REMOTE_NODE


def test_locked_endpoint(node: Node) -> None:
    """An endpoint that waits for its first policy neither sends nor receives."""
    node.policy(abi.PolicyIds.LOCKED, EGRESS | INGRESS)
    node.assign(A, abi.PolicyIds.LOCKED)
    assert node.run("from_container", tcp(A.ip4, B.ip4, pod=A), A.device).drop == 133
    assert node.run("from_container", tcp(B.ip4, A.ip4, pod=B), B.device).drop == 133
