"""Labels, the filter that makes identities of them, and selectors."""

from __future__ import annotations

import pytest

from fimbria.model.identity import FIRST, LAST, candidate
from fimbria.model.labels import LabelError, LabelSet, canonical, pod_labels
from fimbria.model.selector import Operator, Requirement, Selector, equals, exists, selector


def kept(labels: dict[str, str], option: str = "") -> set[str]:
    found = pod_labels(labels, "ns", {"kubernetes.io/metadata.name": "ns"}, "", "c", option)
    return {text for text in found if text.partition(":")[2].partition("=")[0] in labels}


def test_pod_labels_say_where_it_runs() -> None:
    """Namespace, its labels, service account and cluster are part of an identity."""
    assert pod_labels({"a": "b"}, "ns", {"team": "t"}, "sa", "c") == (
        "k8s:a=b",
        "k8s:io.cilium.k8s.namespace.labels.team=t",
        "k8s:io.cilium.k8s.policy.cluster=c",
        "k8s:io.cilium.k8s.policy.serviceaccount=sa",
        "k8s:io.kubernetes.pod.namespace=ns",
    )


def test_pods_do_not_say_where_they_run() -> None:
    """Labels that a pod takes for itself must not let it pass for one of another namespace."""
    claims = {
        "io.cilium.k8s.namespace.labels.team": "ops",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "kube-system",
        "io.kubernetes.pod.namespace": "kube-system",
        "io.cilium.k8s.policy.serviceaccount": "root",
        "io.cilium.k8s.policy.cluster": "other",
    }
    plain = pod_labels({"a": "b"}, "ns", {}, "", "c")
    assert pod_labels({"a": "b", **claims}, "ns", {}, "", "c") == plain
    assert pod_labels({"a": "b", **claims}, "ns", {}, "", "c", "k8s:io") == (
        pod_labels({"a": "b"}, "ns", {}, "", "c", "k8s:io")
    )


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("app", True),
        ("app.kubernetes.io/name", True),
        ("pod-template-hash", False),
        ("controller-revision-hash", False),
        ("statefulset.kubernetes.io/pod-name", False),
        ("beta.kubernetes.io/arch", False),
        ("topology.kubernetes.io/zone", True),
        ("kubernetes.io/hostname", False),
    ],
)
def test_default_filter(key: str, counts: bool) -> None:
    """What changes with every pod or node is no part of an identity."""
    assert bool(kept({key: "v"})) is counts


def test_configured_filter() -> None:
    """Exclusions add to the default; one inclusion makes a list of what counts; longest wins."""
    assert kept({"app": "a", "x": "b"}, "!x") == {"k8s:app=a"}
    assert kept({"app": "a", "x": "b"}, "k8s:app") == {"k8s:app=a"}
    assert kept({"app": "a", "apple": "b"}, "app !apple") == {"k8s:app=a"}
    with pytest.raises(LabelError, match="rule"):
        pod_labels({}, "ns", {}, "", "c", "[")


def test_candidates() -> None:
    """All nodes find the same number, in range, and another one at the next attempt."""
    labels = canonical(["k8s:b=2", "k8s:a=1"])
    assert candidate(labels) == candidate(reversed(labels))
    assert FIRST <= candidate(labels) <= LAST
    assert candidate(labels, 1) != candidate(labels)


LABELS = LabelSet(("k8s:app=web", "container:app=other", "reserved:host"))


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        (equals("k8s:app", "web"), True),
        (equals("k8s:app", "other"), False),
        (equals("any:app", "other"), True),
        (exists("reserved:host"), True),
        (Requirement("any:app", Operator.NOT_IN, ("web",)), False),
        (Requirement("any:none", Operator.NOT_IN, ("web",)), True),
        (Requirement("any:none", Operator.DOES_NOT_EXIST), True),
        (Requirement("any:app", Operator.DOES_NOT_EXIST), False),
    ],
)
def test_requirements(requirement: Requirement, met: bool) -> None:
    """Kubernetes' four operators; source `any` looks at every source."""
    assert Selector((requirement,)).matches(LABELS) is met


def test_selectors_are_canonical() -> None:
    """The same demands in another order are the same selector."""
    one = selector([equals("k8s:a", "1"), exists("k8s:b")])
    assert one == selector([exists("k8s:b"), equals("k8s:a", "1"), exists("k8s:b")])
    assert str(one) == (
        '{"matchLabels":{"k8s:a":"1"},"matchExpressions":[{"key":"k8s:b","operator":"Exists"}]}'
    )
