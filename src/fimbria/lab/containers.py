"""One container of a pod: its process, restarts, probes, and the status that follows from them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from fimbria.lab import objects, probes
from fimbria.lab.probes import Probe
from fimbria.lab.processes import StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.lab.images import Process
    from fimbria.lab.processes import Child, Place, Processes

Document = dict[str, Any]
BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_RESET = 0.2, 10.0, 30.0


class Container:
    """Runs until `stop`, or until its restart policy lets it end. `changed` is called on news."""

    def __init__(
        self,
        document: Document,
        process: Process,
        policy: str,
        processes: Processes,
        place: Place,
        log: Path,
        changed: Callable[[], None],
    ) -> None:
        self.name = str(document["name"])
        self.ready = False
        self.restarts = 0
        self.exit_code: int | None = None
        self._document = document
        self._process = process
        self._policy = policy
        self._processes = processes
        self._place = place
        self._log = log
        self._changed = changed
        self._child: Child | None = None
        self._stopping = False
        self._state: Document = {"waiting": {"reason": "ContainerCreating"}}
        self._last: Document = {}
        self._started = ""

    @property
    def pid(self) -> int:
        """The machine's pid of its process, 0 if none runs."""
        return self._child.host_pid if self._child else 0

    def status(self) -> Document:
        """Its entry in status.containerStatuses."""
        running = "running" in self._state
        return {
            "name": self.name,
            "image": str(self._document.get("image") or ""),
            "imageID": "",
            "ready": self.ready,
            "started": running,
            "restartCount": self.restarts,
            "state": self._state,
            "lastState": self._last,
        }

    async def run(self, target: probes.Target | None) -> None:
        """Keep the process as its restart policy says; `target` None: no probes (init)."""
        delay = BACKOFF_FIRST
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code, reason = await self._once(target)
            self.exit_code = code
            self.ready = False
            ended = {
                "exitCode": code if code >= 0 else 128 - code,
                "reason": reason or ("Completed" if code == 0 else "Error"),
                "startedAt": self._started or objects.now(),
                "finishedAt": objects.now(),
            }
            restart = self._policy == "Always" or (self._policy == "OnFailure" and code != 0)
            if self._stopping or not restart:
                self._state = {"terminated": ended}
                self._changed()
                return
            self._last = {"terminated": ended}
            if loop.time() - began > BACKOFF_RESET:
                delay = BACKOFF_FIRST
            message = f"back-off {delay:g}s restarting failed container={self.name}"
            self._state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            self._changed()
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF_MAX)
            self.restarts += 1

    async def _once(self, target: probes.Target | None) -> tuple[int, str]:
        """Start the process and wait for its end: exit code, and a reason if it never ran."""
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._child = child = self._processes.spawn(
                self._process.command,
                place=self._place,
                environment=self._process.environment,
                directory=self._process.directory,
                files={1: log, 2: log},
            )
        except StartError as error:
            os.write(log, f"{error}\n".encode())
            return 127, "StartError"
        finally:
            os.close(log)
        self._started = objects.now()
        self._state = {"running": {"startedAt": self._started}}
        self._changed()
        watch = asyncio.create_task(self._probe(child, target)) if target else None
        try:
            return await child.exited, ""
        finally:
            if watch:
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch
            self._child = None

    async def _probe(self, child: Child, target: probes.Target) -> None:
        startup = Probe.of(self._document.get("startupProbe"))
        if startup and not await self._until_first(startup, target):
            child.signal(signal.SIGTERM, group=True)
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._readiness(child, target))
            liveness = Probe.of(self._document.get("livenessProbe"))
            if liveness:
                tasks.create_task(self._liveness(child, liveness, target))

    async def _until_first(self, probe: Probe, target: probes.Target) -> bool:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(probe.delay)
        deadline = loop.time() + probe.period * probe.failure
        while not await probes.ask(probe, target):
            if loop.time() > deadline:
                return False
            await asyncio.sleep(min(probes.FIRST_PERIOD, probe.period))
        return True

    async def _readiness(self, child: Child, target: probes.Target) -> None:
        probe = Probe.of(self._document.get("readinessProbe"))
        if probe is None:
            ports = objects.parts(self._document, "ports")
            protocol = str(ports[0].get("protocol") or "TCP").lower() if ports else ""
            if protocol in ("tcp", "udp"):
                port = int(ports[0]["containerPort"])
                pause = 0.005
                while not probes.listens(child.pid, port, protocol):
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 0.25)
            self._set_ready(True)
            return
        await asyncio.sleep(probe.delay)
        good = bad = 0
        while True:
            if await probes.ask(probe, target):
                good, bad = good + 1, 0
            else:
                good, bad = 0, bad + 1
            if good >= probe.success:
                self._set_ready(True)
            elif bad >= probe.failure:
                self._set_ready(False)
            await asyncio.sleep(
                probe.period if self.ready else min(probes.FIRST_PERIOD, probe.period)
            )

    async def _liveness(self, child: Child, probe: Probe, target: probes.Target) -> None:
        await asyncio.sleep(probe.delay)
        bad = 0
        while bad < probe.failure:
            await asyncio.sleep(probe.period)
            bad = 0 if await probes.ask(probe, target) else bad + 1
        child.signal(signal.SIGTERM, group=True)

    def _set_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._changed()

    def terminate(self, number: int) -> None:
        """Send a signal, and start it no more."""
        self._stopping = True
        if self._child:
            self._child.signal(number, group=True)
