"""kubectl against the embedded API server: what its users do, with the real program.

Runs once per kubectl: the one on PATH, and those named in KUBECTLS (a colon-separated list of
paths), such as Debian's old one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BINARIES = [p for p in [shutil.which("kubectl"), *os.environ.get("KUBECTLS", "").split(":")] if p]
pytestmark = pytest.mark.skipif(not BINARIES, reason="there is no kubectl on this machine")

WORKLOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: app
        image: fimbria/echo:1
        ports: [{containerPort: 80}]
        env: [{name: GREETING, value: hello}, {name: COLOUR, value: red}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: rule1}
spec:
  endpointSelector: {matchLabels: {org: empire}}
  ingress: [{fromEndpoints: [{matchLabels: {org: empire}}]}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec: {containers: [{name: app, image: busybox, command: [sleep, infinity]}]}
"""


@dataclass(frozen=True)
class Kubectl:
    """A kubectl bound to a server and a namespace of its own."""

    binary: str
    kubeconfig: Path
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        return [self.binary, "-n", self.namespace, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        home = str(self.kubeconfig.parent)
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": home}

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True,
            env=self.environment, check=False, timeout=60,
        )  # fmt: skip

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, f"{arguments}: {result.stderr}"
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    @property
    def minor(self) -> int:
        version = json.loads(self("version", "--client", "-o", "json"))["clientVersion"]
        return int(version["minor"].rstrip("+"))


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server on a loopback port of its own, for this module."""
    directory = tmp_path_factory.mktemp("apiserver")
    path = directory / "kubeconfig"
    read, write = os.pipe()
    program = "from fimbria.apiserver.command import command; command()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "--data", str(directory / "data.db"),
         "--listen", "127.0.0.1:0", "--kubeconfig-out", str(path), "--ready-fd", str(write)],
        pass_fds=[write],
    ) as server:  # fmt: skip
        os.close(write)
        with os.fdopen(read) as ready:
            assert json.loads(ready.readline())["listen"]
        yield path
        server.terminate()
    assert server.returncode == 0


@pytest.fixture(params=BINARIES, ids=[binary.replace("/", "_") for binary in BINARIES])
def kubectl(request: pytest.FixtureRequest, kubeconfig: Path) -> Kubectl:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    result = Kubectl(request.param, kubeconfig, namespace)
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    result("create", "-f", "-", stdin=json.dumps(manifest))
    return result


def test_apply_creates_and_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    """apply creates what is absent, says `unchanged` for the same input, and merges changes."""
    assert kubectl("apply", "-f", "-", stdin=WORKLOAD).count("created") == 3
    assert kubectl("apply", "-f", "-", stdin=WORKLOAD).count("unchanged") == 3
    kubectl("set", "env", "deployment/web", "OTHER=theirs")
    changed = WORKLOAD.replace("value: hello", "value: hi").replace(
        ", {name: COLOUR, value: red}", ""
    )
    output = kubectl("apply", "-f", "-", stdin=changed)
    assert output.count("configured") == 1
    web = kubectl.json("get", "deployment", "web")
    env = web["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {item["name"]: item["value"] for item in env} == {"GREETING": "hi", "OTHER": "theirs"}


def test_apply_of_a_custom_resource_replaces_its_lists(kubectl: Kubectl) -> None:
    """Custom resources are applied by JSON merge patch: a list is replaced as a whole."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD)
    kubectl("apply", "-f", "-", stdin=WORKLOAD.replace("org: empire}}]}]", "org: alliance}}]}]"))
    policy = kubectl.json("get", "cnp", "rule1")
    peers = policy["spec"]["ingress"][0]["fromEndpoints"]
    assert peers == [{"matchLabels": {"org": "alliance"}}]
    assert policy["metadata"]["generation"] == 2


