"""What nodes write into the status of policies: conditions that they agree on, and their own."""

from __future__ import annotations

from typing import Any

from fimbria.agent.objects import Judgement, conditions, policy_event

FINE = Judgement()
PENDING = Judgement(pending=("spec.egress[0].toFQDNs[0]: no proxy",))
REFUSED = Judgement(refusal="spec.x: no such field")
WITHHELD = Judgement(withheld="too large: 30, limit 20")


def write(
    current: list[dict[str, Any]], told: Judgement, generation: int = 1, node: str = "one"
) -> list[dict[str, Any]]:
    """The conditions after a node wrote; writing again must change nothing."""
    found = conditions(current, told, generation, node, 1000.0)
    result = current if found is None else found
    assert conditions(result, told, generation, node, 2000.0) is None
    return result


def shown(found: list[dict[str, Any]]) -> dict[str, tuple[str, str, str]]:
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found}


def test_valid() -> None:
    """A policy in force has one condition, with the generation that it is about."""
    (one,) = write([], FINE)
    assert (one["type"], one["status"], one["observedGeneration"]) == ("Valid", "True", 1)
    assert one["message"] == "Policy validation succeeded"
    assert one["lastTransitionTime"] == "1970-01-01T00:16:40Z"


def test_another_node_finds_nothing_to_write() -> None:
    """What all nodes find alike is written by one of them."""
    for told in (FINE, PENDING, REFUSED):
        assert conditions(write([], told), told, 1, "two", 2000.0) is None


def test_refused() -> None:
    """The message has field and reason."""
    assert shown(write([], REFUSED)) == {
        "Valid": ("False", "PolicyRefused", "spec.x: no such field")
    }


def test_the_time_is_that_of_the_transition() -> None:
    """A new generation with an equal status keeps the time; another status has its own."""
    first = write([], FINE)
    (second,) = conditions(first, FINE, 2, "one", 5000.0) or [{}]
    assert second["lastTransitionTime"] == first[0]["lastTransitionTime"]
    (third,) = conditions(first, REFUSED, 2, "one", 5000.0) or [{}]
    assert third["lastTransitionTime"] == "1970-01-01T01:23:20Z"


def test_pending_parts() -> None:
    """What waits for a proxy is valid and not enforced; gone with the parts."""
    found = write([], PENDING)
    assert shown(found)["Enforced"] == ("False", "NoProxy", "spec.egress[0].toFQDNs[0]: no proxy")
    assert shown(found)["Valid"][0] == "True"
    assert list(shown(write(found, FINE, 2))) == ["Valid"]


def test_many_pending_parts() -> None:
    """The first are named, the others counted."""
    found = write([], Judgement(pending=tuple(f"spec.egress[{n}]: no proxy" for n in range(12))))
    message = shown(found)["Enforced"][2]
    assert message.startswith("spec.egress[0]: no proxy; ")
    assert message.endswith("spec.egress[9]: no proxy; and 2 more")


def test_what_one_node_leaves_out() -> None:
    """A node's own refusal names the node, survives the others, and ends with its cause."""
    found = write([], WITHHELD)
    assert shown(found)["Enforced"] == ("False", "PolicyNotApplied", "one: too large: 30, limit 20")
    assert conditions(found, FINE, 1, "two", 2000.0) is None
    assert list(shown(write(found, FINE))) == ["Valid"]


def test_another_nodes_words_end_with_the_generation() -> None:
    """What another node said about an older version of the object is void."""
    found = write([], WITHHELD, generation=1)
    assert list(shown(write(found, FINE, generation=2, node="two"))) == ["Valid"]


def test_foreign_conditions_stay() -> None:
    """Whatever else somebody keeps there is kept."""
    foreign = {"type": "Seen", "status": "True"}
    assert foreign in write([foreign], REFUSED)


def test_event() -> None:
    """All nodes give the event of one refusal one name; another reason is another event."""
    policy: dict[str, Any] = {"metadata": {"name": "a", "namespace": "x", "uid": "u"}}
    first = policy_event(policy, "PolicyRefused", "spec.x: no such field", 1.0)
    again = policy_event(policy, "PolicyRefused", "spec.x: no such field", 9.0)
    other = policy_event(policy, "PolicyRefused", "spec.y: no such field", 9.0)
    assert first["metadata"] == again["metadata"] != other["metadata"]
    assert (first["type"], first["involvedObject"]["uid"]) == ("Warning", "u")
