"""`fimbria connectivity test` in real labs, one per way of routing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FIMBRIA = str(Path(sys.executable).parent / "fimbria")
QUICK = (
    "no-policies|host-to-pod|pod-to-host|^client-egress-and-echo-ingress|^port$|icmp-only"
    "|ingress-deny$|label-change|refused-policy-closes|entity-remote-node"
)

MODES = {
    "tunnel": (),
    "native": ("--routing", "native", "--ipv6"),
    "legacy": ("--host-routing", "legacy", "--ipv6"),
}


def fimbria(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FIMBRIA, *words], capture_output=True, text=True, check=check)


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest) -> Iterator[str]:
    """A two-node lab in one mode."""
    name = f"conn-{request.param}-{os.getpid()}"
    try:
        up = fimbria(
            "lab", "up", "--name", name, "--nodes", "2", *MODES[request.param], check=False
        )
        assert up.returncode == 0, up.stderr
        yield name
    finally:
        fimbria("lab", "down", "--name", name, check=False)


def failures(report: dict[str, Any]) -> list[str]:
    return [
        f"{test['name']}: {action['action']}: {action['problem']}"
        for test in report["tests"]
        for action in test["actions"]
        if action["problem"]
    ]


@pytest.mark.root
@pytest.mark.timeout(300)
def test_connectivity(lab: str, tmp_path: Path) -> None:
    """Every action ends as the policies say, every refusal is explained; nothing stays behind."""
    junit = tmp_path / "junit.xml"
    words = ("connectivity", "test", "--lab", lab, "-o", "json", "--junit", str(junit))
    done = fimbria(*words, "--test", QUICK, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert failures(report) == []
    assert done.returncode == 0
    assert sum(len(test["actions"]) for test in report["tests"]) > 100
    assert 'failures="0"' in junit.read_text()
    pods = json.loads(fimbria("lab", "status", "--name", lab, "-o", "json").stdout)["pods"]
    assert [pod for pod in pods if pod["namespace"].startswith("fimbria-test")] == []


@pytest.mark.root
def test_no_such_test(lab: str) -> None:
    """A name that no scenario has is refused before anything is deployed."""
    done = fimbria("connectivity", "test", "--lab", lab, "--test", "nonsense", check=False)
    assert done.returncode == 2
    assert "connectivity list" in done.stderr
