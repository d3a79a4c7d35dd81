"""Reading Services as rules see them: which pods, or which addresses, are behind a name.

A Service with a selector stands for its pods, whatever their addresses; one without stands for the
addresses that its EndpointSlices list.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from fimbria.model.fields import Fields, word
from fimbria.model.labels import Label
from fimbria.model.peers import Service, ServiceKey
from fimbria.model.policy import PolicyError
from fimbria.model.select_parse import K8S_NAMESPACE, kubernetes_key
from fimbria.model.selector import equals, selector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SERVICE_NAME = "kubernetes.io/service-name"
"""Label by which an EndpointSlice says whose it is."""


def read_service(document: Mapping[str, Any], slices: Iterable[Mapping[str, Any]] = ()) -> Service:
    """Return a Service; `slices` are its EndpointSlices, which only one without selector needs.

    Raises PolicyError with the field's path.
    """
    meta = Fields(document.get("metadata"), "metadata")
    name, namespace = meta.name("name"), meta.text("namespace") or "default"
    labels = {str(Label("k8s", key, text)) for key, text in meta.texts("labels").items() if key}
    given = document.get("spec")
    spec = Fields({} if given is None else given, "spec")
    health = spec.integer("healthCheckNodePort") or 0
    elsewhere = spec.text("type") == "ExternalName"
    chosen = {} if elsewhere else spec.texts("selector")
    if chosen:
        demands = [equals(kubernetes_key(key), text) for key, text in chosen.items()]
        whom = selector([*demands, equals(K8S_NAMESPACE, namespace)])
        return Service(namespace, name, tuple(sorted(labels)), whom, health_port=health)
    addresses = {ip for one in slices for ip in _addresses(one)}
    return Service(namespace, name, tuple(sorted(labels)), None, tuple(sorted(addresses)), health)


def service_of(document: Mapping[str, Any]) -> ServiceKey | None:
    """Return whose an EndpointSlice is; None if it does not say. Raises PolicyError."""
    meta = Fields(document.get("metadata"), "metadata")
    name = meta.texts("labels").get(SERVICE_NAME)
    return (meta.text("namespace") or "default", name) if name else None


def _addresses(document: Mapping[str, Any]) -> Iterable[bytes]:
    """Return the packed addresses of endpoints that serve: ready, or on their way out."""
    fields = Fields(document, "")
    if fields.text("addressType") not in ("IPv4", "IPv6"):
        return
    for path, item in fields.items("endpoints") or ():
        endpoint = Fields(item, path)
        conditions = endpoint.mapping("conditions")
        serves = conditions is None or _serves(conditions)
        addresses = endpoint.each("addresses", _address) or ()
        if serves:
            yield from addresses


def _serves(conditions: Fields) -> bool:
    """Return whether an endpoint serves; a condition that is absent counts as met (Kubernetes)."""
    ready, serving = conditions.flag("ready"), conditions.flag("serving")
    return ready is not False or serving is True


def _address(value: Any, path: str) -> bytes:
    text = word(value, path)
    try:
        return ip_address(text).packed
    except ValueError as error:
        raise PolicyError(path, f"{text!r} is not an address") from error
