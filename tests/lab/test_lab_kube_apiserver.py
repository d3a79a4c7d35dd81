"""A lab over a kube-apiserver: the same cluster, whoever serves the API.

With KUBE_APISERVER (and ETCD, or an etcd beside it or on PATH) naming real programs, these tests
run them. Without, two stand-ins take their places: they refuse flags that the real ones do not
have, the one listens as etcd does, the other serves the embedded API over TLS with the
certificate and the token table it was given. So what is proved then is the plumbing around
kube-apiserver (start order, credentials, forwarding, registration, supervision), not its API.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from fimbria.lab.client import Lab
from fimbria.lab.spec import LabError, LabSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

ETCD = """#!{python}
import argparse, asyncio
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("data-dir", "listen-client-urls", "advertise-client-urls", "listen-peer-urls",
             "initial-advertise-peer-urls", "initial-cluster"):
    parser.add_argument("--" + name, required=True)
options = parser.parse_args()
async def main():
    for urls in (options.listen_client_urls, options.listen_peer_urls):
        await asyncio.start_server(lambda *_: None, "127.0.0.1", int(urls.rpartition(":")[2]))
    await asyncio.Event().wait()
asyncio.run(main())
"""
KUBE_APISERVER = """#!{python}
import argparse, pathlib, sys
from fimbria.apiserver.main import ApiServerConfig, serve
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("etcd-servers", "bind-address", "advertise-address", "endpoint-reconciler-type",
             "cert-dir", "authorization-mode", "service-account-issuer",
             "service-cluster-ip-range", "disable-admission-plugins"):
    parser.add_argument("--" + name, required=True)
for name in ("tls-cert-file", "tls-private-key-file", "token-auth-file",
             "service-account-key-file", "service-account-signing-key-file"):
    parser.add_argument("--" + name, required=True, type=pathlib.Path)
parser.add_argument("--secure-port", required=True)
parser.add_argument("--allow-privileged", action="store_true")
options = parser.parse_args()
assert "PRIVATE KEY" in options.service_account_signing_key_file.read_text()
serve(ApiServerConfig(
    pathlib.Path(options.cert_dir) / "objects.db",
    (options.bind_address + ":" + options.secure_port,),
    options.token_auth_file, options.tls_cert_file, options.tls_private_key_file,
))
"""
MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: far}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, image: fimbria/sleep}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: c, image: fimbria/echo, ports: [{containerPort: 8080}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: echo}
spec:
  endpointSelector: {matchLabels: {app: echo}}
  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]
"""


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for a condition to give something true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.05)
    return found


