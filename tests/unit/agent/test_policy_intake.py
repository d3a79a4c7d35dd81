"""Policies on their way in: what is refused, what does not fit, what is told of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fimbria.agent import keptpolicies
from fimbria.agent.held import Held, Standing
from fimbria.agent.intake import Intake
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint, NodeConfig
from fimbria.model.policy import Policy, PolicyKey
from fimbria.model.policy_parse import parse_policy
from fimbria.sources.reflector import Change
from fimbria.sources.resources import CILIUM_NETWORK_POLICIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIMIT = 20
CNP = "CiliumNetworkPolicy"


def parse(document: dict[str, Any], kind: str) -> Policy:
    return parse_policy(document, kind)


class Node:
    """An intake, a compiler with maps of LIMIT entries, and one pod that all policies select."""

    def __init__(self, remembered: Sequence[dict[str, Any]] = ()) -> None:
        self.state = ClusterState("node", NodeConfig(policy_map_max=LIMIT))
        self.intake = Intake(self.state, parse)
        self.told: list[tuple[str, str]] = []
        self.remembered: list[dict[str, Any]] = []
        self.intake.remember = lambda documents: setattr(self, "remembered", documents)
        self.intake.restore(remembered)
        self.intake.judged = lambda held: self.told.append((held.key.name, str(held.standing)))
        labels = ("k8s:a=b", "k8s:io.kubernetes.pod.namespace=default")
        self.state.identities.put(300, labels)
        self.state.local.put(1, LocalEndpoint(1, 5, b"\1" * 6, b"\2" * 6, b"\n\0\0\1", None, 300))
        self.compiler = Compiler(self.state, Ids())
        self.apply()

    def apply(self) -> int:
        """Do what the agent does after a change; return how many elements of maps change."""
        delta = self.compiler.update(self.intake.admit)
        self.compiler.applied()
        self.intake.settled()
        return delta.size

    def put(self, *documents: dict[str, Any]) -> int:
        changes = [Change(("default", d["metadata"]["name"]), None, d) for d in documents]
        self.intake.take(CILIUM_NETWORK_POLICIES, changes)
        return self.apply()

    def delete(self, name: str) -> int:
        self.intake.take(CILIUM_NETWORK_POLICIES, [Change(("default", name), {}, None)])
        return self.apply()

    def held(self, name: str) -> Held:
        found = self.intake.get(PolicyKey(CNP, "default", name))
        assert found is not None
        return found

    def standing(self, name: str) -> Standing:
        return self.held(name).standing


@pytest.fixture
def node() -> Node:
    return Node()


def policy(name: str, ports: int, created: int = 0, **spec: Any) -> dict[str, Any]:
    """A policy that asks for so many entries, from port 8000 + 100 * created on."""
    first = 8000 + 100 * created
    rows = [{"port": str(first + 2 * n), "protocol": "TCP"} for n in range(ports)]
    rule = {"fromEntities": ["all"], "toPorts": [{"ports": rows[at : at + 40]}
            for at in range(0, ports, 40)]}  # fmt: skip
    return {
        "apiVersion": "cilium.io/v2",
        "kind": CNP,
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "generation": 1,
            "creationTimestamp": f"2026-01-01T00:00:{created:02}Z",
        },
        "spec": {"endpointSelector": {}, "ingress": [rule], **spec},
    }


def test_what_fits_is_in_force(node: Node) -> None:
    """A policy is told of once it is in force, and not again while it stays as it is."""
    assert node.put(policy("a", 5)) > 0
    assert node.told == [("a", "enforced")]
    again = policy("a", 5)
    again["status"] = {"conditions": []}
    assert node.put(again) == 0
    assert node.told == [("a", "enforced")]
    assert node.held("a").document is again
    assert node.delete("a") > 0
    assert not list(node.intake)


def test_what_does_not_fit_changes_nothing(node: Node) -> None:
    """It is put back within the step: not one element changes; the reason has the numbers."""
    node.put(policy("a", 5))
    assert node.put(policy("b", LIMIT, created=1)) == 0
    assert node.standing("b") is Standing.NOT_APPLIED
    reason = node.held("b").reason
    assert f"allows {LIMIT}" in reason
    assert "nothing of it is in force" in reason
    assert node.standing("a") is Standing.ENFORCED
    assert node.told == [("a", "enforced"), ("b", "not applied")]


def test_the_old_version_stays(node: Node) -> None:
    """A version that does not fit leaves the one before in force."""
    node.put(policy("a", 5))
    before = node.state.policies[PolicyKey(CNP, "default", "a")]
    assert node.put(policy("a", LIMIT * 2)) == 0
    assert node.state.policies[PolicyKey(CNP, "default", "a")] == before
    assert "the version before stays" in node.held("a").reason
    assert node.put(policy("a", 6)) > 0
    assert node.standing("a") is Standing.ENFORCED


def test_the_youngest_is_left_out(node: Node) -> None:
    """Of those that came together, whatever their order, the youngest goes: as after a restart."""
    found = [policy(name, 9, created) for created, name in enumerate("zyx")]
    node.put(*found)
    other = Node()
    other.put(*reversed(found))
    for one in (node, other):
        standings = {held.key.name: held.standing for held in one.intake}
        assert standings == {
            "z": Standing.ENFORCED, "y": Standing.ENFORCED, "x": Standing.NOT_APPLIED,
        }  # fmt: skip


def test_it_is_taken_up_when_there_is_room(node: Node) -> None:
    """When another goes, what did not fit is tried again, and its status says so."""
    node.put(policy("a", 15))
    node.put(policy("b", 15, created=1))
    assert node.intake.waiting == 1
    node.told.clear()
    assert node.delete("a") > 0
    assert node.told == [("b", "enforced")]
    assert node.intake.waiting == 0


def test_trying_again_in_vain_is_silent(node: Node) -> None:
    """A retry without success changes no map and writes no status."""
    node.put(policy("a", 15))
    node.put(policy("b", 15, created=1))
    node.told.clear()
    assert node.intake.retry()
    assert node.apply() == 0
    assert node.told == []
    assert node.standing("b") is Standing.NOT_APPLIED


def test_the_old_version_survives_a_restart(node: Node, tmp_path: Path) -> None:
    """The next agent has it in force though the API has the new one only; until that fits."""
    node.put(policy("a", 5))
    node.put(policy("a", LIMIT * 2))
    path = tmp_path / "state" / keptpolicies.FILE
    keptpolicies.save(path, node.remembered)
    later = Node(keptpolicies.load(path))
    later.put(policy("a", LIMIT * 2))
    assert later.state.policies[PolicyKey(CNP, "default", "a")] == parse(policy("a", 5), CNP)
    assert "the version before stays" in later.held("a").reason
    later.put(policy("a", 6))
    assert later.remembered == []
    keptpolicies.save(path, later.remembered)
    assert keptpolicies.load(path) == []


def test_another_object_of_the_name_begins_anew(node: Node) -> None:
    """What is remembered of an object that is gone holds for no other."""
    node.put(policy("a", 5))
    node.put(policy("a", LIMIT * 2))
    later = Node(node.remembered)
    other = policy("a", LIMIT * 2)
    other["metadata"]["uid"] = "another"
    later.put(other)
    assert len(later.state.policies) == 0
    assert later.remembered == []


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    """A malformed file, or one of another format, is as if there were none."""
    path = tmp_path / keptpolicies.FILE
    for text in ('{"documents": 1}', "nothing", '{"format": 9, "documents": [{}]}'):
        path.write_text(text)
        assert keptpolicies.load(path) == []


def test_what_cannot_be_enforced_closes(node: Node) -> None:
    """A refused object is told of with its field, and is in the state, so that it closes."""
    node.put(policy("a", 1, unknown=True))
    assert node.standing("a") is Standing.REFUSED
    assert node.held("a").reason.startswith("spec.unknown: ")
    assert PolicyKey(CNP, "default", "a") in node.state.policies


def test_what_cannot_be_named_is_left_out(node: Node) -> None:
    """An object without a usable name has no effect; it is told of at once."""
    broken = policy("a", 1)
    broken["metadata"] = {**broken["metadata"], "name": ["a"]}
    changes = [Change(("default", "a"), None, broken)]
    node.intake.take(CILIUM_NETWORK_POLICIES, changes)
    assert node.told == [("a", "refused")]
    assert len(node.state.policies) == 0


def test_pending_parts_and_audit(node: Node) -> None:
    """Parts that nothing can do yet, and audit mode, are a standing of their own."""
    node.put(policy("a", 1, egress=[{"toFQDNs": [{"matchName": "x.example"}]}]))
    assert node.standing("a") is Standing.PENDING
    assert node.held("a").pending[0].startswith("spec.egress[0].toFQDNs[0]: ")
    audited = policy("b", 1)
    audited["metadata"]["annotations"] = {"fimbria.io/policy-audit-mode": "true"}
    node.put(audited)
    assert node.standing("b") is Standing.AUDITED


def test_a_guard_keeps_a_policy_out(node: Node) -> None:
    """What a guard says against a version keeps the one before in force."""
    node.put(policy("a", 1))
    node.intake.guards.append(lambda one: "it would cut port 22" if one.rules > 1 else "")
    two = policy("a", 1)
    two["spec"]["ingress"] *= 2
    assert node.put(two) == 0
    assert node.held("a").reason == "it would cut port 22"
    assert node.told[-1] == ("a", "not applied")


def test_a_new_generation_is_told_of_again(node: Node) -> None:
    """A change that means nothing here still has its status brought up to its generation."""
    node.put(policy("a", 1))
    node.told.clear()
    changed = policy("a", 1)
    changed["metadata"]["generation"] = 2
    node.put(changed)
    assert node.told == [("a", "enforced")]
