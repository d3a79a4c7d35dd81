"""The apply loop on a kernel that dies: before and after every change it makes, then once more.

A node goes from one random cluster to another while the process is killed at some change to the
kernel. What packets meet is checked at that moment, and after the next start.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimbria.agent.apply import Applier
from fimbria.agent.devices import Device, NodeDevices
from fimbria.agent.kernelstate import KernelState, index
from fimbria.agent.node import RUNTIME
from fimbria.agent.wiring import Gateway
from fimbria.compile.delta import DEVICES, LXC, POLICY_REF, Desired
from fimbria.compile.ids import BUILT_IN, Ids
from fimbria.compile.node import compile_node
from fimbria.compile.state import ClusterState, NodeConfig
from fimbria.datapath.abi import (
    DeviceInfo,
    Direction,
    EndpointInfo,
    PolicyIds,
    Runtime,
)
from fimbria.datapath.lookup import Asked, endpoint_policy, policy_lookup
from fimbria.datapath.plan import referred
from fimbria.kernel import objects_dir
from fimbria.kernel.fake import Crash, FakeKernel
from fimbria.kernel.netrows import Address
from fimbria.kernel.store import definitions
from fimbria.model.labels import pod_labels
from fimbria.model.policy import PolicyKey
from fimbria.model.policy_parse import parse_policy
from tests.property.machine import canonical
from tests.property.strategies import PodRow
from tests.property.test_compile_changes import (
    Change,
    changes,
    copy,
    drop,
    drop_identity,
    node,
    put,
    put_node,
    put_policy,
    put_trial,
)
from tests.property.worlds import World, worlds

if TYPE_CHECKING:
    from collections.abc import Callable

ROUTER, ROUTER6 = "10.0.1.1", "fd00:1::fe"
DEFINITIONS = definitions(objects_dir())
PROTOCOLS, PORTS = (6, 17), (53, 80, 443, 8080)
Moment = tuple[int, Literal["before", "after"]]
moments = st.tuples(st.integers(1, 60), st.sampled_from(["before", "after"]))
some = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Machine:
    """A node's kernel; it outlives the agents that run on it. What an Applier asks of a Node."""

    kernel: FakeKernel = field(default_factory=lambda: FakeKernel(DEFINITIONS.values()))
    gateway: Gateway = field(default_factory=lambda: Gateway(ROUTER, ROUTER6))

    def __post_init__(self) -> None:
        self.net = self.kernel.net
        host, direct = self.net.add_link("cilium_host"), self.net.add_link("eth0")
        self.net.address_replace(Address(host, f"{ROUTER}/32"))
        self.net.address_replace(Address(host, f"{ROUTER6}/128"))
        self.net.address_replace(Address(host, "fe80::2/64"))
        self.net.address_replace(Address(direct, "172.18.0.1/24"))
        self.net.address_replace(Address(direct, "fd77::1/64"))
        eth0 = Device("eth0", direct, bytes(6), 1500, ("172.18.0.1/24",))
        self.devices = NodeDevices(host, bytes(6), 0, 0, (eth0,), eth0, (), 1500, 1500)
        self.maps = self.kernel.bpf
        locked = index(PolicyIds.LOCKED)
        self.maps.map("cilium_policy_info").put(locked, BUILT_IN[PolicyIds.LOCKED].info)
        self.maps.map("cilium_policy").put_maps({locked: self.maps.new_inner("cilium_policy", 1)})

    def revision(self) -> int:
        """Revision of the datapath."""
        return Runtime.unpack(self.maps.map("cilium_runtime_config").get(bytes(4)) or b"").revision

    def actual(self, desired: Desired) -> Desired:
        """What packets meet; of routes those of `desired` that are there."""
        found = KernelState(self.maps, lambda: self.net, self.devices, self.gateway)
        return found.read(desired)

    def routes(self) -> int:
        """How many routes carry our mark."""
        return len(self.net.routes(protocol=0xF1))


@dataclass
class Rows:
    """What an Applier asks of a Cluster."""

    state: ClusterState
    revision: int = 1

    @property
    def policies(self) -> Self:
        return self

    def admit(self, problems: object) -> bool:
        """Every policy."""
        return False


class Process:
    """One life of an agent's apply loop."""

    def __init__(self, machine: Machine, state: ClusterState) -> None:
        self.applier = Applier(cast("Any", machine), cast("Any", Rows(state)))
        self.machine = machine

    def start(self, death: Moment | None = None) -> bool:
        """Read the kernel and reconcile for the first time; False if it died in it."""
        return self._survives(self.applier.first(), death)

    def apply(self, death: Moment | None = None) -> bool:
        """Apply what changed; False if it died in it."""

        async def update() -> None:
            self.applier.request()
            await self.applier.flush()
            await self.applier.sweep()

        return self._survives(update(), death)

    def _survives(self, work: Any, death: Moment | None) -> bool:
        if death is not None:
            self.machine.kernel.fail_at(*death)
        try:
            asyncio.run(work)
        except Crash:
            return False
        finally:
            self.machine.kernel.heal()
        return True


