"""The kernel's side of the apply loop: what is there now, and each kind of change to it.

Policy maps are created with one call for all of them, and removed side by side, because each such
call waits until no program uses what was replaced. `cilium_policy_ref` is an array, so "absent" is
an entry that is zero or refers to the locked policy; taking an endpoint away writes the latter.
"""

from __future__ import annotations

import errno
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fimbria.agent.devices import GATEWAY6
from fimbria.agent.node import FIRST, POLICY, POLICY_INFO, RUNTIME
from fimbria.agent.overflow import Overflow
from fimbria.compile.delta import MAPS, POLICY_REF, Desired
from fimbria.compile.ids import POLICY_FIRST, PolicyMap
from fimbria.compile.nodes import Route, Via
from fimbria.datapath.abi import PolicyIds, PolicyInfo, Runtime
from fimbria.datapath.plan import (
    Bump,
    MapDelete,
    MapPut,
    Op,
    PolicyCreate,
    PolicyDelete,
    PolicyPut,
    PolicyRefSet,
    PolicyTrim,
    RouteDelete,
    RoutePut,
)
from fimbria.kernel import netrows
from fimbria.kernel.errors import BpfError
from fimbria.kernel.netrows import ROUTE_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from fimbria.agent.devices import NodeDevices
    from fimbria.agent.wiring import Gateway
    from fimbria.kernel.port import Bpf, BpfMap, Net

NOTHING = Desired({}, {}, frozenset())
_EMPTY_INFO = PolicyInfo().pack()
REMOVALS = 16
"""Policy maps that are removed at once."""
UNREACHABLE_METRIC = 4096
"""Worse than every other route: only addresses without a pod are unreachable."""


def index(number: int) -> bytes:
    """Return an array's key."""
    return number.to_bytes(4, "little")


