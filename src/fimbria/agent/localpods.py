"""This node's pods as the API tells of them: whose labels and ports its endpoints have.

They are no rows of the compiler's. They only decide which identity an endpoint has, so their
changes are handed on as "look at these endpoints again".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fimbria.agent import convert
from fimbria.model.labels import LabelError, LabelFilter
from fimbria.sources.errors import KubeError, is_not_found
from fimbria.sources.options import ConfigError
from fimbria.sources.resources import PODS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.agent.convert import PodView
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.agent.watches import Watches
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.options import Config
    from fimbria.sources.reflector import Change
    from fimbria.sources.resources import Namespace, Pod

ASK_AFTER = 0.5
"""Seconds after which the API is asked for a pod that the watch has not brought."""


class LocalPods:
    """Looks pods up. `endpoints` gives this node's, `changed` is told of those to look at again."""

    def __init__(self, config: Config, client: KubeClient, watches: Watches) -> None:
        try:
            self._filter = LabelFilter(config.labels)
        except LabelError as error:
            raise ConfigError("labels", str(error)) from error
        self.endpoints: Callable[[], Sequence[EndpointFile]] = lambda: ()
        self.changed: Callable[[Sequence[int]], None] = lambda numbers: None
        self._cluster_name = config.cluster_name
        self._client = client
        self._watches = watches
        self._news = asyncio.Event()
        watches.on_namespaces = self._on_namespaces
        watches.on_pods = self._on_pods

    def view(self, namespace: str, name: str) -> PodView | None:
        """Return a pod of this node; None while it or its namespace is not known."""
        pod = self._watches.pod(namespace, name)
        return None if pod is None else self._view(pod)

    def _view(self, pod: Pod) -> PodView | None:
        namespace = self._watches.namespaces.rows.get(("", pod.metadata.namespace))
        if namespace is None:
            return None
        return convert.pod_view(pod, namespace, self._cluster_name, self._filter)

    async def wait(self, namespace: str, name: str, uid: str) -> PodView:
        """Wait for a pod of this node, and ask for it if the watch takes its time.

        `uid` "" takes any pod of that name. Raises KubeError, KubeUnreachable.
        """
        while True:
            found = self.view(namespace, name)
            if found is not None and uid in ("", found.uid):
                return found
            news = self._news
            try:
                async with asyncio.timeout(ASK_AFTER):
                    await news.wait()
            except TimeoutError:
                asked = await self._ask(namespace, name)
                if asked is not None and uid in ("", asked.uid):
                    return asked

    async def _ask(self, namespace: str, name: str) -> PodView | None:
        try:
            return self._view(await self._client.get(PODS, name, namespace))
        except KubeError as error:
            if is_not_found(error):
                return None
            raise

    def _tell_news(self) -> None:
        """Wake up whoever waits for a pod."""
        self._news.set()
        self._news = asyncio.Event()

    def _on_pods(self, changes: Sequence[Change[Pod]]) -> None:
        names = {change.key for change in changes if change.new is not None}
        self._tell_news()
        self._look_again(lambda file: (file.namespace, file.pod) in names)

    def _on_namespaces(self, changes: Sequence[Change[Namespace]]) -> None:
        names = {change.key[1] for change in changes}
        self._tell_news()
        self._look_again(lambda file: file.namespace in names)

    def _look_again(self, wanted: Callable[[EndpointFile], bool]) -> None:
        numbers = [e.id for e in self.endpoints() if wanted(e)]
        if numbers:
            self.changed(numbers)
