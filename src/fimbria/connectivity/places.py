"""The pods of the connectivity test, and the objects that make them.

Two namespaces, two nodes (one is enough; what needs the other is skipped then). Every pod runs
the same server, so that any of them can be source and destination:

| place       | namespace    | node | labels                       |
|-------------|--------------|------|------------------------------|
| client      | test         | A    | kind=client, name=client     |
| client2     | test         | A    | kind=client, other=client    |
| client3     | test         | B    | kind=client                  |
| echo-same   | test         | A    | kind=echo, name=echo-same    |
| echo-other  | test         | B    | kind=echo, name=echo-other   |
| stranger    | test's other | B    | kind=client                  |
| stranger-echo | test's other | A  | kind=echo                    |
| host, remote-host |        | A, B | the nodes themselves         |
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fimbria.connectivity.model import Document

TCP_PORTS = (8080, 8081, 8085, 9000)
UDP_PORTS = (8053, 8054)
IMAGE = "docker.io/library/python:3.12-alpine"
HOSTS = {"host": 0, "remote-host": 1}
"""Places that are nodes: by index of the node."""


class Place(NamedTuple):
    """One pod: in the second namespace if `foreign`, on node A (0) or B (1)."""

    name: str
    node: int
    labels: dict[str, str]
    foreign: bool = False


PLACES = (
    Place("client", 0, {"kind": "client", "name": "client"}),
    Place("client2", 0, {"kind": "client", "name": "client2", "other": "client"}),
    Place("client3", 1, {"kind": "client", "name": "client3"}),
    Place("echo-same", 0, {"kind": "echo", "name": "echo-same"}),
    Place("echo-other", 1, {"kind": "echo", "name": "echo-other"}),
    Place("stranger", 1, {"kind": "client", "name": "stranger"}, foreign=True),
    Place("stranger-echo", 0, {"kind": "echo", "name": "stranger-echo"}, foreign=True),
)


def source_of(module: str) -> str:
    """Return the source text of a program that runs inside pods."""
    return files("fimbria.connectivity").joinpath(f"{module}.py").read_text()


def other_namespace(namespace: str) -> str:
    """Return the name of the second namespace."""
    return f"{namespace}-other"


def namespaces(namespace: str) -> list[Document]:
    """Return the two Namespace objects, labelled for namespace selectors."""
    names = {namespace: "home", other_namespace(namespace): "other"}
    return [
        {"metadata": {"name": name, "labels": {"connectivity": side}}}
        for name, side in names.items()
    ]


def pod(place: Place, namespace: str, node: str, image: str) -> Document:
    """Return the Pod object of a place on the node called `node`."""
    ports = [f"tcp:{port}" for port in TCP_PORTS] + [f"udp:{port}" for port in UDP_PORTS]
    named = [
        {"containerPort": 8080, "name": "http", "protocol": "TCP"},
        {"containerPort": 8053, "name": "dns", "protocol": "UDP"},
    ]
    container: dict[str, Any] = {
        "name": "server",
        "image": image,
        "command": ["python3", "-c", source_of("server"), *ports],
        "ports": named,
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    return {
        "metadata": {
            "name": place.name,
            "namespace": other_namespace(namespace) if place.foreign else namespace,
            "labels": place.labels,
        },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }


def host_pod(name: str, namespace: str, node: str, image: str) -> Document:
    """Return a pod in its node's network: how a real cluster's host is reached from outside."""
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {"name": "host", "image": image, "command": ["sleep", "86400"]},
            ],
        },
    }