class KernelState:
    """Maps and routes of a node. `net` gives the calling thread's socket.

    One caller at a time, the others wait: a task that was cancelled leaves its thread behind, and
    what that one still does must be over before the kernel is read again.
    """

    def __init__(
        self, maps: Bpf, net: Callable[[], Net], devices: NodeDevices, gateway: Gateway
    ) -> None:
        self._maps = maps
        self._net = net
        self._devices = devices
        self._gateway = gateway
        self._busy = threading.Lock()
        self.overflow = Overflow()

    def read(self, wanted: Desired = NOTHING) -> Desired:
        """Return what the kernel holds of what the compiler owns.

        Of routes, and of references that are zero, only those that are wanted: an array does not
        tell an endpoint for which nothing is enforced from one that never was. What waits for room
        counts as held.
        """
        with self._busy:
            self._use_room()
            maps = {name: dict(self._maps.map(name).items()) for name in MAPS}
            known = wanted.maps.get(POLICY_REF, {})
            maps[POLICY_REF] = {
                key: value for key, value in maps[POLICY_REF].items() if any(value) or key in known
            }
            for name, rows in self.overflow.waiting.items():
                maps[name] |= rows
            have = self._routes()
            present = frozenset(route for route in wanted.routes if self.route(route) in have)
            return Desired(maps, self._policies(), present)

    def _policies(self) -> dict[int, PolicyMap]:
        found: dict[int, PolicyMap] = {}
        outer, infos = self._maps.map(POLICY), self._maps.map(POLICY_INFO)
        for key in outer.items():
            number = int.from_bytes(key, "little")
            if number >= POLICY_FIRST:
                with self._inner(number) as inner:
                    info = infos.get(key) or _EMPTY_INFO
                    found[number] = PolicyMap(info, inner.items(), inner.max_entries)
        return found

    def execute(self, operations: Sequence[Op]) -> None:
        """Carry out a plan, in its order; raises what the kernel refused with."""
        with self._busy:
            for kind, group in itertools.groupby(operations, type):
                if kind is PolicyCreate:
                    # In one go: each switch of the map of maps waits for the programs once.
                    self.create_policies(
                        {op.policy_id: op.policy for op in group if isinstance(op, PolicyCreate)}
                    )
                    continue
                if kind is PolicyDelete:
                    self.delete_policies(
                        [op.policy_id for op in group if isinstance(op, PolicyDelete)]
                    )
                    continue
                for operation in group:
                    self._one(operation)
            self._use_room()

    def _use_room(self) -> None:
        """Place what waits, if others have made room since."""
        if self.overflow.retry(self._maps):
            self.bump()

    def _one(self, operation: Op) -> None:
        match operation:
            case MapPut(name, rows):
                self.overflow.put(name, self._maps.map(name), rows)
            case PolicyRefSet(rows):
                self._maps.map(POLICY_REF).put_many(rows)
            case PolicyPut(number, rows):
                with self._inner(number) as inner:
                    inner.put_many(rows)
            case PolicyTrim(number, keys):
                with self._inner(number) as inner:
                    inner.delete_many(keys)
            case MapDelete(name, keys):
                self.overflow.forget(name, keys)
                self._maps.map(name).delete_many(keys)
            case PolicyDelete(number):
                self.delete_policies([number])
            case RoutePut(route):
                self._net().route_replace(self.route(route))
            case RouteDelete(route):
                self._net().route_delete(self.route(route))
            case Bump():
                self.bump()
            case PolicyCreate():
                self.create_policies({operation.policy_id: operation.policy})

    @contextmanager
    def _inner(self, number: int) -> Generator[BpfMap]:
        """Open a policy's map."""
        inner = self._maps.map(POLICY).get_map(index(number))
        if inner is None:
            raise BpfError(errno.ENOENT, f"policy {number}")
        try:
            yield inner
        finally:
            inner.close()

    def _wait_for_programs(self) -> None:
        """Wait until no program is left that has read a reference before it was replaced.

        The kernel has no call for this; setting an element of a map of maps to what it is waits.
        """
        with self._inner(PolicyIds.LOCKED) as locked:
            self._maps.map(POLICY).put_maps({index(PolicyIds.LOCKED): locked})

    def prune_routes(self, wanted: Iterable[Route]) -> int:
        """Remove routes that carry our mark and are not wanted; return how many there were."""
        with self._busy:
            gone = self._routes() - {self.route(route) for route in wanted}
            for route in gone:
                self._net().route_delete(route)
            if gone:
                self.bump()
        return len(gone)

    def create_policies(self, policies: Mapping[int, PolicyMap]) -> None:
        """Fill new policy maps and put them under their ids."""
        outer, infos = self._maps.map(POLICY), self._maps.map(POLICY_INFO)
        made: dict[bytes, BpfMap] = {}
        try:
            for number, policy in policies.items():
                inner = self._maps.new_inner(POLICY, policy.room)
                made[index(number)] = inner
                if policy.entries:
                    inner.put_many(policy.entries)
                infos.put(index(number), policy.info)
            outer.put_maps(made)
        finally:
            for inner in made.values():
                inner.close()

    def delete_policies(self, numbers: Sequence[int]) -> None:
        """Remove policy maps to which nothing refers but others of them, each before the next tier.

        May run beside everything else here. Each removal waits for all programs, and the kernel
        has no call for several: threads wait together.
        """
        outer, infos = self._maps.map(POLICY), self._maps.map(POLICY_INFO)
        self._wait_for_programs()
        left = {
            number: PolicyInfo.unpack(infos.get(index(number)) or _EMPTY_INFO).next_id
            for number in numbers
        }
        with ThreadPoolExecutor(REMOVALS) as pool:
            while left:
                wave = left.keys() - left.values() or left.keys()
                keys = [index(number) for number in sorted(wave)]
                for _ in pool.map(outer.delete, keys):
                    pass
                infos.put_many(dict.fromkeys(keys, _EMPTY_INFO))
                left = {number: after for number, after in left.items() if number not in wave}

    def bump(self) -> int:
        """Send every flow through the slow path once; return the datapath's new revision."""
        table = self._maps.map(RUNTIME)
        value = table.get(FIRST)
        now = Runtime.unpack(value) if value else Runtime()
        revision = now.revision + 1 & 0xFFFFFFFF or 1
        table.put(FIRST, now._replace(revision=revision).pack())
        return revision

    def events_lost(self) -> int:
        """Return how many events did not fit into the ring buffer."""
        value = self._maps.map(RUNTIME).get(FIRST)
        return Runtime.unpack(value).events_lost if value else 0

    # -- routes

    def _routes(self) -> set[netrows.Route]:
        """Return the routes that carry our mark."""
        return set(self._net().routes(protocol=ROUTE_PROTOCOL))

    def route(self, route: Route) -> netrows.Route:
        """Return the kernel's form of a route."""
        six = ":" in route.destination
        match route.via:
            case Via.HOST:
                router = self._gateway.ipv6 if six else self._gateway.ipv4
                return netrows.Route(
                    route.destination,
                    self._devices.host,
                    gateway=GATEWAY6 if six else router,
                    mtu=self._gateway.route_mtu,
                    source=router,
                )
            case Via.ENDPOINT:
                return netrows.Route(route.destination, route.ifindex)
            case Via.NODE:
                return netrows.Route(
                    route.destination, self._devices.direct.ifindex, gateway=route.gateway
                )
            case Via.UNREACHABLE:
                return netrows.Route(
                    route.destination, type="unreachable", metric=UNREACHABLE_METRIC
                )
