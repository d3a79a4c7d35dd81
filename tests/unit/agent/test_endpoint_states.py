"""Endpoints: their numbers, the names they are found by, and the only steps their life has."""

from __future__ import annotations

import pytest

from fimbria.agent.endpoints import LAST_ID, TRANSITIONS, Endpoint, Endpoints, NoEndpointId, State
from fimbria.agent.statefiles import EndpointFile


def endpoint(number: int, pod: str = "p", state: State = State.READY) -> Endpoint:
    file = EndpointFile(
        id=number, container_id=f"c{number}", container_ifname="eth0", namespace="ns", pod=pod,
        ifname="lxc0", ifindex=5, mac="02:00:00:00:00:01", node_mac="02:00:00:00:00:02",
        ipv4=f"10.0.0.{number}", ipv6=f"fd00::{number:x}", identity=300, labels=("k8s:a=b",),
    )  # fmt: skip
    return Endpoint(file, state)


def test_ids_are_given_round() -> None:
    """An id that was just freed is given out again last; ids of restored endpoints are taken."""
    endpoints = Endpoints()
    endpoints.add(endpoint(3))
    assert [endpoints.reserve_id() for _ in range(3)] == [4, 5, 6]
    endpoints.unreserve(5)
    assert endpoints.reserve_id() == 7
    restored = endpoints.get(3)
    assert restored is not None
    endpoints.remove(restored)
    taken = {endpoints.reserve_id() for _ in range(LAST_ID - 3)}
    assert len(taken) == LAST_ID - 3
    with pytest.raises(NoEndpointId, match=str(LAST_ID)):
        endpoints.reserve_id()


@pytest.mark.parametrize(
    "name", ["7", "container-id:c7", "pod-name:ns/x", "ipv4:10.0.0.7", "ipv6:fd00:0::7"]
)
def test_every_name_finds_it(name: str) -> None:
    """An endpoint is found by number, container, pod and both addresses."""
    endpoints = Endpoints()
    endpoints.add(endpoint(7, "x"))
    endpoints.add(endpoint(8, "y"))
    found = endpoints.find(name)
    assert found is not None
    assert found.id == 7


def test_names_that_find_nothing() -> None:
    """An unknown endpoint is None; a form that is none is an error that lists the forms."""
    endpoints = Endpoints()
    for name in ("9", "pod-name:ns/z", "ipv4:10.9.9.9", "container-id:z"):
        assert endpoints.find(name) is None
    for name in ("x", "pod:x", "ipv4:nonsense", ""):
        with pytest.raises(ValueError, match=r"names no endpoint|does not appear"):
            endpoints.find(name)


def test_a_pod_made_anew_has_two_for_a_moment() -> None:
    """Of two endpoints of one pod's name the newer is meant."""
    endpoints = Endpoints()
    endpoints.add(endpoint(7, "x"))
    endpoints.add(endpoint(9, "x"))
    assert [e.id for e in endpoints.of_pod("ns", "x")] == [7, 9]
    found = endpoints.find("pod-name:ns/x")
    assert found is not None
    assert found.id == 9


def test_the_life_cycle_is_a_table() -> None:
    """Every step that is not in the table is an error, and every state can come to its end."""
    for state, steps in TRANSITIONS.items():
        for target in State:
            one = endpoint(1, state=state)
            if target in steps or target is state:
                one.to(target)
                assert one.state is target
            else:
                with pytest.raises(ValueError, match="no way"):
                    one.to(target)
    for state in State:
        reached, todo = {state}, [state]
        while todo:
            new = TRANSITIONS[todo.pop()] - reached
            reached |= new
            todo += new
        assert State.DISCONNECTED in reached


def test_the_document() -> None:
    """The API shows identity, addresses and where it hangs."""
    shown = endpoint(7).document()
    assert shown["id"] == 7
    assert shown["identity"] == {"id": 300, "labels": ["k8s:a=b"]}
    assert shown["networking"]["addressing"] == [{"ipv4": "10.0.0.7", "ipv6": "fd00::7"}]
    assert shown["state"] == "ready"