Question = tuple[int, Direction, int, int, int]


def verdicts(held: Desired, questions: list[Question]) -> dict[Question, bool]:
    """Whether each endpoint that packets can come from or to lets them pass; others have none."""
    alive = {EndpointInfo.unpack(value).lxc_id for value in held.maps[LXC].values()}
    alive |= {DeviceInfo.unpack(value).lxc_id for value in held.maps[DEVICES].values()}
    policies = {**held.policies, **BUILT_IN}
    found: dict[Question, bool] = {}
    for question in questions:
        endpoint, direction, peer, protocol, port = question
        if endpoint in alive:
            number = endpoint_policy(held.maps, endpoint)
            hit = policy_lookup(policies, number, Asked(peer, direction, protocol, port))
            found[question] = hit.allowed
    return found


def every_question(*held: Desired) -> list[Question]:
    """All endpoints and peers that there are, at the ports that policies speak of."""
    endpoints = {EndpointInfo.unpack(v).lxc_id for one in held for v in one.maps[LXC].values()}
    peers = (*range(1, 7), *range(300, 306))
    directions = (Direction.INGRESS, Direction.EGRESS)
    return [*itertools.product(sorted(endpoints - {0}), directions, peers, PROTOCOLS, PORTS)]


def snapshot(desired: Desired) -> Desired:
    """A copy that later updates do not change."""
    maps = {name: dict(rows) for name, rows in desired.maps.items()}
    return Desired(maps, dict(desired.policies), frozenset(desired.routes))


class Story:
    """A node that has realised `before` and goes on to `after`."""

    def __init__(self, before: ClusterState, todo: list[Change]) -> None:
        before.nodes.put("n1", node(1, 1))
        self.machine = Machine()
        self.state = before
        self.process = Process(self.machine, before)
        assert self.process.start()
        self.before = snapshot(self.machine.actual(self._desired()))
        for change in todo:
            change(before)
        self.after = compile_node(copy(before), Ids())
        self.questions = every_question(self.before, self.after)
        self.old = verdicts(self.before, self.questions)
        self.new = verdicts(self.after, self.questions)

    def _desired(self) -> Desired:
        assert self.process.applier.compiler is not None
        return self.process.applier.compiler.desired()

    def no_worse_than_either(self) -> None:
        """Nothing is open that was not and will not be, nothing closed that was and will be open.

        And what endpoints refer to is there.
        """
        held = self.machine.actual(self.after)
        refs = {policy.next_id for policy in held.policies.values()}
        refs = refs.union(*map(referred, held.maps[POLICY_REF].values()))
        assert refs <= held.policies.keys() | BUILT_IN.keys()
        now = verdicts(held, self.questions)
        for question in self.questions:
            old, new = self.old.get(question, False), self.new.get(question, False)
            if now.get(question, False):
                assert old or new, f"opened: {question}"
            else:
                assert not (old and new), f"lost: {question}"

    def start_again(self, death: Moment | None = None) -> bool:
        """The next agent, which knows what the API says now."""
        self.process = Process(self.machine, copy(self.state))
        return self.process.start(death)

    def arrived(self) -> None:
        """The kernel holds what the cluster asks for and nothing besides, and flows know of it."""
        held = self.machine.actual(self.after)
        assert canonical(held) == canonical(self.after)
        assert held.policies.keys() == self._desired().policies.keys()
        assert held.routes == self.after.routes
        assert self.machine.routes() == len(self.after.routes)
        done = len(self.machine.kernel.operations)
        asyncio.run(self.process.applier.check())
        assert len(self.machine.kernel.operations) == done, "a check finds nothing to put right"


@some
@given(worlds(0), changes, moments, moments)
def test_killed_twice(world: World, todo: list[Change], one: Moment, other: Moment) -> None:
    """Killed in an update and again in the start after it: never wrong, and then all is right."""
    story = Story(world.state(), todo)
    if not story.process.apply(one):
        story.no_worse_than_either()
    if not story.start_again(other):
        story.no_worse_than_either()
    revision = story.machine.revision()
    assert story.start_again()
    assert story.machine.revision() > revision
    story.arrived()


def only(port: int, *, denied: bool = False) -> Any:
    """A policy that lets the app `web` into port 53 and another; or one that denies these."""
    rule = {
        "fromEndpoints": [{"matchLabels": {"app": "web"}}],
        "toPorts": [{"ports": [{"port": str(number)} for number in (53, port)]}],
    }
    return parse_policy(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "q" if denied else "p", "namespace": "red"},
            "spec": {"endpointSelector": {}, "ingressDeny" if denied else "ingress": [rule]},
        }
    )


