"""The agent's parts and how they are tied together; what happens in which order is in `run`."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.agent import (
    api,
    cniconf,
    deletequeue,
    keptpolicies,
    metrics,
    objects,
    pressure,
    statefiles,
)
from fimbria.agent.apply import Applier
from fimbria.agent.cluster import Cluster
from fimbria.agent.cni import Cni
from fimbria.agent.collector import Collector
from fimbria.agent.endpoints import Endpoints, State
from fimbria.agent.guard import INTERVAL, Guard
from fimbria.agent.identities import Identities
from fimbria.agent.lifecycle import Lifecycle
from fimbria.agent.monitor import Monitor
from fimbria.agent.node import Node
from fimbria.agent.overrides import remember, remembered
from fimbria.agent.policyview import PolicyView
from fimbria.agent.publish import EndpointPublisher, PolicyStatusPublisher, publish_node
from fimbria.agent.restore import Restore
from fimbria.agent.trials import Trials
from fimbria.agent.views import Views
from fimbria.agent.watches import Watches
from fimbria.controllers import Controllers
from fimbria.sources.options import Config
from fimbria.sources.resources import NODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from fimbria.agent.convert import CepRow
    from fimbria.agent.endpoints import Endpoint
    from fimbria.agent.metrics import Delays
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.kernel.clock import SystemClock
    from fimbria.kernel.ringbuf import RingBuffer
    from fimbria.sources.config import Settings
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.reflector import Change
    from fimbria.sources.resources import Document

EVENTS_MAP = "cilium_events"
NODE_PATIENCE = 1.0
CHECK_INTERVAL = 300.0
RETRY_INTERVAL = 60.0

log = logging.getLogger(__name__)


class Agent:
    """Everything that one node's agent is made of."""

    def __init__(
        self, settings: Settings, client: KubeClient, clock: SystemClock, delays: Delays
    ) -> None:
        config = self.config = settings.config
        self._client = client
        self._state_dir = Path(config.state_dir)
        self._runner: web.AppRunner | None = None
        self._ring: RingBuffer | None = None
        self._exporter: web.AppRunner | None = None
        self._clock = clock
        self._started = clock.monotonic()
        self.delays = delays
        self.controllers = Controllers()
        self.node = Node(config, clock)
        self.endpoints = Endpoints()
        self.identities = Identities(client)
        self.watches = Watches(client, config.node_name)
        self.cluster = Cluster(config, client, self.watches, self.identities)
        self.applier = Applier(self.node, self.cluster)
        self.lifecycle = Lifecycle(
            self.node, self.endpoints, self.cluster, self.identities, self.applier, self._state_dir
        )
        self.trials = Trials(self.cluster, self.applier, client, clock, self._state_dir)
        self.policy = PolicyView(self.cluster, self.applier, self.endpoints)
        self.collector = Collector(self.node, config.conntrack_gc_interval, self.endpoints.numbers)
        self.pressure = pressure.Pressure(
            lambda: pressure.measure(self.node, self.applier, self.collector, self.endpoints),
            self.applier.waiting,
        )
        self.publisher = EndpointPublisher(client, self._endpoint_object)
        self.statuses = PolicyStatusPublisher(client, config.node_name, clock.wall)
        self.restore = Restore(
            self.node, self.endpoints, self.cluster, self.lifecycle.unsaved, self._state_dir
        )
        self.guard = Guard(self.node, self.endpoints, self._repair)
        self.views = Views(self, settings)
        self.api = api.Api(self.views, Cni(self.node, self.endpoints, self.lifecycle))
        self._dirty_pods: set[int] = set()
        self._tie()

    def _tie(self) -> None:
        """Connect the parts that call each other."""
        add = self.controllers.add
        self.publisher.trigger = add("publish-endpoints", self.publisher.run).trigger
        self.statuses.trigger = add("publish-policy-status", self.statuses.run).trigger
        self._relabel = add("resolve-identities", self._resolve_identities)
        self._publish_node = add("publish-node", self._publish_own_node)
        self._recreate = add("keep-identities", self.cluster.recreate_identities)
        self.trials.trigger = add("policy-trial", self.trials.expire).trigger
        self.applier.after = self._applied
        self.applier.controller = add("apply", self.applier.run_once, backoff=0.5)
        self.applier.sweeper = add("remove-policies", self.applier.sweep)
        self.cluster.dirty = self._dirty
        self.cluster.pods.changed = self._pods_changed
        self.cluster.identities_lost = self._recreate.trigger
        self.cluster.policies.judged = self.statuses.report
        kept = self._state_dir / keptpolicies.FILE
        self.cluster.policies.restore(keptpolicies.load(kept))
        self.cluster.policies.remember = lambda documents: keptpolicies.save(kept, documents)
        self.cluster.references.judged = self.statuses.report
        self.cluster.pods.endpoints = lambda: [endpoint.file for endpoint in self.endpoints]
        self.cluster.own_node_changed = self._own_node_changed
        self.cluster.own_endpoints_changed = self._own_endpoints_changed
        self.collector.after = self._collected
        self.lifecycle.changed = self._endpoint_changed
        self.lifecycle.gone = self._endpoint_gone

    async def run(self) -> None:
        """Run until cancelled; raises (in a group) what makes going on impossible."""
        path = Path(self.config.socket_path)
        api.check_place(path)
        await asyncio.to_thread(self.node.preflight)
        self._runner = await api.listen(self.api.application(), path)
        async with asyncio.TaskGroup() as group:
            self.controllers.start(group)
            if self.config.prometheus_serve_addr:
                self._exporter = await metrics.serve(self, self.config.prometheus_serve_addr)
            restored = self.restore.take_up()
            log.info("restored %d endpoints", len(restored))
            self.watches.own_addresses = self._own_addresses()
            group.create_task(self.watches.run())
            await self._bring_up(restored)
            await self.watches.synced.wait()
            self.restore.settle()
            self.trials.restore()
            await self._first_reconcile()
            # What is known by now mostly stays: full collections, which stop everything, need not
            # walk it again and again.
            gc.collect()
            gc.freeze()
            await self._replay_deletions(path.parent / deletequeue.FOLDER)
            self.lifecycle.ready.set()
            for key in list(self.publisher.published):
                self._expected(key)
            self.delays.bootstrap = self._clock.monotonic() - self._started
            self._write_cni_configuration()
            log.info("ready for pods")
            group.create_task(self._monitor().run())
            self.guard.trigger = self.controllers.add("guard", self.guard.look, INTERVAL).trigger
            self.guard.trigger()
            group.create_task(self.guard.listen())
            self.controllers.add("save-state", self.lifecycle.save_pending, INTERVAL)
            self.controllers.add("check-maps", self.applier.check, CHECK_INTERVAL)
            self.controllers.add("retry-policies", self.cluster.retry_policies, RETRY_INTERVAL)
            self.controllers.add("map-pressure", self.pressure.run, pressure.INTERVAL)
            self._pace_collection()
            await asyncio.Event().wait()

    def _monitor(self) -> Monitor:
        # Imported only now: numpy costs a third of a start, and events wait in their buffer.
        from fimbria.kernel.ringbuf import RingBuffer

        self._ring = RingBuffer(self.node.maps.map(EVENTS_MAP))
        self.api.monitor = Monitor(self._ring)
        self.api.monitor.drained = self.policy.shadows.take
        return self.api.monitor

    def _pace_collection(self) -> None:
        collector = self.collector
        controller = self.controllers.add("conntrack-gc", collector.run_once, collector.interval)

        def pace(interval: float) -> None:
            controller.interval = interval

        collector.trigger, collector.pace = controller.trigger, pace
        collector.soon()

    async def close(self) -> None:
        """Give back what a process holds; what is pinned and wired goes on."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._exporter is not None:
            await self._exporter.cleanup()
        if self._ring is not None:
            self._ring.close()
        self.guard.close()
        self.node.close()

    def _dirty(self) -> None:
        """What the cluster knows has changed."""
        self.delays.revised(self.cluster.revision, self._clock.monotonic())
        self.applier.request()

    def _collected(self) -> None:
        """Conntrack has been collected."""
        self.delays.collection.observe(self.collector.seconds)
        self.pressure.sample()

    def _own_addresses(self) -> frozenset[bytes]:
        from fimbria.agent.convert import packed

        return frozenset(packed(text) for text in self.node.addresses() if text)

    async def _bring_up(self, restored: Sequence[EndpointFile]) -> None:
        cidrs = await self._pod_cidrs()
        pods = [(file.ifname, file.ifindex) for file in restored] + self.restore.closed
        await asyncio.to_thread(self.node.bring_up, cidrs, pods)
        assert self.node.devices is not None
        self.restore.claim_addresses()
        self.cluster.set_devices(self.node.devices, self.node.gateway, cidrs)
        self._own_node_changed()  # the API may have named others meanwhile
        log.info("pod CIDRs %s, devices up", ", ".join(cidrs))

    async def _repair(self, pods: list[tuple[str, int]]) -> None:
        """Bring the node up once more, because something was taken away from it."""
        cidrs = self.node.ipam.cidrs
        await asyncio.to_thread(self.node.bring_up, cidrs, pods)
        assert self.node.devices is not None
        self.cluster.set_devices(self.node.devices, self.node.gateway, cidrs)
        await self.applier.rebase()

    async def _pod_cidrs(self) -> tuple[str, ...]:
        """Return the node's pod CIDRs: those the API names, or the last known if it is away."""
        self._publish_node.trigger()
        path = self._state_dir / statefiles.NODE_FILE
        known = remembered(path)
        found = self.cluster.pod_cidrs
        try:
            async with asyncio.timeout(NODE_PATIENCE if known.pod_cidrs else None):
                cidrs = await found.wait()
        except TimeoutError:
            log.warning("the API does not answer; pod CIDRs as last known")
            return known.pod_cidrs
        remember(path, self.config.node_name, pod_cidrs=cidrs)
        return cidrs

    async def _first_reconcile(self) -> None:
        for endpoint in self.endpoints:
            endpoint.to(State.WAITING_TO_REGENERATE, "everything is known")
            endpoint.to(State.REGENERATING)
        await self.applier.first()
        for endpoint in self.endpoints:
            if endpoint.state is State.REGENERATING:
                endpoint.to(State.READY, "restored")
            self._endpoint_changed(endpoint)
        self._pods_changed([e.id for e in self.endpoints])

    async def _replay_deletions(self, folder: Path) -> None:
        for path, request in list(deletequeue.pending(folder)):
            await self.lifecycle.remove(request.container_id, request.ifname)
            path.unlink(missing_ok=True)

    def _write_cni_configuration(self) -> None:
        config = self.config
        if config.write_cni_conf_when_ready:
            default = str(Config().socket_path)
            content = cniconf.document(config.socket_path, default, config.cni_chaining_mode)
            cniconf.write(Path(config.write_cni_conf_when_ready), content, config.cni_exclusive)

    async def _publish_own_node(self) -> None:
        ipv4, ipv6 = self.node.addresses()
        gateway = self.node.gateway
        spec = objects.node_spec((ipv4, ipv6), (gateway.ipv4, gateway.ipv6))
        if self.config.ipam == "kubernetes":
            node = await self._client.get(NODES, self.config.node_name)
            spec["ipam"] = {"podCIDRs": list(node.spec.pod_cidrs or ())}
        current = self.watches.nodes.rows.get(("", self.config.node_name))
        await publish_node(self._client, self.config.node_name, spec, current)

    def _own_node_changed(self) -> None:
        """Our CiliumNode changed, or is gone: bring our part of it back."""
        self._publish_node.trigger()
        cidrs = self.cluster.pod_cidrs.value
        if cidrs and self.node.ready:
            self.node.ipam.extend(cidrs)
            self.cluster.set_pod_cidrs(cidrs)
            path = self._state_dir / statefiles.NODE_FILE
            remember(path, self.config.node_name, pod_cidrs=cidrs)

    # -- endpoints and their objects

    def _endpoint_object(self, key: tuple[str, str]) -> Document | None:
        found = [e for e in self.endpoints.of_pod(*key) if e.state is not State.DISCONNECTING]
        if not found:
            return None
        endpoint = found[-1]
        ipv4, ipv6 = self.node.addresses()
        enforcement = self.policy.enforcement(endpoint.id)
        return objects.endpoint(endpoint.file, str(endpoint.state), ipv4 or ipv6, enforcement)

    def _endpoint_changed(self, endpoint: Endpoint) -> None:
        if endpoint.file.pod:
            self.publisher.mark((endpoint.file.namespace, endpoint.file.pod))

    def _endpoint_gone(self, file: EndpointFile) -> None:
        self.collector.soon()
        if file.pod:
            self.publisher.mark((file.namespace, file.pod))

    def _own_endpoints_changed(self, changes: Sequence[Change[CepRow]]) -> None:
        """Our CiliumEndpoints as the API has them: note their uids, put right what is wrong."""
        for change in changes:
            if change.new is not None:
                self.publisher.published[change.key] = change.new.uid
                self._expected(change.key)
            elif self.publisher.published.pop(change.key, None):
                self.publisher.forget(change.key)

    def _expected(self, key: tuple[str, str]) -> None:
        """Have a CiliumEndpoint of this node removed if there is no such endpoint (any more)."""
        if not self.endpoints.of_pod(*key) and self.lifecycle.ready.is_set():
            self.publisher.mark(key)

    def _applied(self, revision: int) -> None:
        """The maps are as desired: every endpoint realises this revision."""
        self.delays.realised(revision, self._clock.monotonic())
        self.cluster.policies.settled()
        for endpoint in self.endpoints:
            if endpoint.state in (State.READY, State.REGENERATING):
                endpoint.revision = revision
        for number in self.policy.take_changes():
            endpoint = self.endpoints.get(number)
            if endpoint is not None:
                self._endpoint_changed(endpoint)

    def _pods_changed(self, numbers: Sequence[int]) -> None:
        self._dirty_pods.update(numbers)
        self._relabel.trigger()

    async def _resolve_identities(self) -> None:
        """Bring endpoints' identities up to date with their pods' labels."""
        while self._dirty_pods:
            number = self._dirty_pods.pop()
            endpoint = self.endpoints.get(number)
            if endpoint is None or not endpoint.file.pod:
                continue
            view = self.cluster.pods.view(endpoint.file.namespace, endpoint.file.pod)
            if view is None or (endpoint.file.pod_uid and view.uid != endpoint.file.pod_uid):
                continue
            try:
                await self.lifecycle.relabel(endpoint, view)
            except BaseException:
                self._dirty_pods.add(number)
                raise
