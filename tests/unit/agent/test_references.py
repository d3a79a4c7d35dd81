"""CIDR groups and Services on their way into the state."""

from __future__ import annotations

from typing import Any

from fimbria.agent.references import References, service_row, slice_row
from fimbria.compile.state import ClusterState
from fimbria.sources.reflector import Change

WEB = ("default", "web")


def group(*cidrs: str) -> dict[str, Any]:
    return {"metadata": {"name": "office"}, "spec": {"externalCIDRs": list(cidrs)}}


def service(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


def endpoint_slice(name: str, *addresses: str, of: str = "web") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one]} for one in addresses],
    }


def test_a_group_that_cannot_be_read_stays_as_it_was() -> None:
    """Its field is named; its old addresses are kept; a good one puts it right."""
    state = ClusterState("node")
    references = References(state)
    told: list[str] = []
    references.judged = lambda held: told.append(held.refusal)
    key, good, bad = ("", "office"), group("10.0.0.0/8"), group("10.0.0.0/8", "no")
    assert references.groups([Change(key, None, good)])
    before = state.groups["office"]
    assert not references.groups([Change(key, good, bad)])
    assert state.groups["office"] is before
    assert list(references.unreadable) == ["office"]
    assert told[1].startswith("spec.externalCIDRs[1]: ")
    assert references.groups([Change(key, bad, group("192.0.2.0/24"))])
    assert not references.unreadable
    assert references.groups([Change(key, good, None)])
    assert len(state.groups) == 0


def slices(references: References, old: Any, new: Any, name: str = "s") -> bool:
    rows = [slice_row(one) if one else None for one in (old, new)]
    return references.slices([Change(("default", name), *rows)])


def test_a_service_without_selector_has_the_addresses_of_its_slices() -> None:
    """Whichever comes first; several slices are one; all are gone with the last."""
    state = ClusterState("node")
    references = References(state)
    assert not slices(references, None, endpoint_slice("s", "192.0.2.1"))
    assert references.services([Change(WEB, None, service_row(service()))])
    assert state.services[WEB].backends == (bytes([192, 0, 2, 1]),)
    assert slices(references, None, endpoint_slice("t", "192.0.2.2"), "t")
    assert len(state.services[WEB].backends) == 2
    assert slices(references, endpoint_slice("s", "192.0.2.1"), None)
    assert slices(references, endpoint_slice("t", "192.0.2.2"), None, "t")
    assert state.services[WEB].backends == ()
    assert references.services([Change(WEB, service_row(service()), None)])
    assert WEB not in state.services


def test_a_service_with_a_selector_has_none() -> None:
    """Its pods are meant, whatever slices say; a slice may go over to another service."""
    state = ClusterState("node")
    references = References(state)
    references.services([Change(WEB, None, service_row(service(selector={"a": "b"})))])
    first = endpoint_slice("s", "192.0.2.1")
    assert not slices(references, None, first)
    assert state.services[WEB].backends == ()
    other = ("default", "db")
    plain = {"metadata": {"name": "db", "namespace": "default"}, "spec": {}}
    references.services([Change(other, None, service_row(plain))])
    assert slices(references, first, endpoint_slice("s", "192.0.2.1", of="db"))
    assert state.services[other].backends == (bytes([192, 0, 2, 1]),)


def test_rows_leave_nonsense_out() -> None:
    """What cannot be read, or belongs to nobody, is no row."""
    assert service_row({"metadata": {}}) is None
    assert slice_row(endpoint_slice("s", "nothing")) is None
    assert slice_row(endpoint_slice("s")) is None
    assert slice_row({"metadata": {"name": "s", "namespace": "x"}}) is None
