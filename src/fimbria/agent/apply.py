"""The only writer of desired maps: what the compiler says, put into the kernel in a safe order.

    state dirty ─► (a few ms, so that a burst is one) ─► Compiler.update ─► operations ─► bump

The first run compares with everything the kernel holds and changes only what differs. It always
ends with a bump, because the agent before us may have died between a change and its own: each flow
takes the slow path once. Policies that nothing refers to any more are removed afterwards, beside
the next changes: nobody waits for that. If an operation fails nothing is assumed any more: the next
run reads the kernel again. `check` does the same from time to time, and names what somebody else
changed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fimbria.agent.kernelstate import KernelState
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.datapath.plan import PolicyCreate, PolicyDelete, plan, plan_delta

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.agent.cluster import Cluster
    from fimbria.agent.node import Node
    from fimbria.controllers import Controller
    from fimbria.datapath.plan import Op

COALESCE = 0.003
"""Seconds that a change waits for others to come with it."""

log = logging.getLogger(__name__)


class NotReady(Exception):
    """The first reconcile has not been done yet."""


class Applier:
    """Keeps the kernel as the compiler says. `after` is called with each realised revision."""

    def __init__(self, node: Node, cluster: Cluster) -> None:
        self.ids = Ids()
        self.compiler: Compiler | None = None
        self.controller: Controller | None = None
        self.sweeper: Controller | None = None
        self.after: Callable[[int], None] = lambda revision: None
        self.realised = 0
        """The policy revision that the kernel has; 0 before the first run."""
        self.runs = 0
        self.operations = 0
        self._node = node
        self._cluster = cluster
        self._kernel: KernelState | None = None
        self._trusted = False
        self._bumped = False
        self._lock = asyncio.Lock()
        self._unused: dict[int, None] = {}
        """Policies that are still to be removed, in the order of their removal."""
        self._sweeping = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._generation = 0
        self._done = 0

    def request(self) -> None:
        """The state changed: apply it soon."""
        self._generation += 1
        if self.compiler is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(COALESCE, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self.controller is not None and self._done < self._generation:
            self.controller.trigger()

    async def rebase(self) -> None:
        """The node's devices are others than they were: put everything where it belongs now."""
        async with self._lock:
            if self._kernel is not None:
                self._kernel = self._kernel_state()
            self._trusted = self._bumped = False
            await self._run()

    def _kernel_state(self) -> KernelState:
        node = self._node
        assert node.devices is not None
        return KernelState(node.maps, lambda: node.net, node.devices, node.gateway)

    async def first(self) -> None:
        """Bring the kernel up to date for the first time; before it nothing is written."""
        self._kernel = self._kernel_state()
        actual = await asyncio.to_thread(self._kernel.read)
        for number, policy in actual.policies.items():
            self.ids.policies.adopt(number, policy)
        self.compiler = Compiler(self._cluster.state, self.ids)
        await self.flush()

    async def flush(self) -> None:
        """Return when everything that was changed before this call is in the kernel.

        Raises what the kernel refused with; the controller goes on trying.
        """
        wanted = self._generation
        while True:
            async with self._lock:
                if self._trusted and self._done >= wanted:
                    return
                await self._run()

    async def run_once(self) -> None:
        """Apply what is pending; the controller's function."""
        async with self._lock:
            if self._done < self._generation or not self._trusted:
                await self._run()

    async def check(self) -> None:
        """Compare with what the kernel really holds, and put right what is not as it should be."""
        async with self._lock:
            self._trusted = False
            await self._run(quiet=False)

    async def _run(self, *, quiet: bool = True) -> None:
        compiler, kernel = self.compiler, self._kernel
        if compiler is None or kernel is None:
            raise NotReady("the agent has not yet read what the kernel holds")
        generation, revision = self._generation, self._cluster.revision
        delta = compiler.update(self._cluster.policies.admit)
        was_trusted, self._trusted = self._trusted, False
        if was_trusted:
            operations = await self._follow(kernel, plan_delta(delta))
        else:
            async with self._sweeping:
                operations = await self._compare(kernel, compiler, quiet=quiet)
        compiler.applied(self._unused)
        self._trusted = True
        self._done = max(self._done, generation)
        self.runs += 1
        self.operations += len(operations)
        self.realised = revision
        self.after(revision)

    async def _execute(self, kernel: KernelState, operations: Sequence[Op]) -> None:
        if operations:
            self._bumped = False
            await asyncio.to_thread(kernel.execute, operations)
            self._bumped = True

    async def _compare(
        self, kernel: KernelState, compiler: Compiler, *, quiet: bool
    ) -> Sequence[Op]:
        """Make the kernel what the compiler wants, whatever it is; return what was done to it."""
        self._unused.clear()  # they are found, unless they are wanted again
        desired = compiler.desired()
        routes = desired.routes
        actual = await asyncio.to_thread(kernel.read, desired)
        operations = plan(actual, desired, bump=not self._bumped)
        await self._execute(kernel, operations)
        # Only now: a route that changes is replaced in one step, and not first removed.
        pruned = await asyncio.to_thread(kernel.prune_routes, routes)
        if not quiet and (operations or pruned):
            log.warning("maps or routes were changed by somebody else: put right")
        return operations

    async def _follow(self, kernel: KernelState, operations: Sequence[Op]) -> Sequence[Op]:
        """Execute a plan except for removals of policies, which are left to `sweep`."""
        created = {op.policy_id for op in operations if isinstance(op, PolicyCreate)}
        if not created.isdisjoint(self._unused):
            async with self._sweeping:  # what is being removed must be gone before it comes again
                for number in created:
                    self._unused.pop(number, None)
        await self._execute(kernel, [op for op in operations if not isinstance(op, PolicyDelete)])
        unused: dict[int, None] = {}
        for operation in operations:
            if isinstance(operation, PolicyDelete):
                unused[operation.policy_id] = None
            elif isinstance(operation, PolicyCreate):
                unused.pop(operation.policy_id, None)
        self._unused |= unused
        if self._unused and self.sweeper is not None:
            self.sweeper.trigger()
        return operations

    async def sweep(self) -> None:
        """Remove the policies that nothing refers to any more; the sweeper's function."""
        async with self._sweeping:
            numbers = list(self._unused)
            if numbers and self._kernel is not None:
                await asyncio.to_thread(self._kernel.delete_policies, numbers)
                for number in numbers:
                    del self._unused[number]

    def counts(self) -> dict[str, int]:
        """Return how many elements each map should have."""
        if self.compiler is None:
            return {}
        desired = self.compiler.desired()
        return {name: len(rows) for name, rows in desired.maps.items()} | {
            "cilium_policy": len(desired.policies)
        }

    def waiting(self) -> dict[str, dict[bytes, bytes]]:
        """Return the rows for which full maps have no room, by map and key."""
        return self._kernel.overflow.waiting if self._kernel is not None else {}

    def events_lost(self) -> int:
        """Return how many events did not fit into the ring buffer."""
        return self._kernel.events_lost() if self._kernel is not None else 0
