"""What the agent knows of the cluster: watched objects become the compiler's rows.

    watches ─► handlers (no await) ─► ClusterState tables ─► `dirty` ─► applier ─► compiler

Pods of this node are in `localpods`, policies in `intake`, what they refer to in `references`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from fimbria.agent import convert
from fimbria.agent.hostports import HostPorts
from fimbria.agent.intake import Intake
from fimbria.agent.localpods import LocalPods
from fimbria.agent.references import References
from fimbria.compile.state import ClusterState, Node, NodeConfig
from fimbria.model.identity import RESERVED
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.agent.convert import CepRow
    from fimbria.agent.devices import NodeDevices
    from fimbria.agent.identities import Identities
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.agent.watches import Watches
    from fimbria.agent.wiring import Gateway
    from fimbria.compile.state import RemoteEndpoint
    from fimbria.model.labels import Labels
    from fimbria.model.policy import Policy
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.options import Config
    from fimbria.sources.reflector import Change
    from fimbria.sources.resources import (
        CiliumIdentity,
        CiliumNode,
        Document,
        Resource,
    )


class PodCidrs:
    """This node's pod CIDRs, once the API names them."""

    def __init__(self) -> None:
        self.value: tuple[str, ...] = ()
        self._known = asyncio.Event()

    def set(self, value: tuple[str, ...]) -> None:
        """Note what the API says; nothing is no news."""
        if value:
            self.value = value
            self._known.set()

    async def wait(self) -> tuple[str, ...]:
        """Wait until they are known."""
        await self._known.wait()
        return self.value


