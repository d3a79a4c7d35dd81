"""Tiers, redirects, audited policies, trials and the node: what each endpoint's reference leads to.

Where a packet's fate is asked for, it is looked up in the maps' bytes.
"""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.compile.delta import POLICY_REF, Desired
from fimbria.compile.endpoints import ref_key
from fimbria.compile.ids import (
    BUILT_IN,
    PROXY_FIRST,
    PROXY_LIMIT,
    RULE_FIRST,
    RULE_LIMIT,
    Ids,
)
from fimbria.compile.node import Compiler, compile_node
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, Trial
from fimbria.datapath.abi import (
    Direction,
    EndpointIds,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyIds,
    PolicyInfo,
    PolicyPrecedence,
    PolicyRef,
    PolicyRefFlags,
    RuleIds,
)
from fimbria.datapath.lookup import Asked, Hit, policy_lookup
from fimbria.model.policy import AUDIT_ANNOTATION, Policy, PolicyKey
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import Mode

NS = "k8s:io.kubernetes.pod.namespace=default"
WEB, DB = 300, 301
POD = 5
NOTHING: list[dict[str, Any]] = [{}]
"""A section that allows nothing."""


def state(**config: Any) -> ClusterState:
    """One local pod `web`, and an identity `db`."""
    found = ClusterState("one", NodeConfig(**config))
    found.identities.put(WEB, ("k8s:app=web", NS))
    found.identities.put(DB, ("k8s:app=db", NS))
    ip = bytes([172, 18, 0, 1])
    found.nodes.put("one", Node("one", (ip,), labels=("node:role=edge",)))
    mac = bytes(6)
    row = LocalEndpoint(POD, 42, mac, mac, bytes([10, 0, 1, 7]), None, WEB)
    found.local.put(POD, row)
    return found


def cnp(name: str, *, audit: bool = False, **spec: Any) -> Policy:
    """A policy about `web`."""
    return parse_policy(
        {
            "kind": "CiliumNetworkPolicy",
            "metadata": {
                "name": name,
                "namespace": "default",
                "annotations": {AUDIT_ANNOTATION: "true"} if audit else {},
            },
            "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, **spec},
        }
    )


def tier(name: str, tier: str, priority: int, *rules: tuple[str, int | None]) -> Policy:
    """A ClusterNetworkPolicy about `web` with ingress rules from `db`: action and TCP port."""
    return parse_policy(
        {
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name},
            "spec": {
                "tier": tier,
                "priority": priority,
                "subject": {"pods": {"podSelector": {"matchLabels": {"app": "web"}}}},
                "ingress": [
                    {
                        "action": action,
                        "from": [{"pods": {"podSelector": {"matchLabels": {"app": "db"}}}}],
                        **({"ports": [{"portNumber": {"port": port}}]} if port else {}),
                    }
                    for action, port in rules
                ],
            },
        }
    )


def allow_db(name: str, *ports: str, audit: bool = False, **spec: Any) -> Policy:
    """A policy that lets `db` reach ports of `web`."""
    to = [{"ports": [{"port": port, "protocol": "TCP"} for port in ports]}]
    rule = {"fromEndpoints": [{"matchLabels": {"app": "db"}}], "toPorts": to}
    return cnp(name, audit=audit, ingress=[rule], **spec)


def put(target: ClusterState, *policies: Policy) -> None:
    for policy in policies:
        assert policy.refusal is None
        target.policies.put(policy.key, policy)


def ref(desired: Desired, endpoint: int = POD) -> PolicyRef:
    return PolicyRef.unpack(desired.maps[POLICY_REF][ref_key(endpoint)])


def chain(desired: Desired, number: int) -> list[PolicyInfo]:
    """The policies that follow each other from `number` on."""
    found: list[PolicyInfo] = []
    while number not in BUILT_IN:
        found.append(PolicyInfo.unpack(desired.policies[number].info))
        number = found[-1].next_id
    return found


def ask(
    desired: Desired, port: int, peer: int = DB, number: int | None = None, way: str = "INGRESS"
) -> Hit:
    """Look up a TCP packet by the policy of `web`, or by a numbered one."""
    asked = Asked(peer, Direction[way], 6, port)
    found = ref(desired).policy_id if number is None else number
    return policy_lookup({**BUILT_IN, **desired.policies}, found, asked)


def test_without_policies_nothing_is_enforced() -> None:
    """No policy: no map."""
    desired = compile_node(state(), Ids())
    assert ref(desired) == PolicyRef()
    assert not desired.policies