def test_get_shows_the_kinds_columns(kubectl: Kubectl) -> None:
    """get -o wide prints the columns that users of each kind know."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD + "---" + POD)
    wide = kubectl("get", "pods", "-o", "wide").splitlines()
    assert wide[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert wide[1].split()[:4] == ["one", "0/1", "Pending", "0"]
    service = kubectl("get", "svc", "web").splitlines()[1].split()
    assert service[1] == "ClusterIP"
    assert service[2].startswith("10.96.")
    assert service[4] == "80/TCP"
    assert kubectl("get", "deploy", "web").splitlines()[1].split()[:2] == ["web", "0/2"]
    assert "AGE" in kubectl("get", "cnp,ccnp,cep,ciliumid,cn,netpol,nodes,ns,events,leases")
    names = kubectl("get", "pods", "-A", "--sort-by=.metadata.name", "-o", "name")
    assert "pod/one" in names
    assert kubectl("get", "all", "-o", "name").split() == [
        "pod/one", "service/web", "deployment.apps/web",
    ]  # fmt: skip


def test_short_names_and_api_resources(kubectl: Kubectl) -> None:
    """Discovery tells kubectl the kinds with their short names."""
    listing = kubectl("api-resources")
    for short in ("cnp,ciliumnp", "ccnp", "cep,ciliumep", "ciliumid", "cn,ciliumn", "netpol"):
        assert short in listing
    assert "cilium.io/v2" in kubectl("api-versions")


def test_watch_prints_each_change(kubectl: Kubectl) -> None:
    """get -w prints the present objects, then a line for every change."""
    kubectl("apply", "-f", "-", stdin=POD)
    command = kubectl.command("get", "pods", "-w", "--no-headers")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=kubectl.environment
    ) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().split()[:3] == ["one", "0/1", "Pending"]
        kubectl("delete", "pod", "one", "--wait=false")
        assert watch.stdout.readline().split()[0] == "one"
        watch.kill()


def test_describe_lists_what_belongs_together(kubectl: Kubectl) -> None:
    """describe works for the kinds that users look into, events included."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD + "---" + POD)
    pod = kubectl.json("get", "pod", "one")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "one.1", "namespace": kubectl.namespace},
        "involvedObject": {"kind": "Pod", "name": "one", "namespace": kubectl.namespace,
                           "uid": pod["metadata"]["uid"]},
        "reason": "Pulled", "message": "ready to start", "type": "Normal", "count": 1,
        "firstTimestamp": pod["metadata"]["creationTimestamp"],
        "lastTimestamp": pod["metadata"]["creationTimestamp"],
    }  # fmt: skip
    kubectl("create", "-f", "-", stdin=json.dumps(event))
    assert "ready to start" in kubectl("describe", "pod", "one")
    assert "0 available" in kubectl("describe", "deployment", "web")
    assert "TargetPort" in kubectl("describe", "service", "web")
    assert "Endpoint Selector" in kubectl("describe", "cnp", "rule1")
    assert "Active" in kubectl("describe", "namespace", kubectl.namespace)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": kubectl.namespace}}
    kubectl("create", "-f", "-", stdin=json.dumps(node))
    assert "Non-terminated Pods" in kubectl("describe", "node", kubectl.namespace)


def test_label_annotate_patch(kubectl: Kubectl) -> None:
    """label, annotate and the three patch types change what they name and nothing else."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD)
    kubectl("label", "deployment", "web", "tier=front")
    kubectl("annotate", "cnp", "rule1", "note=kept")
    image = '{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"x:2"}]}}}}'
    kubectl("patch", "deployment", "web", "-p", image)
    kubectl("patch", "cnp", "rule1", "--type=merge", "-p", '{"spec":{"description":"why"}}')
    kubectl("patch", "deployment", "web", "--type=json", "-p",
            '[{"op":"replace","path":"/spec/replicas","value":7}]')  # fmt: skip
    web = kubectl.json("get", "deployment", "web")
    assert web["metadata"]["labels"] == {"app": "web", "tier": "front"}
    container = web["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["ports"][0]["containerPort"]) == ("x:2", 80)
    assert web["spec"]["replicas"] == 7
    policy = kubectl.json("get", "cnp", "rule1")
    assert policy["metadata"]["annotations"]["note"] == "kept"
    assert policy["spec"]["description"] == "why"
    assert kubectl("get", "deployment", "-l", "tier in (front)", "-o", "name").split()


def test_diff_shows_what_apply_would_change(kubectl: Kubectl) -> None:
    """diff exits 1 with the difference and changes nothing; 0 if there is none."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD)
    assert kubectl.run("diff", "-f", "-", stdin=WORKLOAD).returncode == 0
    changed = kubectl.run("diff", "-f", "-", stdin=WORKLOAD.replace("empire", "alliance"))
    assert changed.returncode == 1
    assert "+        org: alliance" in changed.stdout
    fresh = kubectl.run("diff", "-f", "-", stdin=POD)
    assert fresh.returncode == 1, fresh.stderr
    assert "pods" not in kubectl("get", "pods", "-o", "name")
    assert kubectl("apply", "-f", "-", "--dry-run=server", stdin=POD)
    assert not kubectl("get", "pods", "-o", "name")


