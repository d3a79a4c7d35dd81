"""`POST /v1/policy/resolve`: a question about one flow, put to the analysis."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from fimbria.agent.api import ApiError
from fimbria.analysis.trace import ANY, TraceEnd, trace
from fimbria.compile.delta import IPCACHE
from fimbria.datapath.abi import EndpointIds, Identity
from fimbria.datapath.lookup import ipcache_lookup
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelError, LabelSet, canonical
from fimbria.model.policy import Protocol
from fimbria.model.semantics import End

if TYPE_CHECKING:
    from fimbria.agent.cluster import Cluster
    from fimbria.agent.endpoints import Endpoints
    from fimbria.compile.node import Compiler
    from fimbria.model.labels import Labels
    from fimbria.model.policy import NamedPort

Document = dict[str, Any]
INIT_LABELS = ("reserved:init",)


class Tracer:
    """Finds out who is meant, and has it judged."""

    def __init__(self, cluster: Cluster, endpoints: Endpoints, compiler: Compiler) -> None:
        self._cluster = cluster
        self._endpoints = endpoints
        self._compiler = compiler

    def resolve(self, body: object) -> Document:
        """Return the reasoning for `{"src", "dst", "dport"}`; ApiError naming the field."""
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be an object with src, dst and dport")
        question = cast("Document", body)
        port, protocols = _port(question.get("dport"))
        source = self._end(question.get("src"), "src")
        destination = self._end(question.get("dst"), "dst")
        return trace(self._compiler, source, destination, port, protocols).document()

    def _end(self, value: object, field: str) -> TraceEnd:
        end = cast("Document", value) if isinstance(value, dict) else {}
        if isinstance(end.get("pod"), str):
            return self._pod(end["pod"], field)
        if isinstance(end.get("ip"), str):
            return self._address(end["ip"], field)
        if isinstance(end.get("labels"), list):
            try:
                labels = canonical(str(one) for one in cast("list[object]", end["labels"]))
            except LabelError as error:
                raise ApiError(400, str(error), field=field) from error
            return self._labelled(labels, self._number(labels))
        number = end.get("identity")
        if isinstance(number, int):
            known = self._cluster.labels(number)
            if known is None:
                raise ApiError(404, f"there is no identity {number}", field=field)
            return self._labelled(known, number)
        raise ApiError(400, "give one of pod, ip, labels and identity", field=field)

    def _pod(self, name: str, field: str) -> TraceEnd:
        namespace, _, pod = name.rpartition("/")
        for endpoint in self._endpoints.of_pod(namespace, pod):
            row = self._cluster.state.local.get(endpoint.id)
            if row is not None:
                first = next(iter(row.addresses), b"")
                return self._labelled(
                    endpoint.file.labels, row.identity, endpoint.id, row.named_ports, first
                )
        for row in self._cluster.remote_pod(namespace, pod):
            labels = self._cluster.labels(row.identity)
            if labels is None:
                raise ApiError(
                    404, f"identity {row.identity} of {ip_address(row.ip)} is not known", field
                )
            return self._labelled(labels, row.identity, None, row.named_ports, row.ip)
        raise ApiError(404, f"there is no pod {name} in the network", field, "see fimbria ip list")

    def _address(self, text: str, field: str) -> TraceEnd:
        """Return whose an address is: a pod's, a node's, or somebody's in the world."""
        try:
            ip = ip_address(text).packed
        except ValueError as error:
            raise ApiError(400, f"{text!r} is no address", field=field) from error
        for endpoint in self._endpoints:
            row = self._cluster.state.local.get(endpoint.id)
            if row is not None and ip in row.addresses:
                return self._labelled(
                    endpoint.file.labels, row.identity, endpoint.id, row.named_ports, ip
                )
        state = self._cluster.state
        places = state.places()
        if ip in places.own and state.config.host_firewall:
            labels = LabelSet((*places.own_labels, *RESERVED[Identity.HOST]))
            end = replace(places.end(ip), labels=labels)
            return TraceEnd(end, int(EndpointIds.HOST), host=True)
        end = places.end(ip)
        # Rules see the address; the map has the identity of the longest prefix that they name.
        seen = ipcache_lookup(self._compiler.desired().maps[IPCACHE], ip)
        if seen is not None:
            end = replace(end, identity=seen.sec_identity)
        return TraceEnd(end, None, _policed(end.labels.labels))

    def _labelled(
        self,
        labels: Labels,
        number: int,
        endpoint: int | None = None,
        ports: tuple[NamedPort, ...] = (),
        ip: bytes = b"",
    ) -> TraceEnd:
        net = self._cluster.state.places().end(ip).net if ip else None
        end = End(number, LabelSet(labels), frozenset(ports), net)
        return TraceEnd(end, endpoint, _policed(labels))

    def _number(self, labels: Labels) -> int:
        """Return the identity of labels; 0, which nobody has, for labels that nobody has."""
        reserved = next((int(n) for n, have in RESERVED.items() if tuple(have) == labels), 0)
        return reserved or self._cluster.number(labels) or 0


def _policed(labels: Labels) -> bool:
    """Return whether policies about pods can select an end of these labels."""
    if labels == INIT_LABELS:
        return True
    return not any(label.startswith(("reserved:", "cidr:", "node:")) for label in labels)


def _port(value: object) -> tuple[int, tuple[int, ...]]:
    """Return port and protocols of "80/TCP"; without a protocol, all that have ports."""
    if value is None:
        return 0, ANY
    port, _, protocol = str(value).partition("/")
    names = {one.name: int(one) for one in Protocol}
    if not port.isdecimal() or int(port) > 65535:
        raise ApiError(400, f"{value!r} is no PORT/PROTOCOL", field="dport")
    if protocol.upper() in ("", "ANY"):
        return int(port), ANY
    if protocol.upper() not in names:
        raise ApiError(400, f"there is no protocol {protocol}", field="dport")
    return int(port), (names[protocol.upper()],)