def test_all_three_tiers() -> None:
    """Admin first, then ordinary policies, then the baseline; each map names the next."""
    cluster = state()
    put(cluster, tier("a", "Admin", 1, ("Deny", 1), ("Pass", 2), ("Accept", 3)))
    put(cluster, allow_db("n", "2", enableDefaultDeny={"ingress": False, "egress": False}))
    put(cluster, tier("b", "Baseline", 1, ("Deny", None)))
    desired = compile_node(cluster, Ids())
    infos = chain(desired, ref(desired).policy_id)
    assert [info.flags for info in infos] == [5, 5, 5]
    assert [ask(desired, port).allowed for port in (1, 2, 3, 4)] == [False, True, True, False]
    assert ask(desired, 4, peer=WEB).rule_id == RuleIds.ALLOW_ALL


def test_the_first_rule_decides() -> None:
    """In an ordered tier priorities, names and places rank; what is covered is left out."""
    cluster = state()
    put(cluster, tier("z", "Admin", 1, ("Accept", 80), ("Deny", None)))
    put(cluster, tier("a", "Admin", 2, ("Accept", 81), ("Deny", 80)))
    desired = compile_node(cluster, Ids())
    (policy,) = desired.policies.values()
    entries = [PolicyEntry.unpack(value) for value in policy.entries.values()]
    assert sorted(entry.precedence for entry in entries) == [3, 4]
    assert ask(desired, 80).allowed
    assert not ask(desired, 81).allowed


def test_a_pass_has_its_entry() -> None:
    """A rule that passes on is an entry with PASS, and stops the rules behind it."""
    cluster = state()
    put(cluster, tier("a", "Admin", 1, ("Pass", 80), ("Deny", None)))
    desired = compile_node(cluster, Ids())
    (policy,) = desired.policies.values()
    flags = {PolicyEntry.unpack(value).flags for value in policy.entries.values()}
    assert flags == {PolicyEntryFlags.PASS, PolicyEntryFlags.DENY}
    assert ask(desired, 80).allowed
    assert not ask(desired, 81).allowed


def test_nothing_follows_a_tier_that_decides_everything() -> None:
    """Behind ordinary policies that deny by default in both directions no baseline is kept."""
    cluster = state()
    put(cluster, tier("b", "Baseline", 1, ("Deny", None)))
    put(cluster, cnp("n", ingress=NOTHING, egress=NOTHING))
    desired = compile_node(cluster, Ids())
    assert len(desired.policies) == 1
    put(cluster, cnp("n", ingress=NOTHING))
    desired = compile_node(cluster, Ids())
    assert len(chain(desired, ref(desired).policy_id)) == 2


def test_equal_tiers_are_shared() -> None:
    """Units with other ordinary policies share the map of their baseline."""
    cluster = state()
    mac = bytes(6)
    row = LocalEndpoint(6, 43, mac, mac, bytes([10, 0, 1, 8]), None, WEB, (("http", 6, 80),))
    cluster.local.put(6, row)
    put(cluster, tier("b", "Baseline", 1, ("Deny", None)))
    put(cluster, allow_db("n", "http"))
    desired = compile_node(cluster, Ids())
    one, other = ref(desired).policy_id, ref(desired, 6).policy_id
    assert one != other
    assert len(desired.policies) == 3


def test_chains_survive_a_restart() -> None:
    """Maps that the kernel has are taken over with their links: nothing changes."""
    cluster = state()
    put(cluster, tier("a", "Admin", 1, ("Deny", 1)), allow_db("n", "2"))
    put(cluster, tier("b", "Baseline", 1, ("Deny", None)))
    old = compile_node(cluster, Ids())
    ids = Ids()
    for number, policy in sorted(old.policies.items(), reverse=True):
        ids.policies.adopt(number, policy)
    for table in cluster.tables():
        table.touch_all()
    new = compile_node(cluster, ids)
    assert (new.maps, new.policies) == (old.maps, old.policies)


def test_chains_are_in_use() -> None:
    """The numbers of all tiers are kept until nothing leads to them any more."""
    cluster = state()
    put(cluster, tier("a", "Admin", 1, ("Deny", 1)), tier("b", "Baseline", 1, ("Deny", None)))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    compiler.applied()
    assert compiler.policies.used() == compiler.desired().policies.keys()
    cluster.policies.replace({})
    delta = compiler.update()
    assert len(delta.unused) == 2
    assert not compiler.desired().policies


def redirect(name: str, *rules: dict[str, Any]) -> Policy:
    return cnp(name, ingress=[{"toPorts": [rule]} for rule in rules])


def test_redirects() -> None:
    """A rule with a parser gives a proxy port; it beats what only allows, a denial beats it."""
    http = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}}
    every = {"ports": [{"port": "1", "endPort": 1000, "protocol": "TCP"}]}
    cluster = state()
    put(cluster, redirect("n", http, every))
    desired = compile_node(cluster, Ids())
    hit = ask(desired, 80)
    assert hit.entry is not None
    assert hit.entry.precedence == PolicyPrecedence.REDIRECT
    assert PROXY_FIRST <= hit.entry.proxy_port < PROXY_LIMIT
    assert ask(desired, 81).entry == PolicyEntry(ask(desired, 81).rule_id, precedence=1)
    put(cluster, cnp("d", ingressDeny=[{"toPorts": [every]}]))
    assert not ask(compile_node(cluster, Ids()), 80).allowed


