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
from fimbria.agent.ownendpoints import OwnEndpoints
from fimbria.agent.ownnode import OwnNode
from fimbria.agent.policyview import PolicyView
from fimbria.agent.publish import PolicyStatusPublisher
from fimbria.agent.restore import Restore
from fimbria.agent.trials import Trials
from fimbria.agent.views import Views
from fimbria.agent.watches import Watches
from fimbria.controllers import Controllers
from fimbria.sources.options import Config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from fimbria.agent.metrics import Delays
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.kernel.clock import SystemClock
    from fimbria.kernel.ringbuf import RingBuffer
    from fimbria.sources.config import Settings
    from fimbria.sources.kube import KubeClient

EVENTS_MAP = "cilium_events"
CHECK_INTERVAL = 300.0
RETRY_INTERVAL = 60.0

log = logging.getLogger(__name__)


class Agent:
    """Everything that one node's agent is made of."""

    def __init__(
        self, settings: Settings, client: KubeClient, clock: SystemClock, delays: Delays
    ) -> None:
        config = self.config = settings.config
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
        self.own_node = OwnNode(
            config,
            client,
            self.node,
            self.cluster,
            lambda: self.watches.nodes.rows.get(("", config.node_name)),
            self._state_dir / statefiles.NODE_FILE,
        )
        self.own_endpoints = OwnEndpoints(
            client, self.node, self.endpoints, self.cluster, self.lifecycle, self.policy
        )
        self.statuses = PolicyStatusPublisher(client, config.node_name, clock.wall)
        self.restore = Restore(
            self.node, self.endpoints, self.cluster, self.lifecycle.unsaved, self._state_dir
        )
        self.guard = Guard(self.node, self.endpoints, self._repair)
        self.views = Views(self, settings)
        self.api = api.Api(self.views, Cni(self.node, self.endpoints, self.lifecycle))
        self._tie()

    def _tie(self) -> None:
        """Connect the parts that call each other."""
        add = self.controllers.add
        own = self.own_endpoints
        own.publisher.trigger = add("publish-endpoints", own.publisher.run).trigger
        self.statuses.trigger = add("publish-policy-status", self.statuses.run).trigger
        own.trigger = add("resolve-identities", own.resolve_identities).trigger
        self.own_node.trigger = add("publish-node", self.own_node.publish).trigger
        self._recreate = add("keep-identities", self.cluster.recreate_identities)
        self.trials.trigger = add("policy-trial", self.trials.expire).trigger
        self.applier.after = self._applied
        self.applier.controller = add("apply", self.applier.run_once, backoff=0.5)
        self.applier.sweeper = add("remove-policies", self.applier.sweep)
        self.cluster.dirty = self._dirty
        self.cluster.pods.changed = own.pods_changed
        self.cluster.identities_lost = self._recreate.trigger
        self.cluster.policies.judged = self.statuses.report
        kept = self._state_dir / keptpolicies.FILE
        self.cluster.policies.restore(keptpolicies.load(kept))
        self.cluster.policies.remember = lambda documents: keptpolicies.save(kept, documents)
        self.cluster.references.judged = self.statuses.report
        self.cluster.pods.endpoints = lambda: [endpoint.file for endpoint in self.endpoints]
        self.cluster.own_node_changed = self.own_node.changed
        self.cluster.own_endpoints_changed = own.objects_changed
        self.collector.after = self._collected
        self.lifecycle.changed = own.changed
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
            self.own_endpoints.sweep()
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
        cidrs = await self.own_node.pod_cidrs()
        pods = [(file.ifname, file.ifindex) for file in restored] + self.restore.closed
        await asyncio.to_thread(self.node.bring_up, cidrs, pods)
        assert self.node.devices is not None
        self.restore.claim_addresses()
        self.cluster.set_devices(self.node.devices, self.node.gateway, cidrs)
        self.own_node.changed()  # the API may have named others meanwhile
        log.info("pod CIDRs %s, devices up", ", ".join(cidrs))

    async def _repair(self, pods: list[tuple[str, int]]) -> None:
        """Bring the node up once more, because something was taken away from it."""
        cidrs = self.node.ipam.cidrs
        await asyncio.to_thread(self.node.bring_up, cidrs, pods)
        assert self.node.devices is not None
        self.cluster.set_devices(self.node.devices, self.node.gateway, cidrs)
        await self.applier.rebase()

    async def _first_reconcile(self) -> None:
        for endpoint in self.endpoints:
            endpoint.to(State.WAITING_TO_REGENERATE, "everything is known")
            endpoint.to(State.REGENERATING)
        await self.applier.first()
        for endpoint in self.endpoints:
            if endpoint.state is State.REGENERATING:
                endpoint.to(State.READY, "restored")
            self.own_endpoints.changed(endpoint)
        self.own_endpoints.pods_changed([endpoint.id for endpoint in self.endpoints])

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

    def _endpoint_gone(self, file: EndpointFile) -> None:
        self.collector.soon()
        self.own_endpoints.gone(file)

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
                self.own_endpoints.changed(endpoint)
