"""The lab's controllers, as a function from a snapshot to actions."""

from __future__ import annotations

import copy
from typing import Any

from fimbria.lab import objects
from fimbria.lab.controllers import reconcile
from fimbria.lab.snapshot import Action, Snapshot

Document = dict[str, Any]


def node(name: str) -> Document:
    return {"metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}}}


def pod(name: str, labels: dict[str, str] | None = None, **spec: Any) -> Document:
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": labels or {}}
    return {"metadata": meta, "spec": {"containers": [{"name": "c"}], **spec}}


def ready(document: Document, *addresses: str) -> Document:
    document["status"] = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "podIPs": [{"ip": one} for one in addresses],
    }
    return document


def workload(kind: str, name: str, **spec: Any) -> Document:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c"}]}}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"{kind}-{name}"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": template,
            **spec,
        },
    }


class Cluster:
    """Carries actions out on a snapshot, as an API server would."""

    def __init__(self, nodes: int = 2) -> None:
        self.state = Snapshot()
        for number in range(1, nodes + 1):
            self.state.nodes["", f"node{number}"] = node(f"node{number}")

    def rows(self, action: Action) -> dict[tuple[str, str], Document]:
        fields = {
            objects.PODS: "pods",
            objects.REPLICA_SETS: "replica_sets",
            objects.DEPLOYMENTS: "deployments",
            objects.DAEMON_SETS: "daemon_sets",
            objects.ENDPOINTS: "endpoints",
            objects.SLICES: "slices",
        }
        return getattr(self.state, fields[action.resource])

    def perform(self, action: Action) -> None:
        rows, key = self.rows(action), (action.namespace, action.name)
        if action.verb == "create":
            body = copy.deepcopy(action.body)
            body["metadata"].setdefault("uid", f"uid-{action.name}")
            rows[key] = body
        elif action.verb == "delete":
            del rows[key]
        elif action.verb == "bind":
            rows[key]["spec"]["nodeName"] = action.body
        else:
            for name, value in action.body.items():
                if isinstance(value, dict):
                    rows[key].setdefault(name, {}).update(copy.deepcopy(value))
                else:
                    rows[key][name] = copy.deepcopy(value)

    def settle(self, *, pods_ready: bool = True) -> None:
        for _ in range(20):
            actions = reconcile(self.state)
            if not actions:
                return
            for action in actions:
                self.perform(action)
            if pods_ready:
                for one in self.state.pods.values():
                    ready(one)
        raise AssertionError(f"never settles: {actions}")

    def by_node(self) -> list[str]:
        return sorted(one["spec"]["nodeName"] for one in self.state.pods.values())


def test_replicas_are_spread() -> None:
    """A Deployment's pods are spread over the nodes, and its status counts them."""
    cluster = Cluster()
    cluster.state.deployments["default", "d"] = workload("d", "d", replicas=4)
    cluster.settle()
    assert cluster.by_node() == ["node1", "node1", "node2", "node2"]
    status = cluster.state.deployments["default", "d"]["status"]
    assert (status["readyReplicas"], status["updatedReplicas"]) == (4, 4)
    assert status["conditions"][0]["status"] == "True"


def test_repeating_a_stale_snapshot_does_no_harm() -> None:
    """The same snapshot gives the same names, so what is created twice is refused, not doubled."""
    cluster = Cluster()
    cluster.state.deployments["default", "d"] = workload("d", "d", replicas=3)
    for action in reconcile(cluster.state):
        cluster.perform(action)
    first, second = reconcile(cluster.state), reconcile(cluster.state)
    assert first == second
    names = [one.name for one in first if one.resource is objects.PODS]
    assert len(set(names)) == 3


def test_scaling_down_takes_the_unready_first() -> None:
    """Of too many replicas those go that are not ready."""
    cluster = Cluster()
    cluster.state.deployments["default", "d"] = workload("d", "d", replicas=3)
    cluster.settle()
    lame = sorted(cluster.state.pods)[1]
    cluster.state.pods[lame]["status"]["conditions"][0]["status"] = "False"
    cluster.state.deployments["default", "d"]["spec"]["replicas"] = 2
    for _ in range(2):
        for action in reconcile(cluster.state):
            cluster.perform(action)
    assert lame not in cluster.state.pods
    assert len(cluster.state.pods) == 2


def test_a_new_template_replaces_the_pods() -> None:
    """The old ReplicaSet shrinks once the new one is ready, and not before."""
    cluster = Cluster()
    deployment = cluster.state.deployments["default", "d"] = workload("d", "d", replicas=2)
    cluster.settle()
    old = set(cluster.state.pods)
    deployment["spec"]["template"]["spec"]["containers"][0]["args"] = ["x"]
    cluster.settle(pods_ready=False)
    assert old < set(cluster.state.pods)
    cluster.settle()
    for one in cluster.state.pods.values():
        ready(one)
    cluster.settle()
    assert not old & set(cluster.state.pods)
    assert len(cluster.state.pods) == 2


def test_a_pod_that_goes_is_replaced() -> None:
    """A replica that is terminating no longer counts, and its name is not used again."""
    cluster = Cluster()
    cluster.state.deployments["default", "d"] = workload("d", "d", replicas=1)
    cluster.settle()
    (first,) = cluster.state.pods
    cluster.state.pods[first]["metadata"]["deletionTimestamp"] = "now"
    cluster.settle()
    assert len(cluster.state.pods) == 2


def test_daemon_set_is_on_every_node_once() -> None:
    """One pod per node that the nodeSelector fits."""
    cluster = Cluster(3)
    one = workload("ds", "ds")
    cluster.state.daemon_sets["default", "ds"] = one
    cluster.settle()
    assert cluster.by_node() == ["node1", "node2", "node3"]
    one["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node2"}
    cluster.settle()
    assert cluster.by_node() == ["node2"]
    assert one["status"]["numberReady"] == 1


def test_node_selector_binds_nowhere_else() -> None:
    """A pod whose nodeSelector fits no node waits."""
    cluster = Cluster()
    cluster.state.pods["default", "p"] = pod("p", nodeSelector={"disk": "ssd"})
    assert reconcile(cluster.state) == []


def test_endpoints_follow_readiness_and_family() -> None:
    """Ready pods are addresses, others notReadyAddresses; slices are per family; named ports."""
    cluster = Cluster()
    ports = [{"containerPort": 8080, "name": "http"}]
    one = ready(pod("a", {"app": "x"}, nodeName="node1"), "10.0.0.1", "fd00::1")
    one["spec"]["containers"][0]["ports"] = ports
    two = ready(pod("b", {"app": "x"}, nodeName="node2"), "10.0.1.1", "fd00::2")
    two["status"]["conditions"][0]["status"] = "False"
    cluster.state.pods = {("default", "a"): one, ("default", "b"): two}
    cluster.state.services["default", "s"] = {
        "metadata": {"name": "s", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }
    cluster.settle(pods_ready=False)
    (subset,) = cluster.state.endpoints["default", "s"]["subsets"]
    assert [a["ip"] for a in subset["addresses"]] == ["10.0.0.1"]
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["10.0.1.1"]
    assert subset["ports"] == [{"port": 8080, "protocol": "TCP"}]
    six = cluster.state.slices["default", "s-ipv6"]
    assert [e["addresses"] for e in six["endpoints"]] == [["fd00::1"], ["fd00::2"]]
    assert [e["conditions"]["ready"] for e in six["endpoints"]] == [True, False]
