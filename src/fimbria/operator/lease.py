"""One operator at a time: a Lease that its holder renews and others wait for.

The holder gives up its work when it could not renew for the lease's length; another takes the lease
over when the holder has not renewed for that long *by the other's own clock*, so that clocks need
not agree (client-go's rule).
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fimbria.sources.errors import KubeError, KubeUnreachable, is_not_found
from fimbria.sources.resources import LEASES, Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fimbria.kernel.clock import SystemClock
    from fimbria.sources.kube import KubeClient

DURATION = 15.0
RETRY = 2.0

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """The lease could not be renewed in time, or somebody else holds it."""


class Leadership:
    """Hold the lease `namespace/name` as `holder`."""

    def __init__(
        self, client: KubeClient, clock: SystemClock, namespace: str, name: str, holder: str
    ) -> None:
        self.held = False
        self._client = client
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._holder = holder
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0

    async def run(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Wait for the lease, do `work` while it is held; LeaseLost (in a group) if it is lost."""
        while True:
            if await self._try():
                break
            await asyncio.sleep(RETRY)
        log.info("leading as %s", self._holder)
        self.held = True
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            await self._renew()

    async def release(self) -> None:
        """Let others take over at once; called on an orderly end."""
        if not self.held:
            return
        body = {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}
        await self._client.patch(LEASES, self._name, body, self._namespace)

    async def _renew(self) -> None:
        renewed = self._clock.monotonic()
        while self._clock.monotonic() - renewed < DURATION:
            await asyncio.sleep(RETRY)
            if await self._try():
                renewed = self._clock.monotonic()
            elif self._seen[0] not in ("", self._holder):
                self.held = False
                raise LeaseLost(f"{self._seen[0]} holds the lease")
        self.held = False
        raise LeaseLost(f"the lease could not be renewed for {DURATION:g} s")

    async def _try(self) -> bool:
        """Take or renew the lease; False if it is another's or the API does not answer."""
        try:
            return await self._take()
        except (KubeError, KubeUnreachable) as error:
            log.debug("lease: %s", error)
            return False

    async def _take(self) -> bool:
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except KubeError as error:
            if not is_not_found(error):
                raise
            body: dict[str, Any] = {"metadata": {"name": self._name}, "spec": self._spec(None)}
            await self._client.create(LEASES, body, self._namespace)
            return True
        holder = lease.spec.holder_identity or ""
        seen = (holder, lease.spec.renew_time or "")
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock.monotonic()
        duration = lease.spec.lease_duration_seconds or DURATION
        if holder not in ("", self._holder) and self._clock.monotonic() - self._seen_at < duration:
            return False
        body = {
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                "resourceVersion": lease.metadata.resource_version,
            },
            "spec": self._spec(lease),
        }
        await self._client.update(LEASES, self._name, body, self._namespace)
        return True

    def _spec(self, lease: Lease | None) -> dict[str, Any]:
        now = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = lease.spec if lease else None
        same = spec is not None and spec.holder_identity == self._holder
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": spec.acquire_time if spec and same else now,
            "renewTime": now,
            "leaseTransitions": ((spec.lease_transitions or 0) if spec else 0) + (not same),
        }
