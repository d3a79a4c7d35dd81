"""Policy objects from kubectl to what the nodes say of them: status, events, columns, traces."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.lab.client import Lab
from fimbria.lab.spec import LabError, LabSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root

Document = dict[str, Any]
LIMIT = 256
"""The least that bpf-policy-map-max can be."""

PODS = """
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, image: fimbria/sleep}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec: {containers: [{name: c, image: fimbria/echo, ports: [{containerPort: 8080}]}]}
"""
KINDS = ("cnp", "ccnp", "netpol", "ccg", "clusternetworkpolicies", "services", "endpointslices")


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for a condition to give something true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.05)
    return found


class Cluster:
    """A lab with a client and a server, and what tests ask of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes = [node["name"] for node in lab.status()["nodes"]]

    def apply(self, *documents: Document) -> None:
        for document in documents:
            self.lab.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    def conditions(self, kind: str, name: str) -> dict[str, Document]:
        """The conditions of an object by type."""
        found = json.loads(self.lab.kubectl("get", kind, name, "-o", "json"))
        return {one["type"]: one for one in found.get("status", {}).get("conditions", [])}

    def events(self, name: str) -> list[Document]:
        """The warnings about an object."""
        rows = json.loads(self.lab.kubectl("get", "events", "-A", "-o", "json"))["items"]
        named = [one for one in rows if one["involvedObject"]["name"] == name]
        return [one for one in named if one["type"] == "Warning"]

    def policy(self, name: str, node: str = "") -> Document:
        """What a node says of a policy; empty while it does not know it."""
        text = self.lab.cli("policy", "get", "-o", "json", node=node or self.nodes[0])
        return next((one for one in json.loads(text)["policies"] if one["name"] == name), {})

    def status(self, line: str, node: str = "") -> str:
        text = self.lab.cli("status", "-o", "json", node=node or self.nodes[0])
        return next(one["text"] for one in json.loads(text)["lines"] if one["name"] == line)

    def node_of(self, pod: str) -> str:
        return self.lab.pod(pod)["node"]

    def endpoint(self, pod: str) -> Document:
        name = f"pod-name:default/{pod}"
        text = self.lab.cli("endpoint", "get", name, "-o", "json", node=self.node_of(pod))
        return json.loads(text)

    def reaches(self) -> bool:
        """Whether the client gets an answer of the server."""
        address = self.lab.pod("server")["addresses"][0]
        command = ["curl", "-s", "-m", "1", f"http://{address}:8080/"]
        return self.lab.exec("client", command).returncode == 0

    def restart_agents(self) -> None:
        """Kill all agents; return when others are there and know the cluster."""
        old = self._agents()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(new := self._agents()) and not set(new) & set(old))
        until(self._ready)

    def _agents(self) -> list[int]:
        return [node["agent_pid"] for node in self.lab.status()["nodes"]]

    def _ready(self) -> bool:
        try:
            return all(self.status("Cilium", node).startswith("Ok") for node in self.nodes)
        except LabError:  # not listening yet
            return False

    def clean(self) -> None:
        for kind in KINDS[:5]:
            self.lab.kubectl("delete", kind, "--all")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with small policy maps."""
    manifest = tmp_path_factory.mktemp("objects") / "pods.yaml"
    manifest.write_text(PODS)
    spec = LabSpec(f"objects-{os.getpid()}", config={"bpf-policy-map-max": str(LIMIT)})
    lab = Lab.up(spec, [manifest])
    lab.wait([["Pod", "default", "client"], ["Pod", "default", "server"]])
    yield Cluster(lab)
    lab.down()


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.clean()


def cilium(name: str, kind: str = "CiliumNetworkPolicy", **spec: Any) -> Document:
    subject = {} if "nodeSelector" in spec else {"endpointSelector": {}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {**subject, **spec},
    }


def admin(name: str, action: str, *peers: Document, tier: str = "Admin") -> Document:
    rule = {"name": "rule", "action": action, "from": list(peers)}
    spec = {"tier": tier, "priority": 7, "subject": {"namespaces": {}}, "ingress": [rule]}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def ports(count: int, first: int = 10001) -> list[Document]:
    """Ports that no entry can take together."""
    rows = [{"port": str(first + 2 * n), "protocol": "TCP"} for n in range(count)]
    return [{"ports": rows[at : at + 40]} for at in range(0, count, 40)]


def test_every_kind_says_what_became_of_it(cluster: Cluster) -> None:
    """A refused object has a condition and one event with the field, a good one a condition."""
    lab, anyone = cluster.lab, {"namespaces": {}}
    core = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "x": 1}}]}]}
    refused = {
        "cnp": (cilium("bad", ingress=[{"fromEntities": ["nobody"]}]), "spec.ingress[0]"),
        "ccnp": (
            cilium("bad-wide", "CiliumClusterwideNetworkPolicy", ingress=[{"what": 1}]),
            "spec.ingress[0].what",
        ),
        "clusternetworkpolicies": (
            admin("bad-admin", "Deny", {**anyone, "pods": {"podSelector": {}}}),
            "spec.ingress[0].from[0]",
        ),
        "netpol": (
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
             "metadata": {"name": "bad-core"}, "spec": core},
            "spec.ingress[0].from[0].ipBlock.x",
        ),
        "ccg": (
            {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
             "metadata": {"name": "bad-group"}, "spec": {"externalCIDRs": ["10.0.0.0/8", "no"]}},
            "spec.externalCIDRs[1]",
        ),
    }  # fmt: skip
    cluster.apply(*(document for document, _ in refused.values()))
    for kind, (document, path) in refused.items():
        name = document["metadata"]["name"]
        (event,) = until(lambda name=name: cluster.events(name))
        assert event["message"].startswith(path)
        assert event["reason"] == "PolicyRefused"
        if kind == "netpol":
            continue
        one = until(lambda kind=kind, name=name: cluster.conditions(kind, name))["Valid"]
        assert (one["status"], one["reason"]) == ("False", "PolicyRefused")
        assert one["message"].startswith(path)
        if kind != "ccg":
            assert cluster.policy(name)["status"] == "refused"
    assert "4 refused" in cluster.status("Policy")
    assert "bad-group: spec.externalCIDRs[1]" in cluster.status("CIDR groups")
    assert not cluster.reaches()
    cluster.clean()
    cluster.apply(
        cilium("good", ingress=[{"fromEntities": ["all"]}]),
        admin("good-admin", "Accept", anyone),
        {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumCIDRGroup",
         "metadata": {"name": "good-group"}, "spec": {"externalCIDRs": ["10.0.0.0/8"]}},
    )  # fmt: skip
    for kind, name in (
        ("cnp", "good"), ("clusternetworkpolicies", "good-admin"), ("ccg", "good-group"),
    ):  # fmt: skip
        found = until(lambda kind=kind, name=name: cluster.conditions(kind, name))
        assert found["Valid"]["status"] == "True"
        assert "Enforced" not in found
    assert "True" in lab.kubectl("get", "clusternetworkpolicies", "good-admin")
    until(cluster.reaches)
    text = lab.cli("policy", "list", "-o", "table", node=cluster.nodes[0])
    assert "Admin" in next(line for line in text.splitlines() if "good-admin" in line)


def test_pending_parts_are_named(cluster: Cluster) -> None:
    """What needs a proxy is valid and not enforced; the fields are named."""
    cluster.apply(
        cilium(
            "later",
            egress=[{"toFQDNs": [{"matchName": "a.example"}]}],
            ingress=[{"toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}],
                                   "rules": {"http": [{"path": "/"}]}}]}],
        )
    )  # fmt: skip
    found = until(lambda: cluster.conditions("cnp", "later"))
    assert found["Valid"]["status"] == "True"
    assert (found["Enforced"]["status"], found["Enforced"]["reason"]) == ("False", "NoProxy")
    assert "spec.egress[0].toFQDNs[0]: " in found["Enforced"]["message"]
    assert "spec.ingress[0].toPorts[0]" in found["Enforced"]["message"]
    said = cluster.policy("later")
    assert said["status"] == "pending"
    assert len(said["pending"]) >= 2
    assert "1 pending: default/later" in cluster.status("Policy")
    assert not cluster.reaches()


def test_what_does_not_fit_changes_nothing(cluster: Cluster) -> None:
    """A policy too large leaves the one before in force, also over the agents' death.

    It is said with numbers; mended, the policy holds.
    """
    subject = {"matchLabels": {"app": "server"}}
    allow = [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "8080"}]}]}]
    cluster.apply(cilium("big", endpointSelector=subject, ingress=allow))
    until(lambda: cluster.policy("big").get("status") == "enforced")
    until(cluster.reaches)
    large = [{"fromEndpoints": [{}], "toPorts": ports(LIMIT + 20)}]
    cluster.apply(cilium("big", endpointSelector=subject, ingress=large))
    node = cluster.node_of("server")
    said = until(lambda: (p := cluster.policy("big", node))["status"] == "not applied" and p)
    assert said["in-force"] == "previous"
    assert str(LIMIT) in said["reason"]
    assert "the version before stays" in said["reason"]
    found = until(lambda: cluster.conditions("cnp", "big").get("Enforced"))
    assert found["reason"] == "PolicyNotApplied"
    assert found["message"].startswith(f"{node}: ")
    assert cluster.conditions("cnp", "big")["Valid"]["status"] == "True"
    assert any(one["reason"] == "PolicyNotApplied" for one in until(lambda: cluster.events("big")))
    assert "1 not applied: default/big" in cluster.status("Policy", node)
    assert cluster.reaches()
    cluster.restart_agents()
    said = until(lambda: cluster.policy("big", node))
    assert (said["status"], said["in-force"]) == ("not applied", "previous")
    assert cluster.reaches()
    small = [{"fromEndpoints": [{}], "toPorts": ports(3)}]
    cluster.apply(cilium("big", endpointSelector=subject, ingress=small))
    until(lambda: not cluster.reaches())
    until(lambda: "Enforced" not in cluster.conditions("cnp", "big"))


def test_after_a_restart_the_same_is_left_out(cluster: Cluster) -> None:
    """Two that do not fit together: the older is in force, also after the agents died."""
    half = LIMIT // 2 + 20
    subject = {"matchLabels": {"app": "server"}}
    node = cluster.node_of("server")
    for name, first in (("older", 20001), ("a-younger", 30001)):
        rule = {"fromEntities": ["all"], "toPorts": ports(half, first)}
        cluster.apply(cilium(name, endpointSelector=subject, ingress=[rule]))
        until(lambda name=name: cluster.policy(name, node))
        time.sleep(1.1)  # creationTimestamp has whole seconds

    def standings() -> list[Any]:
        return [cluster.policy(name, node).get("status") for name in ("older", "a-younger")]

    until(lambda: standings() == ["enforced", "not applied"])
    cluster.restart_agents()
    until(lambda: standings() == ["enforced", "not applied"])
    cluster.lab.kubectl("delete", "cnp", "older")
    until(lambda: cluster.policy("a-younger", node).get("status") == "enforced")


def test_audit_mode_of_an_endpoint(cluster: Cluster) -> None:
    """What policy denies passes while it is on, shown in the columns; it survives the agent."""
    cluster.apply(cilium("closed", ingress=[{}]))
    until(lambda: not cluster.reaches())
    number, node = str(cluster.endpoint("server")["id"]), cluster.node_of("server")
    lab = cluster.lab
    lab.cli("endpoint", "config", number, "PolicyAuditMode=Enabled", node=node)
    assert cluster.reaches()
    assert "Disabled (Audit)" in lab.cli("endpoint", "list", "-o", "table", node=node)
    assert cluster.endpoint("server")["policy"]["ingress"]["state"] == "audit"
    cluster.restart_agents()
    assert cluster.reaches()
    assert "Enabled" in lab.cli("endpoint", "config", number, "-o", "json", node=node)
    lab.cli("endpoint", "config", number, "PolicyAuditMode=Disabled", node=node)
    assert not cluster.reaches()


def test_audit_mode_of_a_policy(cluster: Cluster) -> None:
    """A policy in audit mode denies nothing; what it would have denied is counted and shown."""
    document = cilium("tried", endpointSelector={"matchLabels": {"app": "server"}}, ingress=[{}])
    document["metadata"]["annotations"] = {"fimbria.io/policy-audit-mode": "true"}
    cluster.apply(document)
    node = cluster.node_of("server")
    until(lambda: cluster.policy("tried", node).get("status") == "audited")
    assert cluster.reaches()
    until(lambda: cluster.policy("tried", node)["shadow"]["denied"] > 0)
    assert cluster.policy("tried", node)["shadow"]["allowed"] == 0
    del document["metadata"]["annotations"]
    cluster.lab.kubectl("annotate", "cnp", "tried", "fimbria.io/policy-audit-mode-")
    until(lambda: not cluster.reaches())


def test_tiers(cluster: Cluster) -> None:
    """An admin rule decides before a policy of the namespace; the trace says so."""
    anyone = {"namespaces": {}}
    cluster.apply(cilium("open", ingress=[{"fromEndpoints": [{}]}]))
    until(lambda: cluster.policy("open").get("status") == "enforced")
    assert cluster.reaches()
    cluster.apply(admin("forbid", "Deny", anyone))
    until(lambda: not cluster.reaches())
    words = ("--src-k8s-pod", "default:client", "--dst-k8s-pod", "default:server")
    node = cluster.node_of("server")
    said = cluster.lab.cli("policy", "trace", *words, "--dport", "8080/TCP", node=node)
    assert "Final verdict: DENIED" in said
    assert "ClusterNetworkPolicy forbid" in said
    cluster.apply(admin("forbid", "Pass", anyone))
    until(cluster.reaches)


def test_addresses_outside(cluster: Cluster) -> None:
    """Prefixes, groups and addresses of Services have identities, and a trace judges by them."""
    lab, node = cluster.lab, cluster.node_of("client")
    labels = {"kubernetes.io/service-name": "outside"}
    cluster.apply(
        {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
         "metadata": {"name": "office"}, "spec": {"externalCIDRs": ["198.51.100.0/24"]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "outside"},
         "spec": {"ports": [{"port": 80}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": "outside-1", "labels": labels},
         "endpoints": [{"addresses": ["203.0.113.9"]}]},
        cilium("out", endpointSelector={"matchLabels": {"app": "client"}}, egress=[
            {"toCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]},
                           {"cidrGroupRef": "office"}]},
            {"toServices": [{"k8sService": {"serviceName": "outside", "namespace": "default"}}]},
        ]),
    )  # fmt: skip

    def addresses() -> dict[str, Document]:
        rows = json.loads(lab.cli("ip", "list", "-o", "json", node=node))
        return {one["cidr"]: one for one in rows if one["source"] == "generated"}

    wanted = {"192.0.2.0/24", "192.0.2.128/25", "198.51.100.0/24", "203.0.113.9/32"}
    found = until(lambda: (rows := addresses()).keys() == wanted and rows)
    identities = json.loads(lab.cli("identity", "list", "-o", "json", node=node))
    known = {one["id"]: one["labels"] for one in identities}
    for prefix in wanted:
        assert f"cidr:{prefix}" in known[found[prefix]["identity"]]
    rows = json.loads(lab.cli("policy", "selectors", "-o", "json", node=node))
    selectors = [one["selector"] for one in rows]
    assert "cidr 192.0.2.0/24 except 192.0.2.128/25" in selectors
    assert "service default/outside" in selectors
    for address, verdict in (
        ("192.0.2.1", "allowed"), ("192.0.2.129", "denied"), ("198.51.100.7", "allowed"),
        ("203.0.113.9", "allowed"), ("203.0.113.8", "denied"),
    ):  # fmt: skip
        words = ("--src-k8s-pod", "default:client", "--dst-ip", address, "--dport", "80/TCP")
        said = json.loads(lab.cli("policy", "trace", *words, "-o", "json", node=node))
        assert (address, said["verdict"]) == (address, verdict)
    lab.kubectl("delete", "service/outside", "endpointslice/outside-1")


def test_audit_mode_of_the_node(make_lab: Callable[..., Lab]) -> None:
    """policy-audit-mode lets everything pass, and says so in status and columns."""
    cluster = Cluster(make_lab(PODS, nodes=1, config={"policy-audit-mode": "true"}))
    cluster.lab.wait([["Pod", "default", "client"], ["Pod", "default", "server"]])
    cluster.apply(cilium("closed", ingress=[{}]))
    until(lambda: cluster.policy("closed").get("status") == "enforced")
    assert cluster.reaches()
    assert "audit mode" in cluster.status("Policy")
    assert "Disabled (Audit)" in cluster.lab.cli("endpoint", "list", "-o", "table")
