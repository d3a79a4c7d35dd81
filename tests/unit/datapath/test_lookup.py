"""The lookup over exact bytes: sides, shapes, longest prefixes, and a packet's way."""

from __future__ import annotations

from fimbria.compile.ids import BUILT_IN, Ids
from fimbria.compile.node import compile_node
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, RemoteEndpoint
from fimbria.datapath.abi import (
    Direction,
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyInfo,
    PolicyKey,
)
from fimbria.datapath.lookup import ipcache_lookup, policy_lookup, walk
from fimbria.model.policy_parse import parse_policy

INFO = PolicyInfo(1, (1 << 17 | 1 << 14 | 1, 0), (1 << 17 | 1, 0)).pack()


def judge(entries: dict[PolicyKey, PolicyEntry], identity: int = 7, port: int = 80):
    rows = {key.pack(): entry.pack() for key, entry in entries.items()}
    return policy_lookup(INFO, rows, identity, Direction.INGRESS, 6, port)


def allow(rule: int) -> PolicyEntry:
    return PolicyEntry(rule)


def deny(rule: int) -> PolicyEntry:
    return PolicyEntry(rule, flags=PolicyEntryFlags.DENY)


def test_longest_shape_of_a_side_wins() -> None:
    """An exact port before a range, a range before everything."""
    entries = {
        PolicyKey(7, 80, 6, 17): allow(20),
        PolicyKey(7, 80, 6, 14): allow(21),
        PolicyKey(7, 0, 0, 0): allow(22),
    }
    assert [judge(entries, port=port).rule_id for port in (80, 87, 88)] == [20, 21, 22]


def test_sides_are_compared() -> None:
    """The longer shape decides, the peer's side at equal length; a deny on either side wins."""
    both = {PolicyKey(7, 0, 0, 0): allow(20), PolicyKey(0, 80, 6, 17): allow(21)}
    assert judge(both).rule_id == 21
    assert judge({**both, PolicyKey(7, 80, 6, 17): allow(22)}).rule_id == 22
    assert judge({**both, PolicyKey(7, 80, 6, 17): deny(23)}).verdict == -181
    assert (
        judge({PolicyKey(7, 80, 6, 17): allow(22), PolicyKey(0, 0, 0, 0): deny(24)}).rule_id == 24
    )


def test_nothing_matches() -> None:
    """What is enforced and not allowed is dropped; what is not enforced passes."""
    assert judge({}).verdict == -133
    assert policy_lookup(INFO, {}, 7, Direction.EGRESS, 6, 80).enforced is False


def test_longest_prefix() -> None:
    """The ipcache answers with the longest prefix of the right family."""

    def row(ip: bytes, bits: int, family: int, identity: int) -> tuple[bytes, bytes]:
        key = IpcacheKey(32 + bits, 0, family, ip.ljust(16, b"\0"))
        return key.pack(), IpcacheInfo(identity).pack()

    rows = dict(
        [
            row(bytes([10, 0, 0, 0]), 8, 1, 300),
            row(bytes([10, 1, 0, 0]), 16, 1, 301),
            row(bytes([10, 1, 2, 3]), 32, 1, 302),
            row(bytes([10]), 8, 2, 303),
        ]
    )
    found = [
        ipcache_lookup(rows, bytes(ip))
        for ip in ([10, 1, 2, 3], [10, 1, 2, 4], [10, 2, 0, 0], [10, *bytes(15)])
    ]
    assert [info and info.sec_identity for info in found] == [302, 301, 300, 303]
    assert ipcache_lookup(rows, bytes([11, 0, 0, 0])) is None


def test_walk() -> None:
    """A packet is judged where it leaves and where it arrives, and goes into the right tunnel."""
    state = ClusterState("one")
    names = "k8s:io.kubernetes.pod.namespace=default"
    for number, app in ((300, "web"), (301, "db"), (302, "far")):
        state.identities.put(number, (f"k8s:app={app}", names))
    web, db, far = bytes([10, 0, 1, 2]), bytes([10, 0, 1, 3]), bytes([10, 0, 2, 4])
    other = bytes([172, 18, 0, 2])
    state.nodes.put("two", Node("two", (other,), (), ("10.0.2.0/24",), other))
    state.local.put(1, LocalEndpoint(1, 11, bytes(6), bytes(6), web, None, 300))
    state.local.put(2, LocalEndpoint(2, 12, bytes(6), bytes(6), db, None, 301))
    state.remote.put(far, RemoteEndpoint(far, 302, other))
    policy = parse_policy(
        {
            "kind": "NetworkPolicy",
            "metadata": {"name": "db"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "db"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
            },
        }
    )
    state.policies.put(policy.key, policy)
    desired = compile_node(state, Ids())
    policies = {n: (p.info, p.entries) for n, p in {**BUILT_IN, **desired.policies}.items()}

    def way(source: bytes, destination: bytes):
        return walk(desired.maps, policies, source, destination, 6, 80)

    assert [(s.endpoint_id, s.direction) for s in way(web, db).steps] == [
        (1, Direction.EGRESS),
        (2, Direction.INGRESS),
    ]
    assert way(web, db).allowed
    assert not way(far, db).allowed
    assert way(db, far).allowed
    assert way(db, far).tunnel == int.from_bytes(other, "big")
    assert way(bytes([1, 1, 1, 1]), web).source == 2
