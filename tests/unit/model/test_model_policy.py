"""Reading policies: what is enforced, what is refused and where, and what a refusal closes."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.datapath.abi import Direction
from fimbria.model.labels import LabelSet
from fimbria.model.policy import Policy, PolicyError
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import End, Mode, Question, Reason, verdict

WEB = LabelSet(("k8s:app=web", "k8s:io.kubernetes.pod.namespace=red"))
DB = LabelSet(("k8s:app=db", "k8s:io.kubernetes.pod.namespace=blue"))


def cnp(spec: Any, kind: str = "CiliumNetworkPolicy", name: str = "p") -> Policy:
    return parse_policy(
        {"kind": kind, "metadata": {"name": name, "namespace": "red"}, "spec": spec}
    )


def with_ingress(rule: Any) -> Policy:
    return cnp({"endpointSelector": {}, "ingress": [rule]})


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"fromRequires": []}, "spec.ingress[0].fromRequires"),
        ({"fromNodes": [{}]}, "spec.ingress[0].fromNodes"),
        ({"authentication": {"mode": "required"}}, "spec.ingress[0].authentication.mode"),
        ({"authentication": {"mode": "always"}}, "spec.ingress[0].authentication.mode"),
        ({"authentication": {}}, "spec.ingress[0].authentication.mode"),
        ({"fromGroups": [{"aws": {}}]}, "spec.ingress[0].fromGroups"),
        ({"fromServices": []}, "spec.ingress[0].fromServices"),
        ({"fromFQDNs": []}, "spec.ingress[0].fromFQDNs"),
        ({"surprise": 1}, "spec.ingress[0].surprise"),
        ({"fromEndpoints": {}}, "spec.ingress[0].fromEndpoints"),
        ({"fromEndpoints": ["x"]}, "spec.ingress[0].fromEndpoints[0]"),
        ({"fromEndpoints": [{"matchLabels": {"a": 1}}]},
         "spec.ingress[0].fromEndpoints[0].matchLabels.a"),
        ({"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "Inn"}]}]},
         "spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator"),
        ({"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]},
         "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values"),
        ({"fromEntities": ["moon"]}, "spec.ingress[0].fromEntities[0]"),
        ({"fromEntities": ["all"], "fromEndpoints": [{}]}, "spec.ingress[0].fromEntities"),
        ({"fromEndpoints": [{"matchLabels": {"a b": "c"}}]},
         "spec.ingress[0].fromEndpoints[0].matchLabels"),
        ({"fromEndpoints": [{"matchLabels": {"k8s:a": "b,c"}}]},
         "spec.ingress[0].fromEndpoints[0].matchLabels.k8s:a"),
        ({"fromEndpoints": [{"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]}]},
         "spec.ingress[0].fromEndpoints[0].matchExpressions[0].key"),
        ({"fromEndpoints": [
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c*"]}]}]},
         "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values[1]"),
        ({"toPorts": [{"ports": []}]}, "spec.ingress[0].toPorts[0].ports"),
        ({"toPorts": [{"ports": [{"port": "65536"}]}]},
         "spec.ingress[0].toPorts[0].ports[0].port"),
        ({"toPorts": [{"ports": [{"port": "80", "endPort": 79}]}]},
         "spec.ingress[0].toPorts[0].ports[0].endPort"),
        ({"toPorts": [{"ports": [{"port": "http", "endPort": 90}]}]},
         "spec.ingress[0].toPorts[0].ports[0].endPort"),
        ({"toPorts": [{"ports": [{"port": "80", "protocol": "ICMP"}]}]},
         "spec.ingress[0].toPorts[0].ports[0].protocol"),
        ({"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [{}]}}]},
         "spec.ingress[0].toPorts[0].ports[0].protocol"),
        ({"toPorts": [{"ports": [{"port": str(n)} for n in range(1, 42)]}]},
         "spec.ingress[0].toPorts[0].ports"),
        ({"toPorts": [{"ports": [{"port": "80", "protocol": "\u017fctp"}]}]},
         "spec.ingress[0].toPorts[0].ports[0].protocol"),
        ({"toPorts": [{"ports": [{"port": "\u212aube"}]}]},
         "spec.ingress[0].toPorts[0].ports[0].port"),
        ({"toPorts": [{"ports": [{"protocol": "TCP"}]}]},
         "spec.ingress[0].toPorts[0].ports[0].port"),
        ({"icmps": [{"fields": [{"type": "Nonsense"}]}]},
         "spec.ingress[0].icmps[0].fields[0].type"),
        ({"icmps": [{"fields": [{"type": 8}]}], "toPorts": [{"ports": [{"port": "1"}]}]},
         "spec.ingress[0].icmps"),
    ],
)  # fmt: skip
def test_refused_with_its_field(rule: dict[str, Any], path: str) -> None:
    """Everything that is not enforced is refused with the path of the field, whole."""
    policy = with_ingress(rule)
    assert policy.refusal is not None
    assert policy.refusal[0] == path
    assert policy.rules == 0


@pytest.mark.parametrize("spec", [None, 5, [], {}, {"endpointSelector": {}}, {"ingress": [{}]}])
def test_unusable_specs_are_refused(spec: Any) -> None:
    """A spec without subject or direction is refused; reading it raises nothing."""
    assert cnp(spec).refusal is not None


def test_nearest_field() -> None:
    """A slip of the pen is told with the field that was meant."""
    refusal = with_ingress({"fromEndpoint": [{}]}).refusal
    assert refusal == ("spec.ingress[0].fromEndpoint", "unknown field; did you mean fromEndpoints?")
    refusal = cnp({"endpointselector": {}, "description": "", "ingress": [{}]}).refusal
    assert refusal == ("spec.endpointSelector", "is missing; endpointselector is no field")
    assert cnp({"ingress": [{}]}).refusal == ("spec.endpointSelector", "is missing")
    ports = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"HTTP": [{}]}}
    refusal = with_ingress({"toPorts": [ports]}).refusal
    assert refusal == (
        "spec.ingress[0].toPorts[0].rules.HTTP", "unknown field; did you mean http?",
    )  # fmt: skip
    name = {"toFQDNs": [{"matchName": "*.example.com"}]}
    assert cnp({"endpointSelector": {}, "egress": [name]}).refusal == (
        "spec.egress[0].toFQDNs[0].matchName",
        "'*.example.com' is a pattern: it takes matchPattern",
    )
    refusal = cnp({"endpointSelector": {}, "surprise": 1, "ingress": [{}]}).refusal
    assert refusal == ("spec.surprise", "unknown field")


def test_objects_without_a_name_raise() -> None:
    """Nobody could be told of a refusal: that is an error."""
    for document in ({}, {"kind": "Pod"}, {"kind": "NetworkPolicy", "metadata": {"name": 1}}):
        with pytest.raises(PolicyError):
            parse_policy(document)


def judge(policy: Policy, subject: LabelSet = WEB, direction: Direction = Direction.INGRESS,
          mode: Mode = Mode.DEFAULT, peer: LabelSet = DB) -> Reason:  # fmt: skip
    return verdict(
        [policy], Question(End(300, subject), End(301, peer), direction, 6, 80, mode)
    ).reason


def test_a_refusal_closes_what_it_names() -> None:
    """Only its subjects, and only the directions that it names."""
    policy = cnp({"endpointSelector": {"matchLabels": {"app": "web"}},
                  "ingress": [{"fromEntities": ["all"]}, {"fromRequires": [{}]}]})  # fmt: skip
    assert judge(policy) is Reason.REFUSED
    assert judge(policy, direction=Direction.EGRESS) is Reason.NO_POLICY
    assert judge(policy, LabelSet(("k8s:app=x", "k8s:io.kubernetes.pod.namespace=red"))) is (
        Reason.NO_POLICY
    )


def test_a_refusal_beats_what_others_allow() -> None:
    """Otherwise a denial in it would be let through."""
    policies = [
        cnp({"endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}]}, name="a"),
        cnp({"endpointSelector": {}, "ingressDeny": [{"fromCIDR": ["x"]}]}, name="b"),
    ]
    judged = verdict(policies, Question(End(300, WEB), End(301, DB), Direction.INGRESS, 6, 80))
    assert judged.reason is Reason.REFUSED
    host = verdict(policies, Question(End(300, WEB), End(1, DB), Direction.INGRESS, 6, 80))
    assert host.reason is Reason.LOCALHOST


def test_unreadable_subject_closes_the_namespace() -> None:
    """It could have been about any pod of its namespace, but about none of another."""
    policy = cnp({"endpointSelector": {"matchLabels": 1}, "ingress": [{}]})
    assert judge(policy) is Reason.REFUSED
    assert judge(policy, DB) is Reason.NO_POLICY


def test_a_foreign_namespace_closes_the_own_pods_that_are_meant() -> None:
    """A policy that was written for another namespace does not close all of its own."""
    labels = {"app": "web", "k8s:io.kubernetes.pod.namespace": "blue"}
    policy = cnp({"endpointSelector": {"matchLabels": labels}, "ingress": [{}]})
    assert policy.refusal == (
        "spec.endpointSelector", "selects pods of another namespace than its own, red",
    )  # fmt: skip
    log = LabelSet(("k8s:app=log", "k8s:io.kubernetes.pod.namespace=red"))
    web = LabelSet(("k8s:app=web", "k8s:io.kubernetes.pod.namespace=blue"))
    assert judge(policy) is Reason.REFUSED
    assert judge(policy, log) is Reason.NO_POLICY
    assert judge(policy, web) is Reason.NO_POLICY


def test_namespaced_policy_stays_in_its_namespace() -> None:
    """Peers are of the own namespace unless one is named; the subject always is."""
    rule = {"fromEndpoints": [{"matchLabels": {"app": "db"}}]}
    assert judge(with_ingress(rule)) is Reason.DEFAULT_DENY
    rule["fromEndpoints"][0]["matchLabels"]["k8s:io.kubernetes.pod.namespace"] = "blue"
    assert judge(with_ingress(rule)) is Reason.ALLOW_RULE
    other = {"endpointSelector": {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "blue"}},
             "ingress": [{}]}  # fmt: skip
    assert cnp(other).refusal is not None


def test_lists_that_are_absent_or_empty() -> None:
    """No peers and no ports: nobody; an empty list: nobody; ports without peers: anyone."""
    port = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
    assert judge(with_ingress({})) is Reason.DEFAULT_DENY
    assert judge(with_ingress({"fromEndpoints": [], "toPorts": port})) is Reason.DEFAULT_DENY
    assert judge(with_ingress({"fromEntities": ["none"]})) is Reason.DEFAULT_DENY
    beside = {"fromEntities": ["all"], "fromEndpoints": [], "fromCIDR": []}
    assert judge(with_ingress(beside)) is Reason.ALLOW_RULE
    assert judge(with_ingress({"toPorts": port})) is Reason.ALLOW_RULE


@pytest.mark.parametrize(
    ("protocol", "meant"),
    [(None, {6, 17, 132}), ("ANY", {6, 17, 132}), ("any", {6, 17, 132}), ("UDP", {17})],
)
def test_port_zero(protocol: str | None, meant: set[int]) -> None:
    """Every port of the protocols that have ports; ICMP takes a rule of its own."""
    ports = [{"port": "0", "protocol": protocol}]
    (rule,) = with_ingress({"toPorts": [{"ports": ports}]}).specs[0].rules
    (part,) = rule.ports
    found = {number for number in range(256) if part.matches(number, 8, frozenset())}
    assert found == meant
    assert all(part.matches(next(iter(meant)), port, frozenset()) for port in (0, 1, 65535))


def test_enforcement_modes() -> None:
    """never beats everything; always denies what nothing allows; default asks for a policy."""
    policy = with_ingress({})
    assert judge(policy, mode=Mode.NEVER) is Reason.NO_POLICY
    assert judge(policy, DB, mode=Mode.ALWAYS) is Reason.DEFAULT_DENY
    assert judge(policy, DB) is Reason.NO_POLICY
    init = LabelSet(("reserved:init",))
    assert judge(policy, init) is Reason.DEFAULT_DENY


def test_default_deny_is_chosen() -> None:
    """Without default deny only what a rule denies is denied; a second policy can ask for it."""
    spec: dict[str, Any] = {"endpointSelector": {}, "enableDefaultDeny": {"ingress": False},
                            "ingressDeny": [{"fromEntities": ["world"]}]}  # fmt: skip
    assert judge(cnp(spec)) is Reason.NO_DEFAULT_DENY
    assert judge(cnp(spec), peer=LabelSet(("reserved:world",))) is Reason.DENY_RULE
    spec["enableDefaultDeny"] = {"ingress": True, "egress": True}
    assert judge(cnp(spec), direction=Direction.EGRESS) is Reason.DEFAULT_DENY


def test_deny_beats_allow() -> None:
    """However narrow the allowance, however wide the denial."""
    policy = cnp({
        "endpointSelector": {},
        "ingress": [{"fromEntities": ["all"], "toPorts": [{"ports": [{"port": "80"}]}]}],
        "ingressDeny": [{"fromEntities": ["all"]}],
    })  # fmt: skip
    assert judge(policy) is Reason.DENY_RULE


def test_specs_are_all_taken() -> None:
    """`specs` and `spec` together; each has its path."""
    document = {"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"},
                "spec": {"endpointSelector": {}, "ingress": [{}]},
                "specs": [{"endpointSelector": {}, "egress": [{}]}]}  # fmt: skip
    assert [spec.path for spec in parse_policy(document).specs] == ["spec", "specs[0]"]


def test_refused_host_policies_close_nothing() -> None:
    """A node that nobody can reach cannot be repaired; pods are not meant at all."""
    spec = {"nodeSelector": {}, "ingress": [{"toMoon": []}]}
    for kind in ("CiliumClusterwideNetworkPolicy", "CiliumNetworkPolicy"):
        policy = cnp(spec, kind)
        assert policy.refusal is not None
        assert policy.specs == ()
    assert cnp({"nodeSelector": {}, "ingress": [{}]}).refusal == (
        "spec.nodeSelector", "is for a clusterwide policy only",
    )  # fmt: skip
    both = cnp({**spec, "endpointSelector": {}}, "CiliumClusterwideNetworkPolicy")
    assert both.refusal is not None
    assert both.refusal[0] == "spec.nodeSelector"
    assert [one.host for one in both.specs] == [False]


@pytest.mark.parametrize(
    ("value", "audit"),
    [("true", True), ("True", True), ("false", False), ("FALSE", False), (None, False)],
)
def test_audit_mode(value: Any, audit: bool) -> None:
    """The annotation makes a policy one that is only reported; so with a refused one."""
    for spec in ({"podSelector": {}}, {"podSelector": 1}):
        meta = {"name": "p", "annotations": {"fimbria.io/policy-audit-mode": value}}
        policy = parse_policy({"kind": "NetworkPolicy", "metadata": meta, "spec": spec})
        assert policy.audit is audit
        assert (policy.refusal is None) is (spec["podSelector"] == {})
        asked = Question(End(300, LabelSet(("k8s:io.kubernetes.pod.namespace=default",))),
                         End(301, DB), Direction.INGRESS, 6, 80)  # fmt: skip
        assert verdict([policy], asked).allowed is audit
        assert not verdict([policy], asked, shadow=True).allowed


@pytest.mark.parametrize("value", ["yes", "1", "true ", "", True])
def test_audit_mode_that_is_none(value: Any) -> None:
    """Whoever meant to try a policy is told that it would not be a trial."""
    for kind, name in (
        ("NetworkPolicy", "podSelector"),
        ("CiliumNetworkPolicy", "endpointSelector"),
    ):
        meta = {"name": "p", "annotations": {"fimbria.io/policy-audit-mode": value}}
        spec = {name: {}, "ingress": [{}]}
        policy = parse_policy({"kind": kind, "metadata": meta, "spec": spec})
        assert policy.refusal is not None
        assert policy.refusal[0] == "metadata.annotations"
        assert policy.refusal[1].startswith('fimbria.io/policy-audit-mode: expected "true"')
        assert not policy.audit
        assert [spec.rules for spec in policy.specs] == [()]


def test_forced() -> None:
    """The other annotation is a policy's own too; a refused one is not taken up at all."""
    for value, forced in (("true", True), ("yes", False)):
        meta = {"name": "p", "annotations": {"fimbria.io/force": value}}
        document = {"kind": "NetworkPolicy", "metadata": meta, "spec": {"podSelector": {}}}
        assert parse_policy(document).forced is forced


def test_what_is_kept_beside_the_rules() -> None:
    """Description, labels and log say nothing about traffic; a wrong type is an error."""
    said = {"description": "d", "labels": [{"key": "k"}], "log": {"value": "v"}}
    good = {"endpointSelector": {}, "ingress": [{"authentication": {"mode": "disabled"}}]}
    assert cnp({**good, **said}) == cnp(good)
    for field, value in (("description", 1), ("labels", 1), ("log", {"level": "x"}), ("log", 1)):
        refusal = cnp({**good, field: value}).refusal
        assert refusal is not None
        assert refusal[0].startswith(f"spec.{field}")