def fixed() -> Story:
    """Two local pods under three tiers and an audited policy; then others, and a trial.

    One pod goes, others and a node come.
    """

    def labels(app: str) -> tuple[str, ...]:
        return pod_labels({"app": app}, "red", {}, "default", "default")

    def tier(name: str, port: int) -> Any:
        rule = {
            "action": "Deny",
            "from": [{"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}],
            "ports": [{"portNumber": {"port": port}}],
        }
        return parse_policy(
            {
                "kind": "ClusterNetworkPolicy",
                "metadata": {"name": name},
                "spec": {
                    "tier": name.title(),
                    "priority": 1,
                    "subject": {"namespaces": {}},
                    "ingress": [rule],
                },
            }
        )

    web, db = PodRow(labels("web"), 300, ()), PodRow(labels("db"), 301, ())
    state = ClusterState("n1", NodeConfig())
    for number, pod in ((1, web), (2, db), (3, db)):
        put(state, number, pod, local=True)
    put(state, 4, web, local=False)
    audited = replace(only(8080), key=PolicyKey("CiliumNetworkPolicy", "red", "q"), audit=True)
    for policy in (only(80), tier("admin", 80), tier("baseline", 80), audited):
        put_policy(state, policy)
    todo: list[Change] = [
        partial(put_policy, value=only(443)),
        partial(put_policy, value=tier("baseline", 443)),
        partial(put_policy, value=replace(audited, audit=False)),
        partial(put_trial, value=tier("admin", 53), until=9, gone=False),
        partial(drop, number=3),
        partial(put, number=5, pod=web, local=True),
        partial(put, number=6, pod=web, local=False),
        partial(put_node, row=node(2, 2)),
    ]
    return Story(state, todo)


def newcomers() -> Story:
    """An identity comes and another goes, in the policy map of two local pods.

    Denied are ports that no rule of wider keys allows, so that the map changes in place.
    """

    def labels(*extra: str) -> tuple[str, ...]:
        return pod_labels({"app": "web", **dict.fromkeys(extra, "yes")}, "red", {}, "d", "d")

    state = ClusterState("n1", NodeConfig())
    for number, (identity, extra) in enumerate(((300, ""), (301, "old")), 1):
        put(state, number, PodRow(labels(extra) if extra else labels(), identity, ()), local=True)
    put(state, 3, PodRow(labels("here"), 302, ()), local=False)
    for policy in (only(80), only(8080, denied=True)):
        put_policy(state, policy)
    return Story(
        state,
        [
            partial(drop, number=3),
            partial(drop_identity, number=3),
            partial(put, number=4, pod=PodRow(labels("new"), 303, ()), local=False),
        ],
    )


@pytest.mark.parametrize("fixed", [fixed, newcomers])
def test_every_moment_of_an_update(fixed: Callable[[], Story]) -> None:
    """Before and after each single change of an update: never wrong, the next start finishes."""
    story = fixed()
    begin = len(story.machine.kernel.operations)
    held = story.machine.actual(story.after).policies
    assert story.process.apply()
    story.arrived()
    if fixed is newcomers:
        assert story.machine.actual(story.after).policies.keys() == held.keys(), "in place"
    count = len(story.machine.kernel.operations) - begin
    assert count > 10
    for number in range(1, count + 1):
        for when in ("before", "after"):
            story = fixed()
            assert not story.process.apply((number, when))
            story.no_worse_than_either()
            assert story.start_again()
            story.arrived()


def test_every_moment_of_a_start() -> None:
    """The same for a start that finds another cluster than the last agent left."""
    story = fixed()
    begin = len(story.machine.kernel.operations)
    assert story.start_again()
    count = len(story.machine.kernel.operations) - begin
    for number in range(1, count + 1):
        for when in ("before", "after"):
            story = fixed()
            assert not story.start_again((number, when))
            story.no_worse_than_either()
            assert story.start_again()
            story.arrived()


def test_killed_before_its_bump() -> None:
    """Maps that are right are not enough: flows judged by the old ones are judged again."""
    story = fixed()
    begin = len(story.machine.kernel.operations)
    assert story.process.apply()
    done = story.machine.kernel.operations[begin:]
    bump = done.index(f"put {RUNTIME} {bytes(4).hex()}") + 1
    story = fixed()
    revision = story.machine.revision()
    assert not story.process.apply((bump, "before"))
    assert story.machine.revision() == revision
    assert story.start_again()
    story.arrived()
    assert story.machine.revision() > revision
