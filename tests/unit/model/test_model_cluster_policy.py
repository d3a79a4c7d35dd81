"""ClusterNetworkPolicy: tiers, order, actions; what is read and what is refused."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.datapath.abi import Direction
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Cidr, Fqdn, prefix
from fimbria.model.policy import Action, Tier
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import End, Question, Reason, verdict

if TYPE_CHECKING:
    from fimbria.model.policy import Policy


def pod(app: str, namespace: str, env: str) -> End:
    return End(300, LabelSet((
        f"k8s:app={app}", f"k8s:io.cilium.k8s.namespace.labels.env={env}",
        f"k8s:io.kubernetes.pod.namespace={namespace}",
    )), frozenset({("http", 6, 80)}))  # fmt: skip


WEB, DB = pod("web", "red", "prod"), pod("db", "blue", "test")
TEST = {"matchLabels": {"env": "test"}}
PROD = {"matchLabels": {"env": "prod"}}
TCP_81 = {"tcp": {"destinationPort": {"number": 81}}}
SPEC: dict[str, Any] = {
    "tier": "Admin", "priority": 10, "subject": {"namespaces": PROD},
    "ingress": [{"action": "Deny", "from": [{"namespaces": TEST}]}],
}  # fmt: skip


def cnp(name: str = "p", **fields: Any) -> Policy:
    return parse_policy({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name, "namespace": "ignored"}, "spec": {**SPEC, **fields},
    })  # fmt: skip


def judge(*policies: Policy, port: int = 80, direction: Direction = Direction.INGRESS) -> Reason:
    asked = Question(WEB, DB, direction, 6, port)
    return verdict(policies, asked).reason


def rule(action: str, **fields: Any) -> Any:
    return {"action": action, "from": [{"namespaces": TEST}], **fields}


def test_an_object() -> None:
    """Clusterwide; a direction with rules is judged and left open, the other is not said."""
    policy = cnp()
    assert policy.refusal is None
    assert policy.key == ("ClusterNetworkPolicy", "", "p")
    assert (policy.tier, policy.priority) == (Tier.ADMIN, 10)
    (spec,) = policy.specs
    assert (spec.path, spec.ingress, spec.egress, spec.host) == ("spec", False, None, False)
    assert [(one.path, one.action) for one in spec.rules] == [("spec.ingress[0]", Action.DENY)]
    assert judge(policy) is Reason.DENY_RULE
    assert cnp(tier="Baseline", priority=0).tier is Tier.BASELINE
    nothing = cnp(ingress=[])
    assert nothing.refusal is None
    assert (nothing.specs[0].ingress, nothing.specs[0].egress) == (None, None)


def test_order() -> None:
    """By priority, then by name, then by place; Pass leads out of the tier."""
    accept, deny = [rule("Accept")], [rule("Deny")]
    assert judge(cnp("a", priority=2, ingress=accept), cnp("b", priority=1)) is Reason.DENY_RULE
    assert judge(cnp("a", ingress=accept), cnp("b")) is Reason.ALLOW_RULE
    assert judge(cnp(ingress=accept + deny)) is Reason.ALLOW_RULE
    ordinary = parse_policy({"kind": "NetworkPolicy", "metadata": {"name": "n", "namespace": "red"},
                             "spec": {"podSelector": {}}})  # fmt: skip
    assert judge(cnp(ingress=accept), ordinary) is Reason.ALLOW_RULE
    assert judge(cnp(ingress=[rule("Pass"), *accept]), ordinary) is Reason.DEFAULT_DENY
    base = cnp(tier="Baseline", ingress=deny)
    assert judge(base, cnp(ingress=[rule("Pass")])) is Reason.DENY_RULE
    assert judge(base, ordinary) is Reason.DEFAULT_DENY


def test_nothing_decides() -> None:
    """Whom a tier asks, without a rule that matches, is selected and not denied by default."""
    passing = cnp(ingress=[rule("Pass")])
    for tier in ("Admin", "Baseline"):
        policy = cnp(tier=tier, ingress=[rule("Deny", protocols=[TCP_81])])
        assert judge(policy) is Reason.NO_DEFAULT_DENY
        assert judge(policy, passing) is Reason.NO_DEFAULT_DENY
        assert judge(policy, direction=Direction.EGRESS) is Reason.NO_POLICY
    assert judge(cnp(tier="Baseline", ingress=[rule("Pass"), rule("Deny")])) is (
        Reason.NO_DEFAULT_DENY
    )


@pytest.mark.parametrize(
    ("subject", "selected"),
    [
        ({"namespaces": {}}, True),
        ({"namespaces": PROD}, True),
        ({"namespaces": TEST}, False),
        ({"pods": {"podSelector": {}}}, True),
        ({"pods": {"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": PROD}},
         True),
        ({"pods": {"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": TEST}},
         False),
        ({"pods": {"podSelector": {"matchLabels": {"app": "db"}}}}, False),
    ],
)  # fmt: skip
def test_subjects_and_peers(subject: Any, selected: bool) -> None:
    """Namespaces, or pods in namespaces; as subject and as peer; nodes and the world never."""
    assert (judge(cnp(subject=subject)) is Reason.DENY_RULE) is selected
    egress = [{"action": "Deny", "to": [subject]}]
    policy = cnp(subject={"namespaces": {}}, ingress=[], egress=egress)
    for peer, found in ((WEB, selected), (End(2, LabelSet(("reserved:world",))), False)):
        asked = Question(DB, peer, Direction.EGRESS, 6, 80)
        assert (verdict([policy], asked).reason is Reason.DENY_RULE) is found


@pytest.mark.parametrize(
    ("ports", "matched"),
    [
        ({"protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}, {80}),
        ({"protocols": [{"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}}]},
         {80, 81}),
        ({"protocols": [{"udp": {"destinationPort": {"number": 80}}}]}, set[int]()),
        ({"protocols": [{"destinationNamedPort": "http"}]}, {80}),
        ({"protocols": [{"sctp": {"destinationPort": {"number": 80}}},
                        {"tcp": {"destinationPort": {"number": 81}}}]}, {81}),
        ({"ports": [{"portNumber": {"protocol": "TCP", "port": 80}}]}, {80}),
        ({"ports": [{"portRange": {"start": 80, "end": 81}}]}, {80, 81}),
        ({"ports": [{"namedPort": "http"}]}, {80}),
        ({}, {80, 81, 82}),
    ],
)  # fmt: skip
def test_ports(ports: Any, matched: set[int]) -> None:
    """In the present form and in the one before."""
    policy = cnp(ingress=[rule("Deny", **ports)])
    assert policy.refusal is None
    assert {p for p in (80, 81, 82) if judge(policy, port=p) is Reason.DENY_RULE} == matched


def test_networks_and_names() -> None:
    """Each network and each name is a peer with its own path; names wait for a proxy."""
    policy = cnp(egress=[{"action": "Accept", "to": [
        {"networks": ["10.0.0.0/8", "::/0"]},
        {"domainNames": ["*.example.com", "Example.com."]},
    ]}])  # fmt: skip
    assert policy.refusal is None
    to = "spec.egress[0].to"
    assert {peer.path: peer.whom for peer in policy.specs[0].rules[-1].peers} == {
        f"{to}[0].networks[0]": Cidr(prefix("10.0.0.0/8")),
        f"{to}[0].networks[1]": Cidr(prefix("::/0")),
        f"{to}[1].domainNames[0]": Fqdn("", "**.example.com."),
        f"{to}[1].domainNames[1]": Fqdn("example.com."),
    }
    assert [path for path, _ in policy.pending] == [
        f"{to}[1].domainNames[0]", f"{to}[1].domainNames[1]",
    ]  # fmt: skip


def test_nodes() -> None:
    """Nodes by labels, with the option; an empty selector is all of them."""
    spec = {**SPEC, "ingress": [], "egress": [{"action": "Deny", "to": [{"nodes": {}}]}]}
    document = {"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}
    assert parse_policy(document).refusal == (
        "spec.egress[0].to[0].nodes", "needs enable-node-selector-labels",
    )  # fmt: skip
    policy = parse_policy(document, node_labels=True)
    for label, reason in (
        ("reserved:host", Reason.DENY_RULE),
        ("reserved:remote-node", Reason.DENY_RULE),
        ("reserved:world", Reason.NO_DEFAULT_DENY),
    ):
        asked = Question(WEB, End(6, LabelSet((label,))), Direction.EGRESS, 6, 80)
        assert verdict([policy], asked).reason is reason


ONE = {"tcp": {"destinationPort": {"number": 80}}}
NAMED = {"destinationNamedPort": "http"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tier": "Normal"}, "tier"),
        ({"tier": None}, "tier"),
        ({"priority": 1001}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": None}, "priority"),
        ({"priority": True}, "priority"),
        ({"subject": None}, "subject"),
        ({"subject": {}}, "subject"),
        ({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}, "subject"),
        ({"subject": {"pods": {}}}, "subject.pods.podSelector"),
        ({"subject": {"pods": {"podSelector": {}, "x": 1}}}, "subject.pods.x"),
        ({"moon": 1}, "moon"),
        ({"ingress": [rule("Allow")]}, "ingress[0].action"),
        ({"ingress": [{"action": "Deny"}]}, "ingress[0].from"),
        ({"ingress": [rule("Deny", **{"from": []})]}, "ingress[0].from"),
        ({"ingress": [rule("Deny", **{"from": [{}]})]}, "ingress[0].from[0]"),
        ({"ingress": [rule("Deny", **{"from": [{"networks": ["::/0"]}]})]}, "ingress[0].from[0]"),
        ({"ingress": [rule("Deny", name="x" * 101)]}, "ingress[0].name"),
        ({"ingress": [rule("Deny")] * 26}, "ingress"),
        ({"ingress": [rule("Deny", protocols=[])]}, "ingress[0].protocols"),
        ({"ingress": [rule("Deny", protocols=[{}])]}, "ingress[0].protocols[0]"),
        ({"ingress": [rule("Deny", protocols=[{"tcp": {}}])]},
         "ingress[0].protocols[0].tcp.destinationPort"),
        ({"ingress": [rule("Deny", protocols=[{"tcp": {"destinationPort": {}}}])]},
         "ingress[0].protocols[0].tcp.destinationPort"),
        ({"ingress": [rule("Deny", protocols=[{"tcp": {"destinationPort": {"number": 0}}}])]},
         "ingress[0].protocols[0].tcp.destinationPort.number"),
        ({"ingress": [rule("Deny", protocols=[
            {"tcp": {"destinationPort": {"range": {"start": 80, "end": 80}}}}])]},
         "ingress[0].protocols[0].tcp.destinationPort.range.end"),
        ({"ingress": [rule("Deny", protocols=[{"destinationNamedPort": "Http"}])]},
         "ingress[0].protocols[0].destinationNamedPort"),
        ({"ingress": [rule("Deny", protocols=[ONE], ports=[{"namedPort": "http"}])]},
         "ingress[0].ports"),
        ({"ingress": [rule("Deny", ports=[{"portNumber": {"protocol": "ICMP", "port": 1}}])]},
         "ingress[0].ports[0].portNumber.protocol"),
        ({"egress": [{"action": "Deny", "to": [{"networks": []}]}]}, "egress[0].to[0].networks"),
        ({"egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.1"]}]}]},
         "egress[0].to[0].networks[0]"),
        ({"egress": [{"action": "Deny", "to": [{"domainNames": ["a.b"]}]}]},
         "egress[0].to[0].domainNames"),
        ({"egress": [{"action": "Accept", "to": [{"domainNames": ["a.*.b"]}]}]},
         "egress[0].to[0].domainNames[0]"),
        ({"egress": [{"action": "Accept", "to": [{"domainNames": ["com"]}]}]},
         "egress[0].to[0].domainNames[0]"),
        ({"egress": [{"action": "Deny", "to": [{"networks": ["::/0"]}], "protocols": [NAMED]}]},
         "egress[0].protocols[0]"),
    ],
)  # fmt: skip
def test_refused_with_its_field(fields: Any, path: str) -> None:
    """Whole, with the path; it closes as an ordinary policy does."""
    policy = cnp(**copy.deepcopy(fields))
    assert policy.refusal is not None
    assert policy.refusal[0] == f"spec.{path}"
    assert (policy.tier, policy.rules, policy.pending) == (Tier.NORMAL, 0, ())
    assert judge(policy) is Reason.REFUSED
    closed = Reason.REFUSED if "egress" in fields else Reason.NO_POLICY
    assert judge(policy, direction=Direction.EGRESS) is closed


def test_refused_without_a_readable_subject() -> None:
    """It could have been about any pod."""
    policy = cnp(subject={"pods": {"podSelector": 1}})
    assert judge(policy) is Reason.REFUSED
    other = cnp(subject={"namespaces": TEST}, priority=5000)
    assert other.refusal is not None
    assert judge(other) is Reason.NO_POLICY
