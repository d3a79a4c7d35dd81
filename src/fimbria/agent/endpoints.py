"""The node's endpoints: their states, their numbers, and how they are found.

What lasts is in the state file (`EndpointFile`, frozen); what is only true of this process is in
`Endpoint`. The life cycle is a table: a step that is not in it is a programming error.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.agent.statefiles import EndpointFile

FIRST_ID, LAST_ID = 1, 4095
LOG_LINES = 32


class State(StrEnum):
    """Where an endpoint is in its life."""

    RESTORING = "restoring"
    WAITING_FOR_IDENTITY = "waiting-for-identity"
    WAITING_TO_REGENERATE = "waiting-to-regenerate"
    REGENERATING = "regenerating"
    READY = "ready"
    NOT_READY = "not-ready"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"


_END = {State.DISCONNECTING}
TRANSITIONS: dict[State, frozenset[State]] = {
    State.RESTORING: frozenset({State.WAITING_FOR_IDENTITY, State.WAITING_TO_REGENERATE} | _END),
    State.WAITING_FOR_IDENTITY: frozenset({State.WAITING_TO_REGENERATE} | _END),
    State.WAITING_TO_REGENERATE: frozenset({State.REGENERATING, State.WAITING_FOR_IDENTITY} | _END),
    State.REGENERATING: frozenset(
        {State.READY, State.NOT_READY, State.WAITING_TO_REGENERATE, State.WAITING_FOR_IDENTITY}
        | _END
    ),
    State.READY: frozenset({State.WAITING_FOR_IDENTITY, State.WAITING_TO_REGENERATE} | _END),
    State.NOT_READY: frozenset({State.WAITING_FOR_IDENTITY, State.WAITING_TO_REGENERATE} | _END),
    State.DISCONNECTING: frozenset({State.DISCONNECTED}),
    State.DISCONNECTED: frozenset(),
}


class NoEndpointId(Exception):
    """All endpoint ids of the node are in use."""


@dataclass
class Endpoint:
    """One endpoint. `revision` is the policy revision that the datapath realises for it."""

    file: EndpointFile
    state: State
    revision: int = 0
    log: deque[dict[str, str]] = field(
        default_factory=lambda: deque[dict[str, str]](maxlen=LOG_LINES)
    )

    @property
    def id(self) -> int:
        """Return its number on this node."""
        return self.file.id

    @property
    def name(self) -> str:
        """Return namespace/pod, or the container's id for one that is no pod."""
        file = self.file
        return f"{file.namespace}/{file.pod}" if file.pod else file.container_id

    def to(self, state: State, reason: str = "") -> None:
        """Step to another state; the same one is no step. ValueError if there is no such step."""
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"endpoint {self.id}: no way from {self.state} to {state}")
        self.state = state
        self.log.append({"state": str(state), "message": reason})

    def document(self) -> dict[str, Any]:
        """Return the endpoint as `GET /v1/endpoint` shows it, policy excepted."""
        file = self.file
        return {
            "id": file.id,
            "state": str(self.state),
            "container-id": file.container_id,
            "container-ifname": file.container_ifname,
            "namespace": file.namespace,
            "pod": file.pod,
            "pod-uid": file.pod_uid,
            "identity": {"id": file.identity, "labels": list(file.labels)},
            "networking": {
                "addressing": [{"ipv4": file.ipv4, "ipv6": file.ipv6}],
                "interface-name": file.ifname,
                "interface-index": file.ifindex,
                "mac": file.mac,
                "host-mac": file.node_mac,
            },
            "named-ports": [
                {"name": name, "port": port, "protocol": protocol}
                for name, port, protocol in file.named_ports
            ],
            "policy-revision": self.revision,
            "log": list(self.log),
        }


class Endpoints:
    """All endpoints of the node, by every name they are asked for."""

    def __init__(self) -> None:
        self._by_id: dict[int, Endpoint] = {}
        self._by_container: dict[tuple[str, str], Endpoint] = {}
        self._reserved: set[int] = set()
        self._last = FIRST_ID - 1

    def __iter__(self) -> Iterator[Endpoint]:
        return iter([self._by_id[number] for number in sorted(self._by_id)])

    def __len__(self) -> int:
        return len(self._by_id)

    def numbers(self) -> frozenset[int]:
        """Return the ids of all endpoints, as of now; any thread may ask."""
        return frozenset(self._by_id)

    def reserve_id(self) -> int:
        """Return an id that is not in use, the one least recently given out; NoEndpointId."""
        for step in range(LAST_ID):
            number = (self._last + step) % LAST_ID + 1
            if number not in self._by_id and number not in self._reserved:
                self._last = number
                self._reserved.add(number)
                return number
        raise NoEndpointId(f"all {LAST_ID} endpoint ids of this node are in use")

    def unreserve(self, number: int) -> None:
        """Give back an id that became no endpoint."""
        self._reserved.discard(number)

    def add(self, endpoint: Endpoint) -> None:
        """Take up an endpoint under its id."""
        self._reserved.discard(endpoint.id)
        self._by_id[endpoint.id] = endpoint
        self._by_container[_container(endpoint.file)] = endpoint
        self._last = max(self._last, endpoint.id)

    def replace(self, endpoint: Endpoint, file: EndpointFile) -> None:
        """Change what is remembered of an endpoint; its id and container stay."""
        endpoint.file = file

    def remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint; its id is free again."""
        self._by_id.pop(endpoint.id, None)
        self._by_container.pop(_container(endpoint.file), None)

    def get(self, number: int) -> Endpoint | None:
        """Return an endpoint by id."""
        return self._by_id.get(number)

    def of_container(self, container_id: str, ifname: str) -> Endpoint | None:
        """Return the endpoint of one interface of a container."""
        return self._by_container.get((container_id, ifname))

    def of_pod(self, namespace: str, pod: str) -> list[Endpoint]:
        """Return the endpoints of a pod; two for a moment when a pod of a name is remade."""
        return [e for e in self if (e.file.namespace, e.file.pod) == (namespace, pod)]

    def find(self, text: str) -> Endpoint | None:
        """Return an endpoint by any of the forms of the API; ValueError if `text` is none.

        Forms: `7`, `container-id:…`, `pod-name:ns/pod`, `ipv4:…`, `ipv6:…`.
        """
        kind, _, value = text.partition(":")
        if not value and kind.isdecimal():
            return self.get(int(kind))
        if kind in ("ipv4", "ipv6"):
            wanted = str(ip_address(value))
            found = [e for e in self if wanted in (e.file.ipv4, e.file.ipv6)]
        elif kind == "container-id":
            found = [e for e in self if e.file.container_id == value]
        elif kind == "pod-name":
            namespace, _, pod = value.rpartition("/")
            found = self.of_pod(namespace or "default", pod)
        else:
            raise ValueError(
                f"{text!r} names no endpoint: use 7, container-id:ID, pod-name:NAMESPACE/POD, "
                "ipv4:ADDRESS or ipv6:ADDRESS"
            )
        return found[-1] if found else None


def _container(file: EndpointFile) -> tuple[str, str]:
    return file.container_id, file.container_ifname
