"""Nodes in the commands that judge manifests: with policies of their own, and named by labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fimbria.analysis import Engine, Flow, from_documents, load
from fimbria.analysis.atoms import cut_ends
from fimbria.analysis.diff import diff
from fimbria.analysis.matrix import State, matrix
from fimbria.analysis.prove import prove
from fimbria.analysis.whatif import whatif
from fimbria.analysis.whatif_flows import Recording
from fimbria.analysis.whatif_world import of_node
from fimbria.cli.main import root
from tests.unit.analysis.test_analysis_nodes import WORLD

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ("--enable-node-selector-labels", "--enable-host-firewall")
SSH = '    toPorts: [{ports: [{port: "22", protocol: TCP}]}]\n'
Document = dict[str, Any]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "world.yaml"
    path.write_text(WORLD)
    return path


@pytest.fixture
def engine(manifests: Path) -> Engine:
    return Engine(load([manifests], node_labels=True), host_firewall=True)


def clusterwide(name: str, spec: Document) -> Document:
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": name}, "spec": spec}  # fmt: skip


def run(*words: str | Path, code: int = 0, stdin: str = "", options: bool = True) -> str:
    """What `fimbria policy WORDS` prints."""
    command = ["policy", *map(str, words), *(OPTIONS if options else ())]
    done = CliRunner().invoke(root, command, input=stdin)
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("no path from entity:world to node=edge", ""),
        ("no path from app=web to nodes on TCP/22", ""),
        ("path from app=db to role=edge on TCP/22", ""),
        ("no path from app=db to node=edge", "default/db -> node:edge 22"),
        ("only app=db or nodes or entity:kube-apiserver can reach node=edge", ""),
        ("only app=db can reach node=edge on TCP/22", "node:core -> node:edge 22"),
        ("only role=core can reach app=web", ""),
        ("no path from entity:remote-node to app=web", "node:core -> default/web 1"),
        ("no path from entity:host to app=web", "node:edge -> default/web 1"),
        ("no path from entity:host to app=web and not nodes on UDP", "node:edge -> default/web 1"),
        ("no path from entity:remote-node and node=edge to pods", "node:edge -> default/db 1"),
        ("no path from nodes to pods", "node:edge -> default/db 1"),
    ],
)
def test_proofs(engine: Engine, text: str, packet: str) -> None:
    """A node is an end by name, by label, and as the entity that it is to the other end."""
    (proof,) = prove(engine, [text])
    assert not proof.vacuous
    flow = proof.example
    said = f"{flow.source} -> {flow.destination} {flow.port}" if flow is not None else ""
    assert said == packet
    assert proof.holds == (not packet)


def test_prove_takes_the_options(manifests: Path) -> None:
    """Without the firewall no policy is about nodes, so that nothing is said about them."""
    asked = ("prove", "-f", manifests, "no path from entity:world to nodes", "-o", "json")
    assert json.loads(run(*asked, code=1))[0]["counterexample"]["destination"] == "node:core"
    assert json.loads(run(*asked, options=False))[0]["result"] == "vacuous"


def test_diff_tells_of_nodes(manifests: Path, tmp_path: Path) -> None:
    """Another rule of a policy about nodes, and another node that a pod's rule names."""
    new = tmp_path / "new.yaml"
    text = WORLD.replace("fromEntities: [remote-node]", "fromEntities: [world]")
    new.write_text(text.replace("fromNodes: [{matchLabels: {role: core}}]", "fromNodes: [{}]"))
    said = run("diff", manifests, new, code=1)
    changes = json.loads(run("diff", manifests, new, "-o", "json", code=1))["changes"]
    ends = {
        (source["name"], target["name"], port["after"])
        for change in changes
        for source in change["sources"]
        for target in change["destinations"]
        for port in change["ports"]
    }
    assert ("node:core", "node:edge", "DENIED") in ends
    assert ("entity:world-ipv4", "node:edge", "ALLOWED") in ends
    assert ("entity:remote-node", "default/web", "ALLOWED") in ends
    assert ("node:core", "default/web", "ALLOWED") not in ends
    assert "after: default deny: CiliumClusterwideNetworkPolicy edge-nodes spec" in said
    without = run("diff", manifests, new, options=False)
    assert without == "No verdict changes.\n"