def program(path: Path, text: str) -> Path:
    """An executable file."""
    path.write_text(text.replace("{python}", sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of kube-apiserver and etcd ("": beside it, or on PATH)."""
    if real := os.environ.get("KUBE_APISERVER"):
        return real, os.environ.get("ETCD", "")
    folder = tmp_path_factory.mktemp("programs")
    program(folder / "etcd", ETCD)
    return str(program(folder / "kube-apiserver", KUBE_APISERVER)), ""


@pytest.fixture(scope="module")
def real_lab(programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A two-node lab over it, with MANIFEST applied."""
    manifest = tmp_path_factory.mktemp("real") / "manifest.yaml"
    manifest.write_text(MANIFEST)
    spec = LabSpec(f"real-{os.getpid()}", kube_apiserver=programs[0], etcd=programs[1])
    lab = Lab.up(spec, [manifest])
    yield lab
    lab.down()


def servers(lab: Lab) -> dict[str, psutil.Process]:
    """The API's processes by the name of their program."""
    parent = psutil.Process(lab.status()["apiserver_pid"])
    found = {"fimbria": parent}
    for process in parent.children():
        words = " ".join(process.cmdline())
        found["kube-apiserver" if "--etcd-servers" in words else "etcd"] = process
    return found


def seen(lab: Lab, pod: str) -> str:
    """The name of the pod that answers the client, "" if none does."""
    address = lab.pod(pod)["addresses"][0]
    answer = lab.exec("client", ["curl", "-s", "-m", "2", f"http://{address}:8080/"]).stdout
    return json.loads(answer)["pod"] if answer else ""


def replicas(lab: Lab) -> list[str]:
    return [one["name"] for one in lab.status()["pods"] if one["name"].startswith("echo-")]


def test_pods_and_policy_work_over_it(real_lab: Lab) -> None:
    """Pods run on both nodes and reach each other as a CiliumNetworkPolicy of that API allows."""
    pods = replicas(real_lab)
    assert {real_lab.pod(one)["node"] for one in pods} == {"node1", "node2"}
    assert [seen(real_lab, one) for one in pods] == pods
    assert set(servers(real_lab)) == {"fimbria", "etcd", "kube-apiserver"}


def test_kubectl_reaches_it_over_loopback(real_lab: Lab) -> None:
    """kubectl verifies our certificate, and finds the cilium.io kinds by their short names."""
    assert "echo" in real_lab.kubectl("get", "cnp")
    assert "SECURITY IDENTITY" in real_lab.kubectl("get", "cep")
    assert "far" in real_lab.kubectl("get", "serviceaccount", "default", "-n", "far", "-o", "yaml")


def test_what_a_controller_manager_would_do_is_done(real_lab: Lab) -> None:
    """A deleted Deployment takes its pods with it, a deleted namespace its contents."""
    real_lab.kubectl("create", "deployment", "short", "--image=fimbria/sleep", "-n", "far")
    until(lambda: any(pod["namespace"] == "far" for pod in real_lab.status()["pods"]))
    real_lab.kubectl("delete", "deployment", "short", "-n", "far", "--wait=false")
    until(lambda: not any(pod["namespace"] == "far" for pod in real_lab.status()["pods"]))
    real_lab.kubectl("create", "configmap", "note", "-n", "far")
    real_lab.kubectl("delete", "namespace", "far", "--wait=false")
    until(lambda: "far" not in real_lab.kubectl("get", "namespaces", "-o", "name"))


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver", "fimbria"])
def test_a_killed_server_comes_back(real_lab: Lab, name: str) -> None:
    """kill -9 of either, or of what runs them: traffic goes on, the API is back as it was."""
    before = servers(real_lab)
    os.kill(before[name].pid, signal.SIGKILL)
    assert seen(real_lab, replicas(real_lab)[0])

    def back() -> bool:
        try:
            return "echo" in real_lab.kubectl("get", "cnp", "--request-timeout=2s")
        except LabError:
            return False

    until(lambda: not before[name].is_running() and back())
    after = servers(real_lab)
    assert not {one.pid for one in before.values()} & {one.pid for one in after.values()}


def test_one_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    """`lab up` says what kube-apiserver said, and leaves nothing behind."""
    program(tmp_path / "etcd", ETCD)
    broken = program(tmp_path / "broken", "#!/bin/sh\necho no such flag >&2\nexit 3\n")
    spec = LabSpec(f"broken-{os.getpid()}", kube_apiserver=str(broken))
    with pytest.raises(LabError, match=r"(?s)no such flag.*broken ended with 3"):
        Lab.up(spec)
    assert not Lab(spec.name).paths.directory.exists()


def test_mistaken_paths_are_named(tmp_path: Path) -> None:
    """A path that is no program, or an etcd without kube-apiserver, is an error before anything."""
    up = [sys.executable, "-m", "fimbria.cli.main", "lab", "up", "--name", "never"]
    for words, reason in (
        (["--kube-apiserver", str(tmp_path / "none")], "none: is no program"),
        (["--etcd", sys.executable], "etcd: is for a kube-apiserver"),
    ):
        done = subprocess.run([*up, *words], capture_output=True, text=True, check=False)
        assert done.returncode
        assert reason in done.stderr
