"""A kernel in a dictionary that executes plans, and refuses what must never be asked of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fimbria.compile.delta import MAPS, POLICY_REF, Desired
from fimbria.compile.ids import BUILT_IN
from fimbria.datapath.abi import PolicyInfo, PolicyRef
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
    left_behind,
    referred,
)

if TYPE_CHECKING:
    from fimbria.compile.ids import PolicyMap
    from fimbria.compile.nodes import Route


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
                self.policies[op.policy_id] = replace(op.policy, entries=dict(op.policy.entries))
            case PolicyPut():
                policy = self.policies[op.policy_id]
                assert not policy.entries.keys() & op.rows.keys(), "an entry changed in place"
                policy = self.policies[op.policy_id] = policy.patched(op.rows)
                assert len(policy.entries) <= policy.room, "no room"
            case PolicyTrim():
                trimmed = self.policies[op.policy_id].patched(dict.fromkeys(op.keys))
                self.policies[op.policy_id] = trimmed
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
        """Policy ids that endpoints and policies refer to."""
        found = {policy.next_id for policy in self.policies.values()}
        return found.union(*map(referred, self.maps[POLICY_REF].values()))

    def actual(self) -> Desired:
        """What a reader of the kernel would find."""
        return Desired(self.maps, self.policies, frozenset(self.routes))


def canonical(desired: Desired) -> object:
    """Contents with policies in place of their ids; what endpoints leave behind counts as none."""

    def chain(number: int) -> object:
        if number in BUILT_IN:
            return number
        policy = desired.policies[number]
        info = PolicyInfo.unpack(policy.info)
        return info._replace(next_id=0), dict(policy.entries), chain(info.next_id)

    refs: dict[bytes, object] = {}
    for key, value in desired.maps[POLICY_REF].items():
        ref = PolicyRef.unpack(value)
        if value != left_behind(key):
            ids = map(chain, (ref.policy_id, ref.shadow_id, ref.fallback_id))
            refs[key] = (ref._replace(policy_id=0, shadow_id=0, fallback_id=0), *ids)
    others = {name: dict(desired.maps[name]) for name in MAPS if name != POLICY_REF}
    return others, refs, frozenset(desired.routes)
