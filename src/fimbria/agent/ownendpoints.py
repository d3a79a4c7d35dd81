"""This node's endpoints and the API: identities follow pods, CiliumEndpoints follow endpoints.

pods' labels ─► lifecycle.relabel ─► endpoint ─► publisher ─► CiliumEndpoint
                                     CiliumEndpoint, changed by somebody else ─► publisher
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.agent import objects
from fimbria.agent.endpoints import State
from fimbria.agent.publish import EndpointPublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fimbria.agent.cluster import Cluster
    from fimbria.agent.convert import CepRow
    from fimbria.agent.endpoints import Endpoint, Endpoints
    from fimbria.agent.lifecycle import Lifecycle
    from fimbria.agent.node import Node
    from fimbria.agent.policyview import PolicyView
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.reflector import Change
    from fimbria.sources.resources import Document


class OwnEndpoints:
    """Keeps endpoints in accord with the API. `trigger` has `resolve_identities` called soon."""

    def __init__(
        self,
        client: KubeClient,
        node: Node,
        endpoints: Endpoints,
        cluster: Cluster,
        lifecycle: Lifecycle,
        policy: PolicyView,
    ) -> None:
        self.publisher = EndpointPublisher(client, self._document)
        self.trigger: Callable[[], None] = lambda: None
        self._node = node
        self._endpoints = endpoints
        self._cluster = cluster
        self._lifecycle = lifecycle
        self._policy = policy
        self._dirty_pods: set[int] = set()

    def changed(self, endpoint: Endpoint) -> None:
        """An endpoint's object may need renewing."""
        self._mark(endpoint.file)

    def gone(self, file: EndpointFile) -> None:
        """An endpoint is no more."""
        self._mark(file)

    def objects_changed(self, changes: Sequence[Change[CepRow]]) -> None:
        """Our CiliumEndpoints as the API has them: note their uids, put right what is wrong."""
        for change in changes:
            if change.new is not None:
                self.publisher.published[change.key] = change.new.uid
                self._expected(change.key)
            elif self.publisher.published.pop(change.key, None):
                self.publisher.forget(change.key)

    def sweep(self) -> None:
        """Have our CiliumEndpoints removed of which there is no endpoint."""
        for key in list(self.publisher.published):
            self._expected(key)

    def pods_changed(self, numbers: Iterable[int]) -> None:
        """The pods of these endpoints are known, or are other ones."""
        self._dirty_pods.update(numbers)
        self.trigger()

    async def resolve_identities(self) -> None:
        """Bring endpoints' identities up to date with their pods' labels."""
        while self._dirty_pods:
            number = self._dirty_pods.pop()
            endpoint = self._endpoints.get(number)
            if endpoint is None or not endpoint.file.pod:
                continue
            view = self._cluster.pods.view(endpoint.file.namespace, endpoint.file.pod)
            if view is None or (endpoint.file.pod_uid and view.uid != endpoint.file.pod_uid):
                continue
            try:
                await self._lifecycle.relabel(endpoint, view)
            except BaseException:
                self._dirty_pods.add(number)
                raise

    def _document(self, key: tuple[str, str]) -> Document | None:
        """Return the CiliumEndpoint that a pod's endpoint should have."""
        found = [e for e in self._endpoints.of_pod(*key) if e.state is not State.DISCONNECTING]
        if not found:
            return None
        endpoint = found[-1]
        ipv4, ipv6 = self._node.addresses()
        enforcement = self._policy.enforcement(endpoint.id)
        return objects.endpoint(endpoint.file, str(endpoint.state), ipv4 or ipv6, enforcement)

    def _mark(self, file: EndpointFile) -> None:
        if file.pod:
            self.publisher.mark((file.namespace, file.pod))

    def _expected(self, key: tuple[str, str]) -> None:
        """Have a CiliumEndpoint of this node removed if there is no such endpoint (any more)."""
        if not self._endpoints.of_pod(*key) and self._lifecycle.ready.is_set():
            self.publisher.mark(key)