def test_replace_scale_edit(kubectl: Kubectl) -> None:
    """replace sends the whole object back; scale uses the subresource."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD)
    kubectl("scale", "deployment/web", "--replicas=5")
    kubectl("scale", "deployment/web", "--current-replicas=5", "--replicas=6")
    web = kubectl.json("get", "deployment", "web")
    assert web["spec"]["replicas"] == 6
    stale = json.dumps(web)
    kubectl("label", "deployment", "web", "new=er")
    refused = kubectl.run("replace", "-f", "-", stdin=stale)
    assert "the object has been modified" in refused.stderr
    editor = {**kubectl.environment, "KUBE_EDITOR": "sed -i s/replicas:.6/replicas:\\ 8/"}
    subprocess.run(kubectl.command("edit", "deployment/web"), env=editor, check=True,
                   capture_output=True, timeout=60)  # fmt: skip
    assert kubectl.json("get", "deployment", "web")["spec"]["replicas"] == 8


def test_delete_waits_and_cascades(kubectl: Kubectl) -> None:
    """delete ends when the object is gone; selectors, --all and namespaces work."""
    kubectl("apply", "-f", "-", stdin=WORKLOAD + "---" + POD)
    kubectl("delete", "pod", "one")
    kubectl("delete", "deployment", "-l", "app=web")
    kubectl("delete", "cnp", "--all")
    assert kubectl("get", "pods,deployments,cnp", "-o", "name") == ""
    kubectl("delete", "namespace", kubectl.namespace)
    missing = kubectl.run("get", "namespace", kubectl.namespace)
    assert "not found" in missing.stderr
    assert kubectl.run("apply", "-f", "-", stdin=POD).returncode == 1


def test_wait_for_condition_and_deletion(kubectl: Kubectl) -> None:
    """wait returns when a condition holds or an object is gone."""
    kubectl("apply", "-f", "-", stdin=POD)
    with subprocess.Popen(
        kubectl.command("wait", "--for=condition=Ready", "pod/one", "--timeout=30s"),
        stdout=subprocess.PIPE, text=True, env=kubectl.environment,
    ) as waiting:  # fmt: skip
        status = '{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}'
        path = f"/api/v1/namespaces/{kubectl.namespace}/pods/one/status"
        pod = json.loads(kubectl("get", "--raw", path))
        pod.update(json.loads(status))
        kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(pod))
        assert "condition met" in waiting.communicate(timeout=60)[0]
    assert kubectl("get", "pod", "one", "--no-headers").split()[2] == "Running"
    kubectl("delete", "pod", "one", "--wait=false")
    if kubectl.minor >= 23:  # older ones take an object that is gone already for a mistake
        kubectl("wait", "--for=delete", "pod/one", "--timeout=30s")


def test_generators_of_kubectl(kubectl: Kubectl) -> None:
    """create KIND, run and expose work, in whatever encoding this kubectl sends."""
    kubectl("create", "configmap", "settings", "--from-literal=a=b")
    kubectl("create", "secret", "generic", "hidden", "--from-literal=key=value")
    kubectl("create", "serviceaccount", "robot")
    kubectl("create", "deployment", "made", "--image=fimbria/echo:1")
    kubectl("run", "single", "--image=busybox", "--labels=a=b", "--", "sleep", "1")
    kubectl("expose", "deployment", "made", "--port=80", "--target-port=8080")
    assert kubectl.json("get", "cm", "settings")["data"] == {"a": "b"}
    assert kubectl.json("get", "secret", "hidden")["data"] == {"key": "dmFsdWU="}
    made = kubectl.json("get", "deployment", "made")
    assert made["spec"]["replicas"] == 1
    assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "fimbria/echo:1"
    assert kubectl.json("get", "svc", "made")["spec"]["ports"][0]["targetPort"] == 8080
    name = f"{kubectl.namespace}-more"
    kubectl("create", "namespace", name)
    kubectl("delete", "namespace", name)
    assert kubectl("auth", "can-i", "create", "pods").strip() == "yes"


def test_server_side_apply_is_refused_with_a_way_out(kubectl: Kubectl) -> None:
    """Server-side apply says that it is not there, and what to use."""
    refused = kubectl.run("apply", "--server-side", "-f", "-", stdin=POD)
    assert refused.returncode == 1
    assert "without --server-side" in refused.stderr


def test_errors_name_the_field(kubectl: Kubectl) -> None:
    """A bad object is refused with the path of the field."""
    bad = WORKLOAD.replace("replicas: 2", "replicas: -2")
    refused = kubectl.run("apply", "--validate=false", "-f", "-", stdin=bad)
    assert refused.returncode == 1
    assert "spec.replicas" in refused.stderr


def test_explain_knows_the_fields(kubectl: Kubectl) -> None:
    """explain describes kinds from the served OpenAPI (v3, so from 1.27 on)."""
    if kubectl.minor < 27:
        pytest.skip("this kubectl explains from OpenAPI v2 definitions, which are not served")
    assert "containers" in kubectl("explain", "pod.spec")


KINDS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: whole}
spec:
  description: every part of a rule
  endpointSelector: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}
  enableDefaultDeny: {ingress: true}
  ingress:
  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidrGroupRef: office}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}, {port: "8000", endPort: 8080, protocol: TCP}]
      rules: {http: [{method: GET, path: /x, headers: [A]}]}
  - fromEntities: [cluster]
    icmps: [{fields: [{type: 8, family: IPv4}]}]
  ingressDeny: [{fromNodes: [{matchLabels: {a: b}}]}]
  egress:
  - toFQDNs: [{matchPattern: "*.example.com"}]
  - toServices: [{k8sService: {serviceName: web, namespace: x}}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: %(name)s}
spec: {nodeSelector: {}, ingress: [{}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumCIDRGroup
metadata: {name: %(name)s}
spec: {externalCIDRs: [192.0.2.0/24]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: %(name)s}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress: [{name: first, action: Deny, from: [{namespaces: {matchLabels: {a: b}}}]}]
  egress:
  - action: Pass
    to: [{networks: [10.0.0.0/8]}]
    protocols: [{tcp: {destinationPort: {range: {start: 1, end: 9}}}}]
"""


