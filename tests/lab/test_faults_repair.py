"""Devices of a node are taken away while its pods talk to another node's: it recovers by itself."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.lab.spec import LabError
from tests.lab.hostlab import until
from tests.lab.load import PODS, ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


def change(lab: Lab, node: str, *command: str) -> None:
    """Change a node's network behind its agent's back."""
    inside = ["nsenter", f"--net={lab.node(node)['netns']}", *command]
    subprocess.run(inside, check=True, capture_output=True)


def line(lab: Lab, node: str, name: str) -> dict[str, Any]:
    """One line of a node's status; nothing while the status is a failure."""
    try:
        lines = json.loads(lab.cli("status", "-o", "json", node=node))["lines"]
    except LabError:
        return {"text": ""}
    return next(one for one in lines if one["name"] == name)


def pings(lab: Lab, pod: str) -> bool:
    """Whether the client gets an answer from every address of a pod."""
    return all(
        lab.exec("client", ["ping", "-c", "1", "-W", "1", address]).returncode == 0
        for address in lab.pod(pod)["addresses"]
    )


def recovers(lab: Lab, words: str) -> None:
    """Wait until node1 says what was put right, and its pods reach both nodes' pods."""
    until(lambda: words in line(lab, "node1", "Node")["text"], f"not told: {words}")
    ready(lab, "node1")
    until(lambda: pings(lab, "near") and pings(lab, "far"), f"no answer after {words}")


@pytest.mark.parametrize("configuration", ["tunnel", "native"])
def test_devices_are_taken_away(make_lab: Callable[..., Lab], configuration: str) -> None:
    """Ours are made again, the node's own are followed under their new names."""
    lab = make_lab(PODS, ipv6=True, routing=configuration)
    for node in ("node1", "node2"):
        ready(lab, node)
    until(lambda: pings(lab, "near") and pings(lab, "far"), "no answer at all")
    ours = ["cilium_host", *["cilium_vxlan"] * (configuration == "tunnel")]
    for device in ours:
        change(lab, "node1", "ip", "link", "delete", device)
        recovers(lab, f"{device} was deleted")
    change(lab, "node1", "ip", "link", "set", "eth0", "name", "wan0")
    recovers(lab, "eth0 was renamed to wan0")
    assert line(lab, "node1", "Devices")["text"].startswith("wan0 ")