def test_diff_of_policies_about_nodes_needs_no_pods() -> None:
    """Nodes are ends enough, whichever version has them."""
    node: Document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    spec: Document = {"nodeSelector": {}, "ingress": [{"fromEntities": ["world"]}]}
    policy = clusterwide("p", spec)
    old, new = from_documents([node]), from_documents([policy])
    found = diff(old, new, host_firewall=True)
    ends = {(str(s), str(d)) for change in found.changes
            for s in change.sources for d in change.destinations}  # fmt: skip
    assert ends == {
        (f"entity:{name}", "node:n")
        for name in ("remote-node", "kube-apiserver", "health", "init", "ingress", "unmanaged")
    }
    assert not diff(old, new)


def test_matrix_has_nodes(engine: Engine) -> None:
    """Nodes have rows and columns; the entities that they are have none then."""
    found = matrix(engine)
    names = [str(end) for end in found.ends]
    assert names[:4] == ["default/db", "default/web", "node:edge", "node:core"]
    assert not {"entity:host", "entity:remote-node"} & set(names)
    states = {
        (source, target): found.pattern(row, column).state
        for row, source in enumerate(names)
        for column, target in enumerate(names)
    }
    assert states["default/db", "node:edge"] is State.SOME
    assert states["node:core", "node:edge"] is State.ALL
    assert states["entity:world-ipv4", "node:edge"] is State.NONE
    assert states["node:edge", "node:edge"] is State.NEVER
    assert states["node:edge", "default/web"] is State.ALL


def test_a_pods_own_node_has_labels_too(manifests: Path) -> None:
    """Rules that name nodes by labels name the one that the pod runs on, firewall or not."""
    found = matrix(Engine(load([manifests], node_labels=True)))
    names = [str(end) for end in found.ends]
    states = {
        other: found.pattern(names.index("default/web"), names.index(other)).state
        for other in ("node:edge", "node:core")
    }
    assert states == {"node:edge": State.ALL, "node:core": State.NONE}


def test_matrix_takes_the_options(manifests: Path) -> None:
    """With them the table has the nodes, and says by which ports they are reached."""
    assert "default/db => node:edge: TCP 22" in run("matrix", "-f", manifests)
    assert "node:edge" not in run("matrix", "-f", manifests, options=False)
    page = json.loads(run("matrix", "-f", manifests, "-o", "json"))
    assert [end["kind"] for end in page["ends"]][:4] == ["pods", "pods", "node", "node"]


def test_explain_has_a_cure_for_nodes(manifests: Path) -> None:
    """The cure is a rule where the spec is about that node only, and a policy of its own else."""
    text = run("explain", "-f", manifests, "web", "node:edge", "22")
    assert "add to CiliumClusterwideNetworkPolicy edge-nodes, spec.ingress" in text
    assert text.endswith("Tried: ALLOWED then; nothing else turns.\n")
    denied = json.loads(run("explain", "-f", manifests, "node:core", "node:edge", "22", "-o",
                            "json"))  # fmt: skip
    (edit,) = denied["addition"]["edits"]
    assert edit["object"]["spec"] == {
        "nodeSelector": {"matchLabels": {"role": "edge"}},
        "enableDefaultDeny": {"ingress": False},
        "ingressDeny": [
            {
                "fromNodes": [{"matchLabels": {"role": "core"}}],
                "toPorts": [{"ports": [{"port": "22", "protocol": "TCP"}]}],
            }
        ],
    }
    assert denied["addition"]["turned"] == ["node:core => node:edge: TCP 22 DENIED"]


def test_trace_asks_each_end_in_its_own_view(manifests: Path) -> None:
    """A pod sees its node as host, with the node's labels; the node has a policy of its own."""
    ends = ("--src-k8s-pod", "default:web", "--dst-ip", "172.18.0.2", "--dport", "22/TCP")
    text = run("trace", "-f", manifests, *ends)
    assert "To: [reserved:host, node:role=edge]" in text
    assert "Egress verdict: allowed, a rule allows it" in text
    assert "(CiliumClusterwideNetworkPolicy edge-nodes, spec)" in text
    assert text.endswith("Final verdict: DENIED\n")
    without = json.loads(run("trace", "-f", manifests, *ends, "-o", "json", options=False))
    assert [step["direction"] for step in without["steps"]] == ["egress"]


