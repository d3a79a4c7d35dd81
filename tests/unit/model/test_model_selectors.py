"""Whom selectors mean: namespaces that nobody wrote, keys and values as labels can have them."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.model.identity import RESERVED
from fimbria.model.labels import CLUSTER, LabelSet
from fimbria.model.policy import Policy, PolicyError
from fimbria.model.policy_parse import parse_policy
from fimbria.model.select_parse import cilium_key, kubernetes_key, label_selector, namespace_key
from fimbria.model.selector import Selector

CNP, CCNP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"
NAMESPACES = "io.cilium.k8s.namespace.labels"


def policy(kind: str, subject: Any, peer: Any) -> Policy:
    spec = {"endpointSelector": subject, "ingress": [{"fromEndpoints": [peer]}]}
    found = parse_policy(
        {"kind": kind, "metadata": {"name": "p", "namespace": "red"}, "spec": spec}
    )
    assert found.refusal is None
    return found


def pod(namespace: str, *labels: str) -> LabelSet:
    return LabelSet((*labels, f"k8s:io.kubernetes.pod.namespace={namespace}"))


def selects(kind: str, subject: Any, labels: LabelSet) -> bool:
    return policy(kind, subject, {}).specs[0].subject.matches(labels)


def names(kind: str, peer: Any, labels: LabelSet) -> bool:
    ((named,),) = [rule.peers for rule in policy(kind, {}, peer).specs[0].rules]
    assert isinstance(named.whom, Selector)
    return named.whom.matches(labels)


def absent(key: str) -> Any:
    return {"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}


@pytest.mark.parametrize(
    "subject",
    [
        {"matchLabels": {"init": "yes"}},
        {"matchLabels": {"any:init": "yes"}},
        {"matchLabels": {"k8s:init": "yes"}},
        absent("reserved:init"),
        {"matchExpressions": [{"key": "reserved:init", "operator": "NotIn", "values": ["x"]}]},
    ],
)
def test_a_subject_stays_in_its_namespace(subject: Any) -> None:
    """Only who demands reserved:init speaks of pods that have no namespace yet."""
    label = ["k8s:init=yes"]
    assert selects(CNP, subject, pod("red", *label))
    assert not selects(CNP, subject, pod("blue", *label))
    assert not selects(CCNP, subject, LabelSet(("reserved:health", *label)))


@pytest.mark.parametrize("kind", [CNP, CCNP])
@pytest.mark.parametrize(
    "subject",
    [
        {"matchLabels": {"reserved:init": ""}},
        {"matchLabels": {"reserved.init": ""}},
        {"matchExpressions": [{"key": "reserved:init", "operator": "Exists"}]},
    ],
)
def test_pods_without_identity(kind: str, subject: Any) -> None:
    """They have no namespace, and no pod that has one is meant with them."""
    assert selects(kind, subject, LabelSet(("reserved:init",)))
    assert not selects(kind, subject, pod("red"))


@pytest.mark.parametrize(
    "peer", [{}, absent("app"), absent(f"{NAMESPACES}.team"), absent(f"k8s:{NAMESPACES}.team")]
)
def test_peers_of_a_clusterwide_policy_are_pods(peer: Any) -> None:
    """The world and nodes lack labels too; they are named by entities."""
    assert names(CCNP, peer, pod("blue"))
    assert not names(CCNP, peer, LabelSet(("reserved:world",)))
    assert not names(CCNP, peer, LabelSet(("reserved:host",)))


@pytest.mark.parametrize("key", ["reserved:init", "reserved.init"])
def test_peers_of_pods_without_identity(key: str) -> None:
    """Clusterwide, `{}` is anyone at all to them, and labels are looked for with anyone."""
    init = {"matchLabels": {key: ""}}
    ((everyone,),) = [rule.peers for rule in policy(CCNP, init, {}).specs[0].rules]
    assert everyone.whom is None
    ((some,),) = [rule.peers for rule in policy(CCNP, init, absent("app")).specs[0].rules]
    assert isinstance(some.whom, Selector)
    assert some.whom.matches(LabelSet(("reserved:world",)))
    assert not some.whom.matches(pod("red", "k8s:app=db"))
    ((own,),) = [rule.peers for rule in policy(CNP, init, {}).specs[0].rules]
    assert isinstance(own.whom, Selector)
    assert not own.whom.matches(LabelSet(("reserved:world",)))
    assert own.whom.matches(pod("red"))


@pytest.mark.parametrize("kind", [CNP, CCNP])
@pytest.mark.parametrize("key", ["reserved:remote-node", "reserved.remote-node"])
def test_reserved_labels_stand_for_themselves(kind: str, key: str) -> None:
    """In both spellings, and without a namespace."""
    node = LabelSet(("reserved:remote-node",))
    assert names(kind, {"matchLabels": {key: ""}}, node)
    assert names(kind, {"matchExpressions": [{"key": key, "operator": "Exists"}]}, node)
    assert not names(kind, {"matchLabels": {key: ""}}, LabelSet(("reserved:world",)))
    own = {"matchLabels": {"reserved.example.com/x": "y"}}
    assert names(kind, own, pod("red", "k8s:reserved.example.com/x=y"))


def test_peers_of_a_namespaced_policy() -> None:
    """Its own namespace, unless namespaces are named by name or by label."""
    app = {"app": "db"}
    labels = ("k8s:app=db", f"k8s:{NAMESPACES}.team=ops")
    assert names(CNP, {"matchLabels": app}, pod("red", *labels))
    assert not names(CNP, {"matchLabels": app}, pod("blue", *labels))
    for source in ("", "k8s:", "any:"):
        by_name = {**app, f"{source}io.kubernetes.pod.namespace": "blue"}
        by_label = {**app, f"{source}{NAMESPACES}.team": "ops"}
        assert names(CNP, {"matchLabels": by_name}, pod("blue", *labels))
        assert not names(CNP, {"matchLabels": by_name}, pod("red", *labels))
        assert names(CNP, {"matchLabels": by_label}, pod("blue", *labels))
    longer = {"matchLabels": {"io.kubernetes.pod.namespace.old": "x"}}
    assert not names(CNP, longer, pod("blue", "k8s:io.kubernetes.pod.namespace.old=x"))


@pytest.mark.parametrize(
    ("key", "prefix", "fits"),
    [
        ("app", cilium_key, True),
        ("app.kubernetes.io/name", cilium_key, True),
        ("k8s:app.kubernetes.io/part_of.X", cilium_key, True),
        ("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", cilium_key, True),
        (f"{NAMESPACES}.{'a' * 63}", cilium_key, True),
        ("cidr:10.0.0.0/8", cilium_key, True),
        ("cidr:fd00--0/8", cilium_key, True),
        ("reserved:kube-apiserver", cilium_key, True),
        ("a" * 63, kubernetes_key, True),
        (f"{'a' * 253}/b", namespace_key, True),
        ("", cilium_key, False),
        ("k8s:", cilium_key, False),
        ("reserved.kube-apiserver", cilium_key, True),
        ("reserved.", cilium_key, False),
        (":app", cilium_key, False),
        ("k8s:a:b", cilium_key, False),
        ("k8s:app", kubernetes_key, False),
        ("app=web", kubernetes_key, False),
        ("-app", kubernetes_key, False),
        ("app/", kubernetes_key, False),
        ("/app", kubernetes_key, False),
        ("Example.com/app", kubernetes_key, False),
        ("a..b/app", kubernetes_key, False),
        ("app\n", kubernetes_key, False),
        ("a" * 64, kubernetes_key, False),
        (f"{'a' * 254}/b", namespace_key, False),
        ("\u0663", kubernetes_key, False),
    ],
)
def test_keys(key: str, prefix: Any, fits: bool) -> None:
    """A key that no label has is an error: in a denial it would leave open what it names."""
    value = {"matchExpressions": [{"key": key, "operator": "Exists"}]}
    if fits:
        assert label_selector(value, "s", prefix).requirements
    else:
        with pytest.raises(PolicyError, match="is no label key"):
            label_selector(value, "s", prefix)


@pytest.mark.parametrize(
    ("value", "fits"),
    [("", True), ("a", True), ("A_b.c-1", True), ("a" * 63, True), ("a" * 64, False),
     ("a b", False), ("-a", False), ("a,b", False), ("a:b", False), ("a\n", False),
     ("\u00e9", False)],
)  # fmt: skip
def test_values(value: str, fits: bool) -> None:
    """What no label can have as its value is an error as well."""
    written = {"matchLabels": {"app": value}}
    if fits:
        assert label_selector(written, "s", kubernetes_key).requirements
    else:
        with pytest.raises(PolicyError, match="is no value of a label"):
            label_selector(written, "s", kubernetes_key)


ENTITIES = {
    "all": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 300},
    "world": {2, 9, 10},
    "host": {1},
    "remote-node": {6, 7},
    "kube-apiserver": {7},
    "health": {4},
    "init": {5},
    "ingress": {8},
    "unmanaged": {3},
    "none": set[int](),
    "cluster": {1, 3, 4, 5, 6, 7, 8, 300},
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities(name: str) -> None:
    """Each is an exact set of identities; of pods, entity cluster has its own cluster's."""
    spec = {"endpointSelector": {}, "ingress": [{"fromEntities": [name]}]}
    (rule,) = parse_policy({"kind": CNP, "metadata": {"name": "p"}, "spec": spec}).specs[0].rules
    whom = [one.whom for one in rule.peers]

    def meant(*labels: str) -> bool:
        selectors = [one for one in whom if isinstance(one, Selector)]
        return None in whom or any(one.matches(LabelSet(labels)) for one in selectors)

    ends = {**RESERVED, 300: (f"k8s:{CLUSTER}=default",)}
    assert {number for number, labels in ends.items() if meant(*labels)} == ENTITIES[name]
    assert meant(f"k8s:{CLUSTER}=other") is (name == "all")
