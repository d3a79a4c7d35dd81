"""Policies on trial: what nobody confirms is taken back, whatever happens to the agent."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.lab.spec import LabError
from tests.lab.hostlab import (
    CONFIG,
    PATH,
    SSH,
    Session,
    curl,
    echoes,
    found,
    label,
    listening,
    policy,
    reaches,
    remove,
    until,
)
from tests.lab.load import ready, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fimbria.lab.client import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODES = ("node1", "node2")
NEEDED = [{"fromEntities": ["remote-node", "kube-apiserver"]}]


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Two nodes with the host firewall; policies select both."""
    made = make_lab("", config=CONFIG)
    for node in NODES:
        label(made, node, role="guarded")
    return made


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., str]:
    """manifest(document): a file with it."""

    def write(document: dict[str, Any]) -> str:
        file = tmp_path / f"{document['metadata']['name']}.json"
        file.write_text(json.dumps(document))
        return str(file)

    return write


def cutting() -> dict[str, Any]:
    """A policy that leaves nodes what they need, and cuts the port from outside."""
    return policy("no-ssh", ingress=NEEDED)


def world(lab: Lab) -> str:
    """Outside the cluster."""
    return lab.status()["netns"]


def address(lab: Lab, node: str) -> str:
    return lab.node(node)["addresses"][0]


def reachable(lab: Lab, node: str) -> bool:
    """Whether the port is reached from outside."""
    return reaches(world(lab), address(lab, node), SSH)


def trial(lab: Lab, node: str) -> dict[str, Any] | None:
    """The trial that a node says it has."""
    return json.loads(lab.cli("policy", "get", "-o", "json", node=node))["trial"]


@contextmanager
def attempts(lab: Lab, node: str) -> Iterator[list[int]]:
    """Somebody outside tries to connect again and again; the list is of those that succeeded."""
    came: list[int] = []
    over = threading.Event()

    def attempt() -> None:
        while not over.is_set():
            if reaches(world(lab), address(lab, node), SSH, patience=0.05):
                came.append(len(came))

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield came
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_nobody_confirms(lab: Lab, manifest: Callable[..., str]) -> None:
    """At the deadline what was before holds again; meanwhile the node says what is going on."""
    with (
        listening(lab, "node1", SSH),
        listening(lab, "node2", SSH),
        closing(Session(world(lab), address(lab, "node1"), SSH)) as session,
    ):
        session.type("before")
        assert session.comes_back("before", 5)
        said = lab.cli(
            "policy", "apply", "--confirm", "6s", "-f", manifest(cutting()), node="node1"
        )
        assert "On trial for 6 s: CiliumClusterwideNetworkPolicy no-ssh" in said
        assert not reachable(lab, "node1")
        assert reachable(lab, "node2"), "a trial is one node's"
        session.type("during")
        assert not session.comes_back("during", 0.5)
        running = trial(lab, "node1")
        assert running is not None
        assert running["policies"][0]["name"] == "no-ssh"
        assert 0 < running["seconds-left"] < 6
        assert "Policy trial" in lab.cli("status", node="node1")
        with pytest.raises(LabError, match="policy confirm, or fimbria policy rollback"):
            lab.cli("policy", "apply", "--confirm", "9s", "-f", manifest(cutting()), node="node1")
        until(lambda: reachable(lab, "node1"), "it did not come back")
        assert session.comes_back("during", 20), "the connection did not live on"
        until(lambda: trial(lab, "node1") is None, "the agent has not noticed")
        assert found(lab, "node1", "no-ssh") is None
        assert lab.api("GET", f"{PATH}/no-ssh")[0] == 404


def test_the_agent_is_killed_and_stays_dead(lab: Lab, manifest: Callable[..., str]) -> None:
    """The kernel goes back by itself; the next agent finds nothing to do."""
    kubeconfig = lab.paths.agent_kubeconfig
    aside = kubeconfig.with_name("aside")
    with (
        listening(lab, "node1", SSH),
        closing(Session(world(lab), address(lab, "node1"), SSH)) as session,
    ):
        lab.cli("policy", "apply", "--confirm", "6s", "-f", manifest(cutting()), node="node1")
        kubeconfig.rename(aside)  # no agent starts without
        pid = lab.node("node1")["agent_pid"]
        try:
            os.kill(pid, signal.SIGKILL)
            session.type("during")
            assert not session.comes_back("during", 0.5)
            assert not reachable(lab, "node1")
            until(lambda: reachable(lab, "node1"), "the kernel did not go back")
            assert session.comes_back("during", 20), "the connection did not live on"
            with pytest.raises(LabError):
                lab.cli("policy", "get", node="node1")
        finally:
            aside.rename(kubeconfig)
        until(lambda: answers(lab, "node1"), "no agent comes back", 60)
        ready(lab, "node1")
        assert trial(lab, "node1") is None
        assert reachable(lab, "node1")