class Cluster:
    """The compiler's input, kept up to date. The callables are set by whoever wants to know."""

    def __init__(
        self, config: Config, client: KubeClient, watches: Watches, identities: Identities
    ) -> None:
        self.config = config
        self.pods = LocalPods(config, client, watches)
        server = frozenset(convert.packed(text) for text in client.addresses)
        self.state = ClusterState(config.node_name, _node_config(config, server))
        self.host_ports = HostPorts(config, self.state, (server, client.server[1]))
        self.policies = Intake(self.state, self.parse)
        self.policies.guards.append(self.host_ports.guard)
        self.references = References(self.state)
        self.revision = 1
        self.pod_cidrs = PodCidrs()
        self.dirty: Callable[[], None] = _nothing
        self.identities_lost: Callable[[], None] = _nothing
        self.own_node_changed: Callable[[], None] = _nothing
        self.own_endpoints_changed: Callable[[Sequence[Change[CepRow]]], None]
        self.own_endpoints_changed = lambda changes: None
        self._watches = watches
        self._identities = identities
        self._own: Node | None = None
        self._lost: set[int] = set()
        self._revised = asyncio.Event()
        self._names: dict[bytes, str] = {}
        self._names_of = -1
        watches.on_nodes = self._on_nodes
        watches.on_endpoints = self._on_endpoints
        watches.on_identities = self._on_identities
        watches.on_policies = self._on_policies
        watches.on_node_labels = self._on_node_labels
        watches.on_groups = lambda changes: self._took(self.references.groups(changes))
        watches.on_services = lambda changes: self._took(self.references.services(changes))
        watches.on_slices = lambda changes: self._took(self.references.slices(changes))

    # -- what this node itself contributes

    def set_devices(
        self, devices: NodeDevices, gateway: Gateway, pod_cidrs: tuple[str, ...]
    ) -> None:
        """This node's own row: its addresses are what its devices have, not what the API says."""
        packed = [convert.packed(text) for text in devices.local_addresses]
        first = [convert.packed(devices.direct.address(version)) for version in (4, 6)]
        ordered = [*filter(None, first), *(raw for raw in packed if raw not in first)]
        routers = (convert.packed(text) for text in (gateway.ipv4, gateway.ipv6) if text)
        self._own = Node(
            name=self.config.node_name,
            ipv4s=tuple(raw for raw in ordered if len(raw) == 4),
            ipv6s=tuple(raw for raw in ordered if len(raw) == 16),
            pod_cidrs=pod_cidrs,
            tunnel_ip=first[0] or None,
            routers=tuple(routers),
            labels=self._watches.node_labels.rows.get(("", self.config.node_name), ()),
        )
        self.state.nodes.put(self.config.node_name, self._own)
        self._took(False)

    def set_pod_cidrs(self, pod_cidrs: tuple[str, ...]) -> None:
        """This node's pod CIDRs are others than they were when it came up."""
        if self._own is None:
            return  # its devices are still being made
        self._own = replace(self._own, pod_cidrs=pod_cidrs)
        self.state.nodes.put(self.config.node_name, self._own)
        self.dirty()

    def set_endpoint(self, file: EndpointFile) -> None:
        """Add or change one of this node's endpoints."""
        self.state.local.put(file.id, convert.local_row(file))
        if file.identity and file.labels:
            self.learn(file.identity, file.labels)
        self.dirty()

    def remove_endpoint(self, number: int) -> None:
        """Remove one of this node's endpoints."""
        self.state.local.delete(number)
        self.dirty()

    def learn(self, number: int, labels: tuple[str, ...]) -> None:
        """Note an identity's labels, before the watch tells of it."""
        if number not in self.state.identities and number >= 256:
            self.state.identities.put(number, labels)

    # -- watched kinds that are rows of the compiler

    def _on_nodes(self, changes: Sequence[Change[CiliumNode]]) -> None:
        for change in changes:
            name = change.key[1]
            if name == self.config.node_name:
                if change.new is not None:
                    self.pod_cidrs.set(tuple(change.new.spec.ipam.pod_cidrs or ()))
                self.own_node_changed()
            elif change.new is None:
                self.state.nodes.delete(name)
            else:
                labels = self._watches.node_labels.rows.get(change.key, ())
                self.state.nodes.put(name, replace(convert.node_row(change.new), labels=labels))
        self._took(False)
        self.dirty()

    def _on_node_labels(self, changes: Sequence[Change[Labels]]) -> None:
        for change in changes:
            name = change.key[1]
            row = self.state.nodes.get(name)
            if row is None:
                continue  # its CiliumNode, or its devices, are still to come
            row = replace(row, labels=change.new or ())
            self.state.nodes.put(name, row)
            if name == self.config.node_name:
                self._own = row
        self._took(False)
        self.dirty()

    def _on_endpoints(self, changes: Sequence[Change[CepRow]]) -> None:
        remote = self.state.remote
        # Removals first: an address may have gone from one pod to another in the same batch.
        for change in changes:
            for row in change.old.endpoints if change.old else ():
                if remote.get(row.ip) == row:
                    remote.delete(row.ip)
        for change in changes:
            for row in change.new.endpoints if change.new else ():
                remote.put(row.ip, row)
        own = [c for c in changes if (c.old and c.old.uid) or (c.new and c.new.uid)]
        if own:
            self.own_endpoints_changed(own)
        self.dirty()

    def _on_identities(self, changes: Sequence[Change[CiliumIdentity]]) -> None:
        used = {file.identity for file in self.pods.endpoints()}
        for change in changes:
            identity = change.new or change.old
            number = convert.identity_number(identity) if identity else None
            if identity is None or number is None:
                continue
            if change.new is not None:
                labels = convert.identity_labels(identity)
                self._identities.learn(number, labels)
                self.state.identities.put(number, labels)
                continue
            self._identities.forget(number)
            if number in used:
                self._lost.add(number)  # our endpoints go on with it until it is back
            else:
                self.state.identities.delete(number)
        if self._lost:
            self.identities_lost()
        self.dirty()

    async def recreate_identities(self) -> None:
        """Put identities back into the API that are gone while our endpoints use them."""
        while self._lost:
            number = min(self._lost)
            file = next((f for f in self.pods.endpoints() if f.identity == number), None)
            if file is not None:
                await self._identities.recreate(number, file.labels)
            self._lost.discard(number)

    def _on_policies(
        self, resource: Resource[Document], changes: Sequence[Change[Document]]
    ) -> None:
        self._took(self.policies.take(resource, changes))

    def _took(self, changed: bool) -> None:
        """What policies say has changed: that is a new revision."""
        if self._guard_again() or changed:
            self.revise()

    def revise(self) -> None:
        """Make a new revision of what policies say, and have it applied."""
        self.revision += 1
        self._revised.set()
        self._revised = asyncio.Event()
        self.dirty()

    def _guard_again(self) -> bool:
        """Look at the policies about nodes again; return whether another set is in force now."""
        changed = False
        while culprits := dict(self.host_ports.culprits()):
            youngest = max(culprits, key=self.policies.age)
            self.policies.withdraw(youngest, culprits[youngest])
            changed = True
        return self.policies.ask_again() or changed

    async def retry_policies(self) -> None:
        """Try again those policies that did not fit."""
        if self.policies.retry():
            self.dirty()

    def parse(self, document: Document, kind: str) -> Policy:
        """Return the policy of an object; PolicyError if it has no name."""
        return parse_policy(
            document,
            kind,
            cluster=self.config.cluster_name,
            node_labels=self.state.config.node_labels,
        )

    async def reached(self, revision: int) -> None:
        """Wait until the policy revision is at least this."""
        while self.revision < revision:
            await self._revised.wait()

    def labels(self, number: int) -> tuple[str, ...] | None:
        """Return an identity's labels, reserved ones included; None if it is not known."""
        return RESERVED.get(number) or self.state.identities.get(number)

    def number(self, labels: tuple[str, ...]) -> int | None:
        """Return the identity of labels; None if nobody has them."""
        return self._identities.number(labels)

    def remote_pod(self, namespace: str, name: str) -> tuple[RemoteEndpoint, ...]:
        """Return the rows of a pod on another node."""
        row = self._watches.endpoints.rows.get((namespace, name))
        return row.endpoints if row else ()

    def pod_names(self, ip: bytes) -> str:
        """Return namespace/name of a pod on another node by its address, "" if none has it."""
        if self._names_of != self.state.remote.revision:
            self._names_of = self.state.remote.revision
            self._names = {
                row.ip: "/".join(key)
                for key, rows in self._watches.endpoints.rows.items()
                for row in rows.endpoints
            }
        return self._names.get(ip, "")


def _node_config(config: Config, apiserver: frozenset[bytes]) -> NodeConfig:
    return NodeConfig(
        tunnel=config.routing_mode == "tunnel",
        ipv4=config.enable_ipv4,
        ipv6=config.enable_ipv6,
        enforcement=Mode(config.enable_policy),
        policy_map_max=config.bpf_policy_map_max,
        endpoint_routes=config.enable_endpoint_routes,
        direct_routes=config.auto_direct_node_routes,
        kube_apiserver=apiserver,
        cidr_match=frozenset(config.policy_cidr_match_mode),
        node_labels=config.enable_node_selector_labels,
        host_firewall=config.enable_host_firewall,
        audit=config.policy_audit_mode,
    )


def _nothing() -> None:
    """Nobody wants to know."""
