"""Services and EndpointSlices as rules see them."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.model.peers import Service
from fimbria.model.policy import PolicyError
from fimbria.model.selector import equals, selector
from fimbria.model.services import read_service, service_of


def service(spec: Any, *slices: Any) -> Service:
    meta = {"name": "a", "namespace": "red", "labels": {"team": "x"}}
    return read_service({"metadata": meta, "spec": spec}, slices)


def endpoints(*items: Any, family: str = "IPv4") -> Any:
    return {"addressType": family, "endpoints": list(items)}


def test_with_selector_it_is_its_pods() -> None:
    """Of its own namespace; addresses do not matter."""
    chosen = selector([equals("k8s:app", "web"), equals("k8s:io.kubernetes.pod.namespace", "red")])
    found = service({"selector": {"app": "web"}}, endpoints({"addresses": ["10.0.0.1"]}))
    assert found == Service("red", "a", ("k8s:team=x",), chosen)


def test_without_selector_it_is_its_addresses() -> None:
    """All that serve, of both families, each once."""
    four = endpoints(
        {"addresses": ["192.0.2.2", "192.0.2.1"]},
        {"addresses": ["192.0.2.1"], "conditions": {"ready": True}},
        {"addresses": ["192.0.2.3"], "conditions": {"ready": False}},
        {"addresses": ["192.0.2.4"], "conditions": {"ready": False, "serving": True}},
    )
    six = endpoints({"addresses": ["2001:db8::1"]}, family="IPv6")
    names = endpoints({"addresses": ["example.com"]}, family="FQDN")
    for spec in ({}, {"selector": {}}, {"type": "ExternalName", "selector": {"app": "web"}}):
        found = service(spec, four, six, names, {"addressType": "IPv4", "endpoints": None})
        assert found.selector is None
        assert sorted(map(len, found.backends)) == [4, 4, 4, 16]
        assert found.backends == tuple(sorted(set(found.backends)))
        assert bytes([192, 0, 2, 3]) not in found.backends
        assert bytes([192, 0, 2, 4]) in found.backends


def test_what_else_it_says() -> None:
    """The port at which load balancers ask nodes; without a spec there may be addresses still."""
    assert service({"healthCheckNodePort": 31000}).health_port == 31000
    assert service({"selector": {"a": "b"}, "healthCheckNodePort": 31000}).health_port == 31000
    found = service(None, endpoints({"addresses": ["192.0.2.1"]}))
    assert (found.backends, found.health_port) == ((bytes([192, 0, 2, 1]),), 0)


def test_whose_a_slice_is() -> None:
    """The label says; without one it is nobody's."""
    meta = {"name": "a-x", "namespace": "red", "labels": {"kubernetes.io/service-name": "a"}}
    assert service_of({"metadata": meta}) == ("red", "a")
    assert service_of({"metadata": {**meta, "labels": None}}) is None


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "metadata"),
        ({"metadata": {"name": ""}}, "metadata.name"),
        ({"metadata": {"name": "a"}, "spec": []}, "spec"),
        ({"metadata": {"name": "a"}, "spec": {"healthCheckNodePort": "x"}},
         "spec.healthCheckNodePort"),
        ({"metadata": {"name": "a"}, "spec": {"selector": {"app": 1}}}, "spec.selector.app"),
        ({"metadata": {"name": "a", "labels": []}, "spec": {}}, "metadata.labels"),
    ],
)  # fmt: skip
def test_services_that_cannot_be_read(document: Any, path: str) -> None:
    """The error names the field."""
    with pytest.raises(PolicyError) as raised:
        read_service(document)
    assert raised.value.path == path


@pytest.mark.parametrize(
    ("one", "path"),
    [
        (endpoints({"addresses": ["x"]}), "endpoints[0].addresses[0]"),
        (endpoints({"addresses": [1]}), "endpoints[0].addresses[0]"),
        (endpoints({}, 5), "endpoints[1]"),
        (endpoints({"conditions": {"ready": "no"}}), "endpoints[0].conditions.ready"),
        (5, ""),
    ],
)
def test_slices_that_cannot_be_read(one: Any, path: str) -> None:
    """The error names the field."""
    with pytest.raises(PolicyError) as raised:
        service({}, one)
    assert raised.value.path == path
