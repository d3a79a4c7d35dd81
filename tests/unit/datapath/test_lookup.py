"""The lookup over exact bytes: sides, shapes, longest prefixes, and a packet's way."""

from __future__ import annotations

from fimbria.compile.ids import BUILT_IN, Ids, PolicyMap
from fimbria.compile.node import compile_node
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, RemoteEndpoint
from fimbria.datapath.abi import (
    CidrInfo,
    Direction,
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyInfo,
    PolicyKey,
    PolicyPrecedence,
    RuleIds,
)
from fimbria.datapath.lookup import Asked, Hit, cidr_lookup, ipcache_lookup, policy_lookup, walk
from fimbria.model.policy_parse import parse_policy

INFO = PolicyInfo(1, (1 << 17 | 1 << 14 | 1, 0), (1 << 17 | 1, 0))


def tier(entries: dict[PolicyKey, PolicyEntry], flags: int = 1, next_id: int = 0) -> PolicyMap:
    rows = {key.pack(): entry.pack() for key, entry in entries.items()}
    return PolicyMap(INFO._replace(flags=flags, next_id=next_id).pack(), rows)


def ask(policies: dict[int, PolicyMap], identity: int = 7, port: int = 80, cidr: int = 0) -> Hit:
    return policy_lookup(policies, 3, Asked(identity, Direction.INGRESS, 6, port, cidr))


def judge(entries: dict[PolicyKey, PolicyEntry], identity: int = 7, port: int = 80, cidr: int = 0):
    return ask({3: tier(entries)}, identity, port, cidr)


def allow(rule: int) -> PolicyEntry:
    return PolicyEntry(rule, precedence=PolicyPrecedence.ALLOW)


def deny(rule: int, precedence: int = PolicyPrecedence.DENY) -> PolicyEntry:
    return PolicyEntry(rule, flags=PolicyEntryFlags.DENY, precedence=precedence)


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
    out = Asked(7, Direction.EGRESS, 6, 80)
    assert policy_lookup({3: tier({})}, 3, out).enforced is False
    assert judge({}).enforced


def test_redirect() -> None:
    """A redirect beats a longer allow, and its port is the answer's."""
    to_proxy = PolicyEntry(20, 10_080, precedence=PolicyPrecedence.REDIRECT)
    hit = judge({PolicyKey(0, 0, 0, 0): to_proxy, PolicyKey(7, 80, 6, 17): allow(21)})
    assert (hit.rule_id, hit.proxy_port) == (20, 10_080)
    assert judge({PolicyKey(7, 80, 6, 17): allow(21)}).proxy_port == 0


def test_prefix_is_a_side_of_its_own() -> None:
    """At equal length the peer's entry comes before its prefix's, and that one before anyone's."""
    entries = {PolicyKey(9, 80, 6, 17): allow(20), PolicyKey(0, 80, 6, 17): allow(21)}
    assert judge(entries, cidr=9).rule_id == 20
    assert judge(entries).rule_id == 21
    assert judge({**entries, PolicyKey(7, 80, 6, 17): allow(22)}, cidr=9).rule_id == 22


def test_tiers() -> None:
    """What an open tier misses, or passes on, the next one decides; past the last, all may pass."""
    admin = {
        PolicyKey(7, 80, 6, 17): deny(20, 9),
        PolicyKey(8, 80, 6, 17): PolicyEntry(21, 0, PolicyEntryFlags.PASS, precedence=8),
        PolicyKey(0, 80, 6, 17): deny(22, 7),
    }
    policies = {3: tier(admin, 5, 4), 4: tier({PolicyKey(7, 0, 0, 0): allow(30)}, 5)}
    found = [ask(policies, identity, port) for identity, port in ((7, 80), (8, 80), (9, 80))]
    assert [(hit.verdict, hit.rule_id, hit.tier) for hit in found] == [
        (-181, 20, 3),
        (0, RuleIds.ALLOW_ALL, 4),
        (-181, 22, 3),
    ]
    assert [ask(policies, identity, 81).rule_id for identity in (7, 8)] == [30, RuleIds.ALLOW_ALL]
    assert ask({3: tier({}, 5, 3)}).verdict == -133


def test_prefix_of_a_peer_in_the_cluster() -> None:
    """Only peers that policy-cidr-match-mode speaks of have a prefix; the world never has one."""
    cidrs = {
        IpcacheKey(32 + 8, 0, 1, bytes([10]).ljust(16, b"\0")).pack(): CidrInfo(0x01000007).pack()
    }
    found = {
        (identity, nodes, pods): cidr_lookup(cidrs, identity, bytes(ip), nodes=nodes, pods=pods)
        for identity, ip in (
            (1, [10, 0, 0, 1]), (7, [10, 0, 0, 1]), (0x02000001, [10, 0, 0, 2]),
            (300, [10, 0, 0, 3]), (5, [10, 0, 0, 3]), (6, [11, 0, 0, 1]),
            (2, [10, 9, 9, 9]), (0x01000007, [10, 9, 9, 9]),
        )
        for nodes, pods in ((True, False), (False, True))
    }  # fmt: skip
    assert {key for key, identity in found.items() if identity} == {
        (1, True, False), (7, True, False), (0x02000001, True, False),
        (300, False, True), (5, False, True),
    }  # fmt: skip


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
    policies = {**BUILT_IN, **desired.policies}

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