CHANGE = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: no-db}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: db}}]
"""


def test_whatif_takes_the_options(manifests: Path, tmp_path: Path) -> None:
    """Connections with nodes are judged by the policies about them."""
    change, flows = tmp_path / "change.yaml", tmp_path / "flows"
    change.write_text(CHANGE)
    ends = {"source": "default/db", "destination": "node:edge"}
    flows.write_text(json.dumps({**ends, "protocol": "TCP", "port": 22}))
    asked = ("whatif", "-f", change, "--resources", manifests, "--flows", flows, "-o", "json")
    (group,) = json.loads(run(*asked, code=1))["groups"]
    assert (group["destinations"], group["direction"]) == (["node:edge"], "ingress")
    assert group["after"]["ingress"]["policy"]["name"] == "no-db"
    assert not json.loads(run(*asked, options=False))["groups"]


def test_whatif_knows_a_nodes_nodes() -> None:
    """Of a node's own documents: nodes with addresses and labels, which events name by address."""
    spec = {"nodeSelector": {"matchLabels": {"role": "edge"}},
            "ingress": [{"fromEntities": ["cluster"]}]}  # fmt: skip
    policy: Document = {"kind": "CiliumClusterwideNetworkPolicy", "namespace": "", "name": "edge",
                        "spec": spec, "in-force": "all"}  # fmt: skip
    nodes: list[Document] = [
        {"name": "edge", "local": True, "addresses": ["172.18.0.2", "10.0.1.9"],
         "labels": ["node:role=edge"], "ipv4": {"address": "172.18.0.2", "cidr": "10.0.1.0/24"}},
        {"name": "core", "local": False, "addresses": ["172.18.0.3"], "labels": []},
    ]  # fmt: skip
    world = of_node([], [policy], nodes, node_labels=True)
    recording = Recording()
    recording.events(
        {"type": "policy-verdict", "action": "allow", "ct_state": "new", "protocol": 6,
         "saddr": source, "daddr": "10.0.1.9", "sport": port, "dport": 22,
         "src_labels": labels, "dst_labels": ["node:role=edge", "reserved:host"]}
        for port, (source, labels) in enumerate([
            ("172.18.0.3", ["reserved:remote-node"]),
            ("198.51.100.7", ["reserved:world-ipv4"]),
            ("172.18.0.3", ["reserved:kube-apiserver", "reserved:remote-node"]),
        ], 4000)
    )  # fmt: skip
    seen = list(recording.seen.values())
    gone = next(iter(world.policies))
    found = whatif(world, from_documents([]), [gone], seen, host_firewall=True)
    (group,) = found.groups
    assert group.sources == {"198.51.100.7"}
    assert group.destinations == {"10.0.1.9"}
    assert group.before.ingress.policy is not None
    assert not found.errors


def test_nodes_without_addresses_and_with_many() -> None:
    """One that is written by hand has none, and is an end all the same; families are ends."""
    ips = [{"type": "InternalIP", "address": ip} for ip in ("172.18.0.3", "172.18.0.4", "fd77::3")]
    labels = {"role": "core"}
    nodes: list[Document] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare", "labels": labels}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
         "status": {"addresses": ips}},
    ]  # fmt: skip
    spec = {"nodeSelector": {"matchLabels": labels}, "ingress": [{"fromCIDR": ["2001:db8::/32"]}]}
    policy = clusterwide("p", spec)
    engine = Engine(from_documents([*nodes, policy]), host_firewall=True)
    ends = [end for end in cut_ends([engine]) if end.kind == "node"]
    assert [(str(end), end.name, end.family) for end in ends] == [
        ("node:bare", "node:bare", 0), ("node:n", "node:n", 4), ("node:n (fd77::3)", "fd77::3", 6),
    ]  # fmt: skip
    verdicts = [engine.eval(Flow(source, "node:bare", "TCP", 22)).allowed
                for source in ("192.0.2.1", "2001:db8::1", "node:n")]  # fmt: skip
    assert verdicts == [False, True, False]


def test_a_node_knows_the_ports_that_pods_elsewhere_name() -> None:
    """A rule about a node that names a port by its name means the receiving pod's."""
    ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    spec: Document = {"nodeName": "b", "containers": [{"name": "c", "ports": ports}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}
    nodes: list[Document] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in ("a", "b")
    ]
    rule: Document = {"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "http"}]}]}
    policy = clusterwide("p", {"nodeSelector": {}, "egress": [rule]})
    engine = Engine(from_documents([pod, *nodes, policy]), host_firewall=True)
    for judge in ("model", "maps"):
        verdicts = [engine.eval(Flow("node:a", "default/web", "TCP", port), judge).allowed
                    for port in (8080, 80)]  # fmt: skip
        assert verdicts == [True, False]