def test_the_policy_kinds(kubectl: Kubectl) -> None:
    """All kinds of policies, and what they refer to, are applied, shown, described, patched."""
    name = kubectl.namespace
    manifest = KINDS % {"name": name}
    assert kubectl("apply", "-f", "-", stdin=manifest).count("created") == 4
    assert kubectl("apply", "-f", "-", stdin=manifest).count("unchanged") == 4
    head, row = kubectl("get", "clusternetworkpolicies", name).splitlines()
    assert head.split() == ["NAME", "TIER", "PRIORITY", "AGE", "VALID"]
    assert row.split()[:3] == [name, "Admin", "10"]
    group = kubectl.json("get", "ciliumcidrgroup", name)
    assert group["apiVersion"] == "cilium.io/v2"
    assert kubectl.json("get", "ciliumcidrgroups.v2alpha1.cilium.io", name) == {
        **group, "apiVersion": "cilium.io/v2alpha1",
    }  # fmt: skip
    for kind in ("cnp/whole", f"ccnp/{name}", f"ccg/{name}", f"clusternetworkpolicy/{name}"):
        status = {"status": {"conditions": [{"type": "Valid", "status": "True", "reason": "x"}]}}
        if kubectl.minor >= 24:
            kubectl("patch", kind, "--subresource=status", "--type=merge", "-p", json.dumps(status))
            assert "Valid" in kubectl("describe", kind)
        assert "Spec:" in kubectl("describe", kind)
    kubectl("delete", "-f", "-", stdin=manifest)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("tier: Admin", "tier: Root", "spec.tier"),
        ("priority: 10", "priority: 1001", "spec.priority"),
        ("action: Deny", "action: Allow", "spec.ingress[0].action"),
        ("fromEntities: [cluster]", "fromEntities: cluster", "spec.ingress[1].fromEntities"),
        ("operator: In", "operator: Is", "spec.endpointSelector.matchExpressions[0].operator"),
        ("except: [10.1.0.0/16]", "except: 1", "spec.ingress[0].fromCIDRSet[0].except"),
        ("externalCIDRs: [192.0.2.0/24]", "externalCIDRs: {}", "spec.externalCIDRs"),
    ],
)
def test_a_wrong_field_of_a_policy_is_named(
    kubectl: Kubectl, old: str, new: str, field: str
) -> None:
    """What is of the wrong type, or none of a closed set, is refused with its path."""
    manifest = (KINDS % {"name": kubectl.namespace}).replace(old, new)
    result = kubectl.run("apply", "--validate=false", "-f", "-", stdin=manifest)
    assert result.returncode == 1
    assert field in result.stderr
    kubectl("delete", "--ignore-not-found", "-f", "-", stdin=manifest)
