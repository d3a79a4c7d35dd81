"""A world from manifests: which pods and identities there are, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fimbria.analysis import Engine, Flow, World, from_documents, load

PODS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {env: prod}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, pod-template-hash: abc}}
spec:
  nodeName: n1
  serviceAccountName: seller
  containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.0.0.5, podIPs: [{ip: 10.0.0.5}, {ip: "fd00::5"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: shop, labels: {app: web, pod-template-hash: def}}
spec:
  serviceAccountName: seller
  containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]
"""


def document(kind: str, version: str, name: str, namespace: str = "", **rest: Any) -> Any:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def written(tmp_path: Path, text: str) -> World:
    path = tmp_path / "all.yaml"
    path.write_text(text)
    return load([path])


def told(world: World) -> list[str]:
    found = (*world.errors, *world.warnings)
    return [str(one).replace(one.file, Path(one.file).name) for one in found]


def test_pods(tmp_path: Path) -> None:
    """Replicas share an identity and an endpoint; a pod without address gets one of nobody's."""
    world = written(tmp_path, PODS)
    assert not told(world)
    first, second = world.pods["shop/web-1"], world.pods["shop/web-2"]
    assert first.identity == second.identity
    assert first.labels == (
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.env=prod",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=seller",
        "k8s:io.kubernetes.pod.namespace=shop",
    )
    assert first.named == (("http", 6, 8080),)
    assert [len(ip) for ip in first.addresses] == [4, 16]
    assert second.stands_in
    assert not first.stands_in
    assert list(world.units.values()) == [1]
    assert len(world.state().local) == 1


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
    ],
)
def test_workloads(version: str, kind: str) -> None:
    """A workload is one pod with its template's labels, called like itself."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}
    world = from_documents([document(kind, version, "w", "red", spec={"template": template})])
    assert not world.errors
    assert world.pods["red/w"].plain == {"app": "x"}
    assert world.pods["red/w"].kind == kind


def test_cron_job() -> None:
    """A CronJob's pods are its Jobs'."""
    template = {"metadata": {"labels": {"app": "x"}}}
    spec = {"jobTemplate": {"spec": {"template": template}}}
    world = from_documents([document("CronJob", "batch/v1", "w", "red", spec=spec)])
    assert world.pods["red/w"].plain == {"app": "x"}


def test_owned_and_ended() -> None:
    """A Deployment's ReplicaSet adds nothing; an ended pod is gone; a host's pod is its node."""
    owned = document("ReplicaSet", "apps/v1", "w-123", "red", spec={"template": {}})
    owned["metadata"]["ownerReferences"] = [{"kind": "Deployment", "name": "w"}]
    world = from_documents([
        owned,
        document("Pod", "v1", "done", "red", status={"phase": "Succeeded"}),
        document("Pod", "v1", "proxy", "red", spec={"hostNetwork": True, "nodeName": "n1"}),
    ])  # fmt: skip
    assert not world.pods
    assert world.host_pods == {"red/proxy": "n1"}


def test_identities_given() -> None:
    """Numbers of CiliumIdentities are kept; a CiliumEndpoint without a Pod is a pod."""
    labels = {"k8s:app": "x", "k8s:io.kubernetes.pod.namespace": "red"}
    status = {
        "identity": {"id": 4711, "labels": ["k8s:app=x"]},
        "networking": {"addressing": [{"ipv4": "10.1.1.1"}]},
        "named-ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }
    world = from_documents([
        document("CiliumEndpoint", "cilium.io/v2", "x-1", "red", status=status),
        document("CiliumIdentity", "cilium.io/v2", "4711") | {"security-labels": labels},
    ])  # fmt: skip
    assert not world.errors
    pod = world.pods["red/x-1"]
    assert (pod.identity, pod.named) == (4711, (("http", 6, 80),))
    assert pod.labels == ("k8s:app=x", "k8s:io.kubernetes.pod.namespace=red")
    assert world.by_address[bytes([10, 1, 1, 1])] is pod


def test_groups_services_nodes() -> None:
    """CIDR groups, Services and nodes are there as rules refer to them."""
    nodes = [
        document("Node", "v1", "n1", spec={"podCIDRs": ["10.0.0.0/24"]},
                 status={"addresses": [{"type": "InternalIP", "address": "172.18.0.2"},
                                       {"type": "Hostname", "address": "n1"}]}),
        document("CiliumNode", "cilium.io/v2", "n1",
                 spec={"addresses": [{"type": "CiliumInternalIP", "ip": "10.0.0.1"}]}),
    ]  # fmt: skip
    slices = document(
        "EndpointSlice", "discovery.k8s.io/v1", "kubernetes", "default",
        addressType="IPv4", endpoints=[{"addresses": ["172.18.0.9"]}],
    )  # fmt: skip
    slices["metadata"]["labels"] = {"kubernetes.io/service-name": "kubernetes"}
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80}], "clusterIP": "10.96.0.7"}
    world = from_documents([
        *nodes, slices,
        document("CiliumCIDRGroup", "cilium.io/v2", "g", spec={"externalCIDRs": ["9.0.0.0/8"]}),
        document("Service", "v1", "s", "red", spec=spec),
    ])  # fmt: skip
    assert not world.errors
    assert world.node_of == {bytes([172, 18, 0, 2]): "n1", bytes([10, 0, 0, 1]): "n1"}
    assert world.nodes["n1"].pod_cidrs == ("10.0.0.0/24",)
    assert [str(one) for one in world.groups["g"].prefixes] == ["9.0.0.0/8"]
    assert world.service_ips == {bytes([10, 96, 0, 7]): ("red", "s")}
    assert world.api_servers == {bytes([172, 18, 0, 9])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metadata: {name: x, labels: {a: 5}}", "3: metadata.labels: expected text, got a number"),
        ("metadata: {name: x}\nspec: {containers: 5}",
         "4: spec.containers: expected a list or nothing, got a number"),
        ("metadata: {name: x}\nspec:\n  containers: [{ports: [{name: a, containerPort: 0}]}]",
         "5: spec.containers: port 'a' is 0/TCP"),
        ("metadata: {}", "3: metadata.name: is missing"),
    ],
)  # fmt: skip
def test_bad_pod(tmp_path: Path, text: str, expected: str) -> None:
    """What is wrong is one line, file:line:field, and the documents behind it count."""
    world = written(tmp_path, f"apiVersion: v1\nkind: Pod\n{text}\n---\n{PODS}")
    assert told(world) == [f"all.yaml:{expected}"]
    assert "shop/web-2" in world.pods


def test_bad_documents(tmp_path: Path) -> None:
    """Duplicates, kinds with a slip of the pen, refused policies; unknown kinds are nobody's."""
    world = written(
        tmp_path,
        """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolcy
metadata: {name: a}
---
apiVersion: example.org/v1
kind: Service
metadata: {name: a}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a}
spec:
  podSelector: {}
  ingress: [{from: [{podSelektor: {}}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: a}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: default}
""",
    )
    first, second, third = told(world)
    assert first == (
        "all.yaml:2: kind: there is no CiliumNetworkPolcy in cilium.io; "
        "did you mean CiliumNetworkPolicy?"
    )
    assert second.startswith("all.yaml:22: metadata.name: Pod a was there already: ")
    assert third.startswith("all.yaml:14: spec.ingress[0].from[0].podSelektor: ")
    assert len(world.policies) == 1


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error among others."""
    (tmp_path / "pods.yaml").write_text(PODS)
    world = load([tmp_path / "none.yaml", tmp_path / "pods.yaml"])
    assert told(world) == ["none.yaml:1: No such file or directory"]
    assert len(world.pods) == 2


def test_order_does_not_matter() -> None:
    """Identities, endpoints and addresses are the same whatever the order of documents."""
    made = [
        document("Pod", "v1", f"p{number}", "red") | {
            "metadata": {"name": f"p{number}", "namespace": "red", "labels": {"n": str(number % 3)}}
        } for number in range(9)
    ]  # fmt: skip
    one, other = from_documents(made), from_documents(reversed(made))
    assert one.pods == other.pods
    assert one.units == other.units
    assert one.identities == other.identities


def test_more_policies_than_a_node_has() -> None:
    """A world needs a policy map for each kind of pod, which may be more than one node can hold."""
    made: list[Any] = []
    for number in range(4200):
        labels = {"n": str(number)}
        pod = document("Pod", "v1", f"p{number}", "red")
        pod["metadata"]["labels"] = labels
        peers = [{"podSelector": {"matchLabels": {"n": str(number + 1)}}}]
        spec = {"podSelector": {"matchLabels": labels}, "ingress": [{"from": peers}]}
        made += [
            pod,
            document("NetworkPolicy", "networking.k8s.io/v1", f"n{number}", "red", spec=spec),
        ]
    engine = Engine(from_documents(made))
    assert not engine.problems
    assert engine.eval(Flow("red/p4199", "red/p4198", "TCP", 1)).allowed
    assert not engine.eval(Flow("red/p4197", "red/p4198", "TCP", 1)).allowed
