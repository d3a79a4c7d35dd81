"""The agent from start to end: take the lock, listen, restore, watch, reconcile, serve.

    lock ─► checks ─► socket ─► state files ─► API: configuration, pod CIDR ─► devices, programs
                                     every kind listed ─► first reconcile ─► ready for pods

Before all of it the agent gives up the privileges that it does not need. The datapath forwards all
the while with what is pinned. Maps are not touched before every kind has been listed completely: an
agent that knows half of the cluster would take permissions away.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.agent import lock
from fimbria.agent.agent import Agent
from fimbria.agent.metrics import Delays
from fimbria.agent.overrides import with_overrides
from fimbria.agent.privileges import confine
from fimbria.agent.stalls import loop
from fimbria.kernel.clock import SystemClock
from fimbria.kernel.errors import IncompatibleMap, ObjectError, UnsupportedKernel
from fimbria.sources.kube import KubeClient
from fimbria.sources.options import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fimbria.sources.config import Settings, Source

LOCK_FILE = "agent.lock"

_NO_START = (
    lock.AlreadyRunning,
    ObjectError,
    UnsupportedKernel,
    IncompatibleMap,
    ConfigError,
    OSError,
)

log = logging.getLogger(__name__)


class StartError(Exception):
    """The agent cannot do its work here; the message says what is missing."""


def run_agent(sources: Sequence[Source], settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; pods keep their network when it ends.

    Raises AlreadyRunning, NotPrivileged, KubeconfigError, ConfigError and StartError.
    """
    clock, delays = SystemClock(), Delays()
    with asyncio.Runner(loop_factory=lambda: loop(clock.monotonic, delays.stalls.observe)) as run:
        run.run(_run(sources, settings, clock, delays))


async def _run(
    sources: Sequence[Source], settings: Settings, clock: SystemClock, delays: Delays
) -> None:
    config = settings.config
    confine(config.socket_group)
    try:
        held = lock.take(Path(config.state_dir) / LOCK_FILE)
    except OSError as error:
        raise StartError(f"state-dir: {error}") from error
    stop = asyncio.Event()
    running_loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running_loop.add_signal_handler(number, stop.set)
    log.info("agent of node %s starts (lock %d)", config.node_name, held)
    async with KubeClient.from_kubeconfig(config.k8s_kubeconfig_path or None) as client:
        client.on_malformed = lambda error: log.warning("left out: %s", error)
        settings = await with_overrides(client, sources, settings)
        await client.resolve()
        agent = Agent(settings, client, clock, delays)
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(agent.run())
                waiting = group.create_task(stop.wait())
                await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
                running.cancel()
                waiting.cancel()
        except* _NO_START as errors:
            raise StartError(str(_first(errors))) from None
        finally:
            await agent.close()
    log.info("agent ends; the datapath goes on")


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