def test_proxy_ports_are_stable() -> None:
    """A port belongs to a direction and a parser as long as any rule wants it."""
    one, again = Ids().proxies, Ids().proxies
    first = one.port(Direction.INGRESS, "http")
    assert one.port(Direction.EGRESS, "http") != first
    assert again.port(Direction.INGRESS, "http") == first == one.port(Direction.INGRESS, "http")
    one.retain([])
    assert one.port(Direction.INGRESS, "http") == first


def test_the_node_passes_a_redirect_too() -> None:
    """The node's way to its pods is an allow of lowest precedence: denials take it away."""
    cluster = state()
    put(cluster, allow_db("n", "80"))
    assert ask(compile_node(cluster, Ids()), 80, peer=1).rule_id == RuleIds.ALLOW_LOCALHOST
    put(cluster, cnp("d", ingressDeny=[{"fromEntities": ["host"]}]))
    assert not ask(compile_node(cluster, Ids()), 80, peer=1).allowed


def test_audited_policies_are_judged_beside() -> None:
    """What an audited policy says is in the shadow policy only; without one there is none."""
    cluster = state()
    put(cluster, allow_db("n", "80"))
    assert ref(compile_node(cluster, Ids())).shadow_id == 0
    put(cluster, cnp("a", audit=True, ingressDeny=[{"fromEntities": ["all"]}]))
    desired = compile_node(cluster, Ids())
    assert ask(desired, 80).allowed
    assert not ask(desired, 80, number=ref(desired).shadow_id).allowed
    assert desired.policies.keys() == {ref(desired).policy_id, ref(desired).shadow_id}


def test_an_audited_policy_alone_enforces_nothing() -> None:
    """Selected by audited policies only: open, with a shadow that is not."""
    cluster = state()
    put(cluster, cnp("a", audit=True, ingress=NOTHING))
    desired = compile_node(cluster, Ids())
    assert ref(desired).policy_id == PolicyIds.NONE
    assert not ask(desired, 80, number=ref(desired).shadow_id).allowed


def test_audit_mode() -> None:
    """Audit mode of all endpoints or of one is a flag of the reference."""
    assert ref(compile_node(state(audit=True), Ids())).flags == PolicyRefFlags.AUDIT
    cluster = state()
    compiler = Compiler(cluster, Ids())
    compiler.update()
    mac = bytes(6)
    row = LocalEndpoint(POD, 42, mac, mac, bytes([10, 0, 1, 7]), None, WEB, audit=True)
    cluster.local.put(POD, row)
    assert compiler.update().maps[POLICY_REF] == {
        ref_key(POD): PolicyRef(flags=int(PolicyRefFlags.AUDIT)).pack()
    }


def test_a_trial_and_its_end() -> None:
    """The version on trial holds until its time, the one before after it; then it is as before."""
    cluster = state()
    put(cluster, allow_db("n", "80"))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    before = ref(compiler.desired())
    tried = allow_db("n", "81")
    cluster.trials.put(tried.key, Trial(tried, 4711))
    compiler.update()
    desired = compiler.desired()
    now = ref(desired)
    assert (now.fallback_id, now.until) == (before.policy_id, 4711)
    assert before.fallback_id == before.policy_id, "also to who has read `until` a moment ago"
    assert ask(desired, 81).allowed
    assert not ask(desired, 80).allowed
    assert compiler.policies.selecting(POD) == [(tried.key, "spec")]
    cluster.trials.delete(tried.key)
    compiler.update()
    assert ref(compiler.desired()) == before
    compiler.applied()
    assert compiler.policies.used() == {before.policy_id}


def test_trial_of_a_deletion_and_of_a_new_policy() -> None:
    """A trial can take a policy away, or bring one that there is not yet."""
    cluster = state()
    old, new = allow_db("old", "80"), allow_db("new", "81")
    put(cluster, old)
    cluster.trials.put(old.key, Trial(None, 9))
    desired = compile_node(cluster, Ids())
    assert ref(desired).policy_id == PolicyIds.NONE
    assert not ask(desired, 81, number=ref(desired).fallback_id).allowed
    cluster.trials.replace({new.key: Trial(new, 9)})
    for table in cluster.tables():
        table.touch_all()
    desired = compile_node(cluster, Ids())
    assert ask(desired, 81).allowed
    assert not ask(desired, 81, number=ref(desired).fallback_id).allowed


