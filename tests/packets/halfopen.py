"""Connections between A and B, and in which table they live."""

from __future__ import annotations

from bench.frames import tcp
from bench.testnode import EGRESS, INGRESS, A, Addresses, B, Node
from fimbria.agent.ctgc import expired
from fimbria.datapath import abi
from fimbria.datapath.abi import PolicyEntry, PolicyKey
from fimbria.kernel.clock import jiffies

ESTABLISHED, HALF_OPEN = "cilium_ct", "cilium_ct_new"
FROM_B = 20  # the rule that lets A open connections to B


def where(node: Node) -> tuple[int, int]:
    """Entries that are established, and half-open ones; not those whose time is over."""
    return len(current(node, ESTABLISHED)), len(current(node, HALF_OPEN))


def current(node: Node, table: str) -> list[abi.CtEntry]:
    """A table's entries whose time is not over."""
    values = node.maps[table].items().values()
    return [abi.CtEntry.unpack(value) for value in values if not expired(value, jiffies())]


def allow(node: Node, protocol: int = 6, port: int = 80) -> None:
    """A may open to B, nothing else; B's policy is the same from the other end."""
    for policy, pod, peer, side in ((3, A, B, EGRESS), (4, B, A, INGRESS)):
        shape = abi.PolicyShape.PORT | (abi.PolicyShape.EGRESS if side == EGRESS else 0)
        key = PolicyKey(peer.identity, port, protocol, shape)
        node.policy(policy, EGRESS | INGRESS, {key: PolicyEntry(rule_id=FROM_B)})
        node.assign(pod, policy)


def decisions(node: Node) -> int:
    """How often the rule has decided."""
    values = node.maps["cilium_rule_stats"].get_percpu(FROM_B.to_bytes(4, "little")) or []
    return sum(abi.MetricsValue.unpack(value).count for value in values)


def establish(node: Node, at: Addresses, port: int = 4000) -> None:
    """The three packets that open a TCP connection."""
    syn = tcp(at.own, at.local, sport=port, pod=A)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=port, pod=B)
    node.run("from_container", syn, A.device)
    node.run("from_container", answer, B.device)
    node.run("from_container", tcp(at.own, at.local, "A", sport=port, pod=A), A.device)


def expire(node: Node) -> None:
    """Let the time of the one established connection be over."""
    ((key, entry),) = node.entries(ESTABLISHED).items()
    over = entry._replace(expires=(entry.created - 1000) & 0xFFFFFFFF)
    node.maps[ESTABLISHED].put(key.pack(), over.pack())
