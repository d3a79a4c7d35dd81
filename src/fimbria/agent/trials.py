"""Policies on trial: they hold on this node until a deadline, unless somebody confirms them.

    PUT trial ─► file ─► rows in state.trials ─► the kernel has both, and jiffies to go back at
                               │
        confirm ─► API ─► the watch shows it ─► rows dropped: the policy is an ordinary one
        rollback, deadline ─────────────────────► rows dropped: what was before holds again

The way back is in the kernel before the policy is in force, so it needs no agent: one that dies
loses nothing but the bump, and one that starts again finds the file and goes on, or drops it. The
file is of this boot only, because jiffies are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from fimbria.agent import statefiles, submit
from fimbria.agent.api import ApiError
from fimbria.agent.apply import NotReady
from fimbria.compile.state import Trial
from fimbria.model.policy import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.agent.apply import Applier
    from fimbria.agent.cluster import Cluster
    from fimbria.kernel.clock import SystemClock
    from fimbria.model.policy import Policy, PolicyKey
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.resources import Document

SHORTEST, LONGEST = 1.0, 86400.0
"""Seconds that a trial may take. Jiffies are compared by signed difference: a day is far below."""
PATIENCE = 30.0
"""Seconds that a confirmed trial holds on for its objects to come back from the API."""

log = logging.getLogger(__name__)


class Trials:
    """The one trial that a node can have at a time."""

    def __init__(
        self,
        cluster: Cluster,
        applier: Applier,
        client: KubeClient,
        clock: SystemClock,
        folder: Path,
    ) -> None:
        self.trigger: Callable[[], None] = lambda: None
        self._cluster = cluster
        self._applier = applier
        self._client = client
        self._clock = clock
        self._path = folder / statefiles.TRIAL_FILE
        self._file: statefiles.TrialFile | None = None
        self._policies: dict[PolicyKey, Policy] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._busy = asyncio.Lock()

    # -- what is asked for

    async def begin(self, body: Any) -> Document:
        """Do `PUT /v1/policy/trial`: `{"documents": […], "seconds": 60, "force": false}`.

        Returns what `document` does. ApiError: 400, 409 while one runs, 422 for what cannot be
        enforced, or would cut a port that the node needs.
        """
        documents = submit.documents_of(body)
        seconds = _seconds(body)
        async with self._busy:
            if self._file is not None:
                raise ApiError(
                    409,
                    f"a trial is running, {self.left():.0f} s are left",
                    hint="fimbria policy confirm, or fimbria policy rollback, comes first",
                )
            policies = submit.parsed(documents, self._cluster.parse)
            for policy in policies.values():
                reason = self._cluster.host_ports.guard(policy, policies.values())
                if reason:
                    raise ApiError(
                        422, f"{policy.key}: {reason}", hint="policy apply --force adds it"
                    )
            await self._hold(policies, documents, seconds)
            problem = self._misfit()
            if problem:
                await self._drop("it does not fit")
                raise ApiError(422, problem)
            log.warning("on trial for %g s: %s", seconds, ", ".join(map(str, policies)))
            return self._shown()

    async def confirm(self) -> Document:
        """Do `POST /v1/policy/trial/confirm`: the policies become objects of the API.

        ApiError: 404 without a trial, 502 if the API does not take them (the trial goes on), 504
        if this node does not take up what the API took.
        """
        async with self._busy:
            file = self._running()
            # Confirmed: what comes now must not be overtaken by the deadline.
            await self._hold(self._policies, file.documents, PATIENCE, confirmed=True)
            try:
                done = await submit.write(self._client, self._policies)
            except ApiError:
                await self._resume_deadline(file)
                raise
            await self._shown_by_watch()
            await self._drop("confirmed")
            return {"policies": done}

    async def rollback(self) -> Document:
        """Do `DELETE /v1/policy/trial`: what was before holds again. ApiError 404."""
        async with self._busy:
            self._running()
            keys = list(self._policies)
            await self._drop("taken back")
            return {"policies": [_named(key) for key in keys]}

    async def apply(self, body: Any) -> Document:
        """Do `PUT /v1/policy/objects`: policies become objects of the API at once."""
        policies = submit.parsed(submit.documents_of(body), self._cluster.parse)
        return {"policies": await submit.write(self._client, policies)}

    def document(self) -> Document | None:
        """Return the running trial, `{policies, seconds-left, confirmed}`, or None."""
        return None if self._file is None else self._shown()

    def left(self) -> float:
        """Return how many seconds are left."""
        return max(0.0, self._file.deadline - self._clock.boottime()) if self._file else 0.0

    # -- over time

    def restore(self) -> None:
        """Go on with the trial of the agent before; call before anything is compiled."""
        try:
            file = statefiles.read(self._path, statefiles.TrialFile)
        except FileNotFoundError:
            return
        except statefiles.StateFileError as error:
            log.error("%s; what was on trial is taken back", error)
            self._path.unlink(missing_ok=True)
            return
        over = file.deadline <= self._clock.boottime()
        if file.boot_id != self._clock.boot_id() or over:
            log.warning("a trial ended while no agent ran: it was taken back")
            self._path.unlink(missing_ok=True)
            return
        try:
            policies = submit.parsed(file.documents, self._cluster.parse)
        except (ApiError, PolicyError) as error:
            log.error("%s: %s; what was on trial is taken back", self._path, error)
            self._path.unlink(missing_ok=True)
            return
        self._take(file, policies)
        log.warning("a trial goes on, %.0f s are left", self.left())
        if file.confirmed:
            self.trigger()

    async def expire(self) -> None:
        """Take the trial back if its time is over; the controller's function."""
        async with self._busy:
            if self._file is None:
                return
            if self._file.confirmed and not self._missing():
                await self._drop("confirmed")
            elif not self.left():
                await self._drop("nobody confirmed it: taken back")
            else:
                self._arm()

    # -- inside

    def _running(self) -> statefiles.TrialFile:
        if self._file is None:
            raise ApiError(
                404, "no trial is running", hint="fimbria policy apply --confirm 60s -f FILE"
            )
        return self._file

    async def _hold(
        self,
        policies: dict[PolicyKey, Policy],
        documents: list[Document],
        seconds: float,
        *,
        confirmed: bool = False,
    ) -> None:
        """Let policies hold for some seconds; the kernel has them, and the way back, on return."""
        clock = self._clock
        file = statefiles.TrialFile(
            boot_id=clock.boot_id(),
            deadline=clock.boottime() + seconds,
            until=_jiffies(clock.jiffies() + round(seconds * clock.hz)),
            confirmed=confirmed,
            documents=documents,
        )
        await asyncio.to_thread(statefiles.write, self._path, file)
        self._take(file, policies)
        try:
            await self._applier.flush()
        except NotReady as error:
            self._forget()
            raise ApiError(
                503, "the agent does not know the cluster yet", hint="see fimbria status"
            ) from error

    async def _resume_deadline(self, file: statefiles.TrialFile) -> None:
        """Go back to the deadline that a trial had before somebody confirmed it."""
        if file.deadline <= self._clock.boottime():
            await self._drop("its time was over before the API took it")
            return
        await asyncio.to_thread(statefiles.write, self._path, file)
        self._take(file, self._policies)
        await self._applier.flush()

    def _take(self, file: statefiles.TrialFile, policies: dict[PolicyKey, Policy]) -> None:
        self._file, self._policies = file, policies
        for key, policy in policies.items():
            self._cluster.state.trials.put(key, Trial(policy, file.until))
        self._cluster.revise()
        self._arm()

    async def _drop(self, why: str) -> None:
        """End the trial; returns when the kernel has what is to hold now."""
        log.warning("end of trial of %s: %s", ", ".join(map(str, self._policies)), why)
        self._forget()
        with contextlib.suppress(NotReady):
            await self._applier.flush()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for key in self._policies:
            self._cluster.state.trials.delete(key)
        self._file, self._policies, self._timer = None, {}, None
        self._cluster.revise()
        self._path.unlink(missing_ok=True)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.left() + 0.01, self.trigger)

    def _missing(self) -> list[PolicyKey]:
        """Return what the API does not have as it was tried."""
        state = self._cluster.state
        return [k for k, policy in self._policies.items() if state.policies.get(k) != policy]

    async def _shown_by_watch(self) -> None:
        """Wait until the watch shows what was written."""
        cluster = self._cluster
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.left() / 2):
                while self._missing():
                    await cluster.reached(cluster.revision + 1)
        except TimeoutError as error:
            missing = self._missing()
            held = cluster.policies.get(missing[0]) if missing else None
            why = held.withheld if held is not None else "its watch has not shown them"
            raise ApiError(
                504,
                f"written, but this node has not taken up {', '.join(map(str, missing))}: {why}",
                hint="see fimbria policy get",
            ) from error

    def _misfit(self) -> str:
        compiler = self._applier.compiler
        for problem in compiler.problems if compiler is not None else ():
            for key, _ in problem.policies:
                if key in self._policies:
                    return f"{key}: {problem.reason}"
        return ""

    def _shown(self) -> Document:
        assert self._file is not None
        return {
            "policies": [_named(key) for key in self._policies],
            "seconds-left": round(self.left(), 1),
            "confirmed": self._file.confirmed,
        }


def _named(key: PolicyKey) -> Document:
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}


def _seconds(body: Any) -> float:
    given = body.get("seconds")
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not SHORTEST <= given <= LONGEST:
        raise ApiError(400, f"expected {SHORTEST:g} to {LONGEST:g} seconds", "seconds")
    return float(given)


def _jiffies(value: int) -> int:
    """Return the low 32 bits, which 0 would say there is no deadline."""
    return value & 0xFFFFFFFF or 1
