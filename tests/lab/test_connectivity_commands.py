"""Every noun of the command line against a real node, and the map commands without its agent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
FIMBRIA = str(Path(sys.executable).parent / "fimbria")
PATIENCE = 20.0

pytestmark = pytest.mark.root


def fimbria(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FIMBRIA, *words], capture_output=True, text=True, check=False)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """The star-wars scenario on one node, its policy enforced, one request denied."""
    name = f"cli-{os.getpid()}"
    try:
        manifests = ("-f", str(ROOT / "demo" / "starwars.yaml"))
        up = fimbria("lab", "up", "--name", name, "--nodes", "1", *manifests)
        assert up.returncode == 0, up.stderr
        kubeconfig = fimbria("lab", "kubeconfig", "--name", name).stdout.strip()
        argv = ["kubectl", f"--kubeconfig={kubeconfig}", "apply", "-f", "demo/policy.yaml"]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
        until(lambda: "rule1" in fimbria("--lab", name, "policy", "list").stdout, "policy heard")
        assert fimbria("--lab", name, "policy", "wait").returncode == 0
        source = (ROOT / "demo" / "request.py").read_text()
        argv = ["lab", "exec", "--name", name, "xwing", "--", sys.executable, "-c", source]
        answer = fimbria(*argv, f"land={address(name, 'deathstar')}")
        assert json.loads(answer.stdout) == [None], answer.stderr
        yield name
    finally:
        fimbria("lab", "down", "--name", name)


@pytest.fixture
def node(lab: str) -> Callable[..., str]:
    """Run a command against the node; return what it printed."""

    def run(*words: str) -> str:
        done = fimbria("--lab", lab, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def pods(lab: str) -> list[dict[str, Any]]:
    return json.loads(fimbria("lab", "status", "--name", lab, "-o", "json").stdout)["pods"]


def address(lab: str, prefix: str) -> str:
    return next(pod["addresses"][0] for pod in pods(lab) if pod["name"].startswith(prefix))


def test_status(node) -> None:
    """The lines that operators look for, requested beside effective, and OK in brief."""
    text = node("status")
    for name in ("Kubernetes", "IPAM", "Routing", "Controller Status"):
        assert re.search(rf"^{name}: +\S", text, re.M), text
    assert "requested:" in text
    assert node("status", "--brief") == "OK\n"
    assert "Controller" in node("status", "-v")


def test_endpoints(node, lab) -> None:
    """All pods are there, ready, with identity and address; the policy's subjects are enforced."""
    listed = json.loads(node("endpoint", "list", "-o", "json"))
    found = {one["networking"]["addressing"][0]["ipv4"]: one for one in listed}
    for pod in pods(lab):
        one = found[pod["addresses"][0]]
        assert one["state"] == "ready"
        assert one["identity"]["id"] > 255
        enforcing = one["policy"]["ingress"]["enforcing"]
        assert enforcing is pod["name"].startswith("deathstar")
    text = node("endpoint", "list")
    assert "Enabled" in text
    assert "k8s:org=alliance" in text
    one = json.loads(node("endpoint", "get", "pod-name:default/xwing", "-o", "json"))
    assert found[address(lab, "xwing")]["id"] == one["id"]


def test_identities_addresses_nodes(node, lab) -> None:
    """Identities, addresses and nodes, as tables and documents."""
    assert "reserved:host" in node("identity", "list")
    assert f"{address(lab, 'xwing')}/32" in node("ip", "list")
    assert "node1" in node("node", "list")
    assert json.loads(node("identity", "get", "1", "-o", "json"))["labels"] == ["reserved:host"]


def test_config_and_maps(node) -> None:
    """Configuration keys with their source, maps with their sizes."""
    assert re.search(r"^routing-mode +tunnel +tunnel ", node("config", "get", "routing-mode"), re.M)
    assert re.search(r"^cilium_lxc +\d+ +0 +", node("map", "list"), re.M)
    assert "cilium_lxc" in node("map", "list")
    node("map", "get", "cilium_lxc")


def test_policy(node) -> None:
    """The policy is listed with its revision, its selectors with the identities they mean."""
    assert re.search(r"^Revision: \d+$", node("policy", "get"), re.M)
    assert "rule1" in node("policy", "list")
    assert "IDENTITIES" in node("policy", "selectors")


def test_trace(node, lab) -> None:
    """The trace says why, in both cases."""
    star = next(pod["name"] for pod in pods(lab) if pod["name"].startswith("deathstar"))
    words = ("--dst-k8s-pod", f"default:{star}", "--dport", "80/TCP")
    denied = node("policy", "trace", "--src-k8s-pod", "default:xwing", *words)
    assert "Tracing From: [" in denied
    assert "Ingress verdict: denied" in denied
    assert denied.rstrip().endswith("Final verdict: DENIED")
    allowed = node("policy", "trace", "--src-k8s-pod", "default:tiefighter", *words)
    assert allowed.rstrip().endswith("Final verdict: ALLOWED")


def test_monitor(node, lab) -> None:
    """The denied request is there as a drop and as a verdict, explained."""
    text = node("monitor", "--last", "50", "--type", "drop", "-v")
    assert "xx drop (Policy denied)" in text
    assert f"-> {address(lab, 'deathstar')}:80 tcp SYN" in text
    assert "default/xwing" in text
    assert "rule1" in text
    verdicts = node("monitor", "--last", "50", "-t", "policy-verdict")
    assert "action deny" in verdicts


def test_maps_without_agent(node, lab) -> None:
    """What the pinned maps say agrees with the agent, and can be read while it is stopped."""
    own = json.loads(node("endpoint", "list", "-o", "json"))
    status = json.loads(fimbria("lab", "status", "--name", lab, "-o", "json").stdout)
    words = ("--socket", "/nonexistent", "bpf", "--bpf-root", status["nodes"][0]["bpffs"])
    listed = json.loads(fimbria(*words, "endpoint", "list", "-o", "json").stdout)
    assert {one["id"] for one in own if one["id"]} == {one["id"] for one in listed if one["id"]}
    assert f"{address(lab, 'xwing')}/32" in fimbria(*words, "ipcache", "list").stdout
    assert "80/TCP" in fimbria(*words, "policy", "list").stdout
    assert "Policy denied" in fimbria(*words, "metrics", "list").stdout
    assert fimbria(*words, "ct", "list").returncode == 0
    assert "rule1" in node("bpf", "policy", "list")
