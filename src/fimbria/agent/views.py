"""What the API shows: documents put together from the agent's parts, requested beside effective.

Nothing here changes anything but an endpoint's options. The forms are those of docs/DESIGN.md §5.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from fimbria.agent import endpointconfig, eventdoc, hostview, metrics
from fimbria.agent.api import ApiError
from fimbria.agent.apply import NotReady
from fimbria.agent.mapview import describe
from fimbria.agent.statusview import lines
from fimbria.agent.tracing import Tracer
from fimbria.kernel.errors import BpfError, is_not_found
from fimbria.model.identity import RESERVED
from fimbria.sources import config

if TYPE_CHECKING:
    from fimbria.agent.agent import Agent
    from fimbria.agent.endpoints import Endpoint
    from fimbria.agent.trials import Trials
    from fimbria.datapath.abi import Event
    from fimbria.sources.config import Settings

Document = dict[str, Any]

SIZED = {"cilium_ct": "bpf-ct-global-tcp-max", "cilium_ct_new": "bpf-ct-half-open-max"}
"""Maps that keep the size they were made with, and the keys that ask for another."""


class Views:
    """Read-only access to an agent, document by document."""

    def __init__(self, agent: Agent, settings: Settings) -> None:
        self._agent = agent
        self._settings = settings
        self._names = _Names(agent)
        self._start = agent.node.clock.wall() - agent.node.clock.monotonic()

    @property
    def trials(self) -> Trials:
        """Return the policies on trial."""
        return self._agent.trials

    def status(self) -> Document:
        """Return `GET /v1/healthz`."""
        shown = lines(self._agent)
        failing = any(line["state"] == "failure" for line in shown)
        return {
            "state": "failure" if failing else "Ok",
            "lines": shown,
            "controllers": self.controllers(),
        }

    def controllers(self) -> list[Document]:
        """Return `GET /v1/controllers`."""
        return self._agent.controllers.documents()

    def metrics(self) -> list[Document]:
        """Return `GET /v1/metrics`."""
        return metrics.documents(self._agent)

    def config(self) -> Document:
        """Return `GET /v1/config`."""
        return config.document(self._settings, self.effective())

    def effective(self) -> dict[str, object]:
        """Return the keys whose value in force is another than the one asked for."""
        node, found = self._agent.node, dict[str, object]()
        if node.devices is not None:
            found["devices"] = [device.name for device in node.devices.devices]
            found["direct-routing-device"] = node.devices.direct.name
            found["mtu"] = node.gateway.route_mtu
            for table, key in SIZED.items():
                have, _ = node.programs.kept_sizes.get(table, (0, 0))
                if have:
                    found[key] = have
        return found

    def endpoints(self) -> list[Document]:
        """Return `GET /v1/endpoint`."""
        host = hostview.document(self._agent)
        pods = [self._endpoint(endpoint) for endpoint in self._agent.endpoints]
        return pods if host is None else [*pods, host]

    def endpoint(self, name: str) -> Document:
        """Return `GET /v1/endpoint/{id}`; ApiError 404, 400."""
        if name in hostview.NAMES and (host := hostview.document(self._agent)) is not None:
            return host
        return self._endpoint(self._find(name))

    def endpoint_config(self, name: str) -> Document:
        """Return `GET /v1/endpoint/{id}/config`; ApiError 404, 400."""
        return endpointconfig.document(self._find(name))

    async def configure(self, name: str, body: object) -> Document:
        """Do `PATCH /v1/endpoint/{id}/config`; ApiError 404, 400."""
        return await endpointconfig.change(self._agent.lifecycle, self._find(name), body)

    def _find(self, name: str) -> Endpoint:
        try:
            found = self._agent.endpoints.find(name)
        except ValueError as error:
            raise ApiError(400, str(error), field="id") from error
        if found is None:
            raise ApiError(404, f"there is no endpoint {name}", "id", "see fimbria endpoint list")
        return found

    def _endpoint(self, endpoint: Endpoint) -> Document:
        enforcement = self._agent.policy.enforcement(endpoint.id)
        policy = {**enforcement.document(), "audit": enforcement.audit}
        return {**endpoint.document(), "policy": policy}

    def identities(self) -> list[Document]:
        """Return `GET /v1/identity`."""
        used: dict[int, int] = {}
        for endpoint in self._agent.endpoints:
            used[endpoint.file.identity] = used.get(endpoint.file.identity, 0) + 1
        local = self._agent.policy.local_identities()
        used.update(dict.fromkeys(local, 1))
        known = {
            **{int(n): labels for n, labels in RESERVED.items()},
            **self._agent.identities.known,
            **local,
        }
        return [
            {"id": number, "labels": list(labels), "refcount": used.get(number, 0)}
            for number, labels in sorted(known.items())
        ]

    def identity(self, name: str) -> Document:
        """Return `GET /v1/identity/{n}`."""
        number = _number(name, "identity")
        for one in self.identities():
            if one["id"] == number:
                return one
        raise ApiError(404, f"there is no identity {number}", "identity")

    def addresses(self) -> list[Document]:
        """Return `GET /v1/ip`."""
        return self._agent.policy.addresses()

    def nodes(self) -> list[Document]:
        """Return `GET /v1/cluster/nodes`."""
        return [_node(node, own) for node, own in self._agent.policy.nodes()]

    def policies(self) -> Document:
        """Return `GET /v1/policy`."""
        return {
            "revision": self._agent.cluster.revision,
            "policies": self._agent.policy.policies(),
            "trial": self._agent.trials.document(),
        }

    def selectors(self) -> list[Document]:
        """Return `GET /v1/policy/selectors`."""
        return self._agent.policy.selectors()

    def rule(self, name: str) -> Document:
        """Return `GET /v1/rule/{id}`."""
        number = _number(name, "rule")
        found = self._agent.policy.rule(number)
        if found is None:
            raise ApiError(404, f"there is no rule {number}", "rule")
        return found

    def resolve(self, body: Any) -> Document:
        """Return `POST /v1/policy/resolve`: the reasoning about one flow."""
        compiler = self._agent.applier.compiler
        if compiler is None:
            raise ApiError(
                503, "the agent does not know the cluster yet", hint="see fimbria status"
            )
        return Tracer(self._agent.cluster, self._agent.endpoints, compiler).resolve(body)

    async def realised(self, revision: int) -> None:
        """Wait until every endpoint realises a revision (0: the newest now)."""
        cluster = self._agent.cluster
        wanted = revision or cluster.revision
        if wanted > cluster.revision:
            # Not heard of yet: the watch that brings it is on its way.
            try:
                await asyncio.wait_for(cluster.reached(wanted), 60)
            except TimeoutError as error:
                raise ApiError(
                    504,
                    f"no revision {wanted} after 60 s: the newest is {cluster.revision}",
                    "revision",
                    "see fimbria policy list",
                ) from error
        try:
            await self._agent.applier.flush()
        except NotReady as error:
            raise ApiError(
                503, "the agent does not know the cluster yet", hint="see fimbria status"
            ) from error

    def maps(self) -> list[Document]:
        """Return `GET /v1/map`."""
        applier = self._agent.applier
        return [
            {"name": name, "entries": count, "errors": 0, "cached": True}
            for name, count in sorted(applier.counts().items())
        ]

    def map(self, name: str) -> Document:
        """Return `GET /v1/map/{name}`: what the kernel holds, decoded."""
        try:
            table = self._agent.node.maps.map(name)
        except BpfError as error:
            if is_not_found(error):
                raise ApiError(
                    404, f"there is no map {name}", hint="see fimbria map list"
                ) from error
            raise
        return {"name": name, "entries": describe(name, table.items())}

    def event(self, event: Event) -> Document:
        """Return one event, explained."""
        return eventdoc.document(event, self._names, self._wall)

    def _wall(self, nanoseconds: int) -> float:
        return self._start + nanoseconds / 1e9


class _Names:
    """Puts names to the numbers in events."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._devices: dict[int, str] = {}

    def interface(self, ifindex: int) -> str:
        name = self._devices.get(ifindex)
        if name is None and ifindex:
            link = self._agent.node.net.link(ifindex)
            name = link.name if link else ""
            if len(self._devices) > 8192:
                self._devices.clear()
            self._devices[ifindex] = name
        return name or ""

    def pod(self, address: str) -> str:
        return self._agent.policy.pod_of(ip_address(address).packed)

    def labels(self, identity: int) -> tuple[str, ...]:
        known = RESERVED.get(identity) or self._agent.identities.known.get(identity)
        compiler = self._agent.applier.compiler
        if known is None and compiler is not None:
            found = compiler.policies.selectors.labels(identity)
            return found.labels if found else ()
        return known or ()

    def rule(self, event: Event) -> Document:
        return self._agent.policy.explain(event)


def _node(node: Any, own: bool) -> Document:
    document: Document = {
        "name": node.name,
        "local": own,
        "source": "local" if own else "custom-resource",
        "addresses": [str(ip_address(ip)) for ip in node.addresses],
        "labels": list(node.labels),
    }
    for version, addresses in ((4, node.ipv4s), (6, node.ipv6s)):
        cidr = next((c for c in node.pod_cidrs if ip_network(c).version == version), None)
        address = str(ip_address(addresses[0])) if addresses else None
        if address or cidr:
            document[f"ipv{version}"] = {"address": address, "cidr": cidr}
    return document


def _number(text: str, field: str) -> int:
    if not text.isdecimal():
        raise ApiError(400, f"{text!r} is no number", field=field)
    return int(text)