@pytest.mark.parametrize(("ends", "first"), [((5, 9), 5), ((0xFFFFFFF0, 3), 0xFFFFFFF0), ((0,), 1)])
def test_several_trials(ends: tuple[int, ...], first: int) -> None:
    """The first trial to end ends them all for an endpoint; jiffies wrap, and 0 would be never."""
    cluster = state()
    for number, end in enumerate(ends):
        policy = allow_db(f"p{number}", "80")
        cluster.trials.put(policy.key, Trial(policy, end))
    assert ref(compile_node(cluster, Ids())).until == first


def test_a_trial_elsewhere() -> None:
    """Whom neither version selects has no fallback."""
    cluster = state()
    other = cnp("other", endpointSelector={"matchLabels": {"app": "db"}}, ingress=NOTHING)
    cluster.trials.put(other.key, Trial(other, 9))
    assert ref(compile_node(cluster, Ids())) == PolicyRef()


def host_policy(**spec: Any) -> Policy:
    return parse_policy(
        {
            "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": "host"},
            "spec": {"nodeSelector": {"matchLabels": {"role": "edge"}}, **spec},
        }
    )


SSH = [{"ports": [{"port": "22", "protocol": "TCP"}]}]


def test_the_node_as_an_endpoint() -> None:
    """With the host firewall, policies with a nodeSelector are about the node, others never."""
    cluster = state(host_firewall=True, enforcement=Mode.ALWAYS)
    host = int(EndpointIds.HOST)
    put(cluster, cnp("n", ingress=NOTHING))
    assert ref(compile_node(cluster, Ids()), host) == PolicyRef()
    put(cluster, host_policy(ingress=[{"fromEntities": ["world"], "toPorts": SSH}]))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    desired = compiler.desired()
    number = ref(desired, host).policy_id
    assert ask(desired, 22, peer=2, number=number).allowed
    assert not ask(desired, 23, peer=2, number=number).allowed
    assert not ask(desired, 23, peer=1, number=number).allowed
    node = cluster.nodes["one"]
    cluster.nodes.put("one", Node("one", node.ipv4s, labels=("node:role=other",)))
    compiler.update()
    assert ref(compiler.desired(), host) == PolicyRef()


def test_without_the_host_firewall_no_policy_is_about_the_node() -> None:
    """Then there is no reference for it either."""
    cluster = state()
    put(cluster, host_policy(ingress=NOTHING))
    assert ref_key(EndpointIds.HOST) not in compile_node(cluster, Ids()).maps[POLICY_REF]


def test_what_does_not_fit_can_be_put_back() -> None:
    """Refused within the step: the objects are named with their sizes, and no byte has changed."""
    cluster = state(policy_map_max=8)
    put(cluster, allow_db("small", "80"), tier("b", "Baseline", 1, ("Deny", None)))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    compiler.applied()
    assert compiler.policies.sizes() == {(WEB, ()): (1, 2)}
    before = cluster.policies[allow_db("small").key]
    large = cnp("small", ingress=[{"toPorts": [{"ports": [{"port": "1", "endPort": 65534}]}]}])
    other = allow_db("other", "81")
    put(cluster, large)
    put(cluster, other)

    def admit(problems: Any) -> bool:
        for problem in problems:
            assert problem.policies == ((large.key, 90), (other.key, 1), (cluster_key, 1))
            assert "needs 92 entries, bpf-policy-map-max allows 8" in problem.reason
            assert compiler.policies.cost(large.key) == (0, 90)
            assert compiler.policies.cost(other.key) == (1, 1)
            cluster.policies.put(before.key, before)
            cluster.policies.delete(other.key)
        return bool(problems)

    cluster_key = tier("b", "Baseline", 1).key
    assert not compiler.update(admit)
    assert compiler.problems == []
    assert ask(compiler.desired(), 80).allowed


def test_without_rule_ids_a_policy_closes() -> None:
    """A policy of any tier whose rules get no number closes its subjects, a node's never."""
    cluster = state(host_firewall=True)
    put(cluster, tier("a", "Admin", 1, ("Accept", 80)))
    put(cluster, host_policy(ingress=[{"fromEntities": ["world"]}]))
    ids = Ids()
    taken = PolicyKey("NetworkPolicy", "other", "all")
    paths = [str(number) for number in range(RULE_LIMIT - RULE_FIRST)]
    ids.rules.assign(taken, paths)
    compiler = Compiler(cluster, ids)
    compiler.update()
    desired = compiler.desired()
    assert len(compiler.policies.refused) == 2
    assert not ask(desired, 80).allowed
    assert ask(desired, 80, peer=1).rule_id == RuleIds.ALLOW_LOCALHOST
    assert ref(desired, EndpointIds.HOST) == PolicyRef()
