"""A kernel in a dictionary that executes plans, and refuses what must never be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.compile.delta import MAPS, POLICY_REF, Desired
from fimbria.compile.endpoints import ref_value
from fimbria.compile.ids import BUILT_IN, PolicyMap
from fimbria.datapath.abi import PolicyIds, PolicyRef
from fimbria.datapath.plan import (
    Bump,
    MapDelete,
    MapPut,
    Op,
    PolicyCreate,
    PolicyDelete,
    PolicyRefSet,
    RouteDelete,
    RoutePut,
)

if TYPE_CHECKING:
    from fimbria.compile.nodes import Route

LOCKED = ref_value(PolicyIds.LOCKED)


class Machine:
    """Maps, policies and routes. `bumped` says that the last change was followed by a bump."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {name: {} for name in MAPS}
        self.policies: dict[int, PolicyMap] = {}
        self.routes: set[Route] = set()
        self.bumped = True

    def execute(self, op: Op) -> None:
        """Do one operation."""
        if not isinstance(op, PolicyDelete):  # nothing refers to it: no verdict rests on it
            self.bumped = isinstance(op, Bump)
        match op:
            case MapPut():
                assert op.name != POLICY_REF
                self.maps[op.name].update(op.rows)
            case MapDelete():
                assert op.name != POLICY_REF
                for key in op.keys:
                    self.maps[op.name].pop(key, None)
            case PolicyCreate():
                assert op.policy_id not in self.referenced(), "filled while in use"
                assert op.policy_id not in self.policies, "filled twice"
                self.policies[op.policy_id] = PolicyMap(op.policy.info, dict(op.policy.entries))
            case PolicyRefSet():
                self.maps[POLICY_REF].update(op.rows)
            case PolicyDelete():
                assert op.policy_id not in self.referenced(), "removed while in use"
                del self.policies[op.policy_id]
            case RoutePut():
                self.routes.add(op.route)
            case RouteDelete():
                self.routes.discard(op.route)
            case Bump():
                pass
        assert self.referenced() <= self.policies.keys() | BUILT_IN.keys(), "dangling reference"

    def referenced(self) -> set[int]:
        """Policy ids that endpoints refer to."""
        return {PolicyRef.unpack(value).policy_id for value in self.maps[POLICY_REF].values()}

    def actual(self) -> Desired:
        """What a reader of the kernel would find."""
        return Desired(self.maps, self.policies, frozenset(self.routes))


def canonical(desired: Desired) -> object:
    """Contents with policies in place of their ids; locked endpoints count as none."""
    refs: dict[bytes, object] = {}
    for key, value in desired.maps[POLICY_REF].items():
        number = PolicyRef.unpack(value).policy_id
        policy = BUILT_IN.get(number) or desired.policies[number]
        if number != PolicyIds.LOCKED:
            refs[key] = (policy.info, dict(policy.entries))
    others = {name: dict(desired.maps[name]) for name in MAPS if name != POLICY_REF}
    return others, refs, frozenset(desired.routes)