def answers(lab: Lab, node: str) -> bool:
    """Whether a node's agent does."""
    try:
        lab.cli("policy", "wait", node=node)
    except LabError:
        return False
    return True


def test_an_agent_that_comes_back_goes_on(lab: Lab, manifest: Callable[..., str]) -> None:
    """Killed and started again during a trial: it still runs, and still ends, or is confirmed."""
    with listening(lab, "node1", SSH):
        lab.cli("policy", "apply", "--confirm", "60s", "-f", manifest(cutting()), node="node1")
        pid = lab.node("node1")["agent_pid"]
        os.kill(pid, signal.SIGKILL)
        replaced(lab, "node1", pid)
        until(lambda: answers(lab, "node1"), "no agent comes back")
        running = trial(lab, "node1")
        assert running is not None
        assert 0 < running["seconds-left"] < 60
        assert not reachable(lab, "node1")
        assert "no-ssh" in lab.cli("policy", "rollback", node="node1")
        assert reachable(lab, "node1")
        assert trial(lab, "node1") is None
        with pytest.raises(LabError, match="no trial is running"):
            lab.cli("policy", "rollback", node="node1")


def test_confirmed(lab: Lab, manifest: Callable[..., str]) -> None:
    """It becomes an object that holds on every node; on the first one there is no gap."""
    with listening(lab, "node1", SSH), listening(lab, "node2", SSH):
        lab.cli("policy", "apply", "--confirm", "5s", "-f", manifest(cutting()), node="node1")
        assert not reachable(lab, "node1")
        with attempts(lab, "node1") as come_through:
            assert "created" in lab.cli("policy", "confirm", node="node1")
            for _ in range(6):  # past the deadline that the trial had
                assert not reachable(lab, "node1")
        assert come_through == [], "there was a gap"
        assert trial(lab, "node1") is None
        for node in NODES:
            until(lambda node=node: found(lab, node, "no-ssh") is not None, f"{node} has it not")
            lab.cli("policy", "wait", node=node)
        until(lambda: not reachable(lab, "node2"), "not in force")
        remove(lab, "no-ssh")
        assert all(reachable(lab, node) for node in NODES)


def test_refused(lab: Lab, manifest: Callable[..., str]) -> None:
    """What cannot be enforced, or cuts what a node needs, is not tried; who insists may."""
    wrong = policy("wrong", ingress=[{"toPorts": [{"ports": [{"port": "no port"}]}]}])
    with pytest.raises(LabError, match=r"spec\.ingress"):
        lab.cli("policy", "apply", "--confirm", "5s", "-f", manifest(wrong), node="node1")
    shut = policy("shut", ingress=[{"fromEntities": ["world"]}])
    words = ("policy", "apply", "--confirm", "3s", "-f", manifest(shut))
    with pytest.raises(LabError, match="the kubelet's port"):
        lab.cli(*words, node="node1")
    lab.cli(*words, "--force", node="node1")
    assert trial(lab, "node1") is not None
    until(lambda: trial(lab, "node1") is None, "it does not end")
    missing = manifest({**policy("x"), "kind": "Pod"})
    with pytest.raises(LabError, match="use kubectl for other kinds"):
        lab.cli("policy", "apply", "--confirm", "5s", "-f", missing, node="node1")


def test_without_trial(lab: Lab, manifest: Callable[..., str]) -> None:
    """`policy apply` writes to the API; again it changes what is there, or nothing."""
    file = manifest(cutting())
    assert "created" in lab.cli("policy", "apply", "-f", file, node="node1")
    assert "unchanged" in lab.cli("policy", "apply", "-f", file, node="node1")
    more = policy("no-ssh", ingress=[*NEEDED, {"fromEntities": ["world"]}])
    assert "configured" in lab.cli("policy", "apply", "-f", manifest(more), node="node1")
    status, document = lab.api("GET", f"{PATH}/no-ssh")
    assert (status, len(document["spec"]["ingress"])) == (200, 2)


def test_pods_policies_may_be_tried_too(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """A trial is for policies of every kind."""
    lab = make_lab(echoes(a="node1"))
    target = lab.pod("a")["addresses"][0]
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"]},
    }
    file = tmp_path / "closed.json"
    file.write_text(json.dumps(document))

    def open_() -> bool:
        return curl(lab.node("node2")["netns"], target)

    assert open_()
    lab.cli("policy", "apply", "--confirm", "4s", "-f", str(file), node="node1")
    assert not open_()
    until(open_, "it did not come back")
