"""The engine: what becomes of a flow in a world, and which field of which policy says so.

    World ─► Compiler ─► maps ─┐
    Flow ─► two Places ────────┴─► judges ─► Result

Three judges answer: `model` reads the rules one by one (model.semantics), `maps` looks into the
compiled maps as the kernel does (datapath.lookup), and `kernel` has the C do it, where there is
root and a kernel. They are the node's own code, so what is said here is what a node with these
objects does.

    from fimbria.analysis import Engine, load
    engine = Engine(load(["manifests/"]))
    engine.eval({"source": "default/web", "destination": "default/db",
                 "protocol": "TCP", "port": 5432}).verdict
"""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from fimbria.analysis.flows import Flow, FlowError, as_flow, flow_or_error
from fimbria.analysis.halves import Halves
from fimbria.analysis.places import Place, Places, packet
from fimbria.analysis.results import Because, Half, Outcome, Result, together
from fimbria.analysis.views import Views
from fimbria.compile.ids import BUILT_IN, Ids, PolicyIds
from fimbria.compile.node import Compiler
from fimbria.datapath.abi import Direction, EndpointIds, Identity
from fimbria.datapath.lookup import Asked, endpoint_policy, policy_lookup
from fimbria.model.semantics import Mode, Question, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fimbria.analysis.bulk import Bulk
    from fimbria.analysis.kernel import Kernel
    from fimbria.analysis.world import View, World
    from fimbria.model.policy import Policy

JUDGES = ("maps", "model", "kernel", "all")

BATCH = 1 << 15
"""Flows that are looked up together."""

MANY_POLICIES = 1 << 20
"""Policy maps that a world may need; a node needs those of its own pods only, and has 4,096."""

FEW = 256
"""Flows for which loading numpy is not worth it."""

_SEVERITY = (Outcome.ALLOWED, Outcome.REDIRECTED, Outcome.DENIED)


class KernelUnavailable(Exception):
    """The kernel cannot judge here; the message says why."""


class JudgesDiffer(Exception):
    """The judges disagree about a flow, which is a defect of this program. `answers` by judge."""

    def __init__(self, flow: Flow, answers: Mapping[str, Result]) -> None:
        said = "; ".join(
            f"{name} says {one.verdict} (egress {one.egress.reason}, ingress {one.ingress.reason})"
            for name, one in answers.items()
        )
        super().__init__(f"{flow.source} to {flow.destination} {flow.protocol} {flow.port}: {said}")
        self.flow = flow
        self.answers = answers


class Engine:
    """Judges flows in one world. Compiles it once, when it is made.

    `enable_policy` is "default", "always" or "never"; `cidr_match` any of "nodes", "pods"
    (policy-cidr-match-mode); `judge` one of JUDGES; with `host_firewall` nodes have policies too
    (enable-host-firewall). What a node sees in its own way is asked of an engine with that node's
    `view`; `views` has these. Engines of different worlds are independent, and a rule has the same
    number in each as long as nothing else took it.
    """

    def __init__(
        self,
        world: World,
        enable_policy: str = "default",
        cidr_match: Iterable[str] = (),
        judge: str = "maps",
        *,
        host_firewall: bool = False,
        view: View | None = None,
    ) -> None:
        if judge not in JUDGES:
            raise ValueError(f"judge {judge!r} is none of {', '.join(JUDGES)}")
        self.world = world
        self.mode = Mode(enable_policy)
        self.judge = judge
        self.ids = Ids(policies=PolicyIds(MANY_POLICIES))
        self.node = node = "" if view is None else view.node
        self.host_firewall = host_firewall
        match = frozenset(cidr_match)
        self.state = world.state(self.mode, match, view=view, host_firewall=host_firewall)
        self.compiler = Compiler(self.state, self.ids)
        self.compiler.update()
        desired = self.compiler.desired()
        self.maps = desired.maps
        self.policy_maps = {**BUILT_IN, **desired.policies}
        host = int(EndpointIds.HOST) if self.state.config.host_firewall else 0
        self.places = Places(world, self.maps, self.state.config.cidr_match, node, host)
        self._policies = list(world.policies.values())
        self._context = self.state.context()
        self._policies_of: dict[int, list[Policy]] = {}
        self._found: dict[str, Place | FlowError] = {}
        policed = bool(self._policies) and self.mode is not Mode.NEVER
        self.halves = Halves(world, self.compiler, policed=policed)
        self.views = Views(
            self, lambda one: Engine(world, self.mode, match, host_firewall=host_firewall, view=one)
        )

    @cached_property
    def judges(self) -> tuple[str, ...]:
        """The judges that judge "all" asks: every one that is to be had here."""
        try:
            self.kernel  # noqa: B018 - asking is finding out
        except KernelUnavailable:
            return ("model", "maps")
        return ("model", "maps", "kernel")

    @cached_property
    def kernel(self) -> Kernel:
        """The C over this world's maps. Raises KernelUnavailable."""
        try:
            from fimbria.analysis.kernel import Kernel
        except (ImportError, OSError) as error:
            raise KernelUnavailable(f"the kernel cannot judge: {error}") from error
        return Kernel(self.policy_maps)

    @property
    def problems(self) -> list[str]:
        """What could not be compiled, in the common view or in a node's, each as a sentence."""
        return list(self.views.problems())

    def eval(self, flow: Flow | Mapping[str, Any], judge: str = "") -> Result:
        """Return what becomes of a flow. `judge` instead of the engine's own.

        Raises FlowError for a flow that cannot be judged, and JudgesDiffer with judge "all".
        """
        asked = flow if isinstance(flow, Flow) else as_flow(flow)
        judge = judge or self.judge
        if judge != "all":
            return self._eval(asked, judge)
        answers = {name: self._eval(asked, name) for name in self.judges}
        if len({_essence(one) for one in answers.values()}) > 1:
            raise JudgesDiffer(asked, answers)
        return answers["maps"]

    def eval_many(
        self, flows: Iterable[Flow | Mapping[str, Any]], judge: str = ""
    ) -> Iterator[Result | FlowError]:
        """Yield the results of flows in order; a flow that cannot be judged yields its error.

        With `maps` they are looked up together. Raises JudgesDiffer as `eval` does.
        """
        judge = judge or self.judge
        batches = iter(flows)
        while batch := [flow_or_error(flow) for flow in islice(batches, BATCH)]:
            good = [flow for flow in batch if isinstance(flow, Flow)]
            if judge == "maps" and len(good) >= FEW:
                results = self.bulk.results(good)
            else:
                results = (self._one(flow, judge) for flow in good)
            for flow in batch:
                yield flow if isinstance(flow, FlowError) else next(results)

    @cached_property
    def bulk(self) -> Bulk:
        """What judges many flows at once; it needs numpy, which takes its time to load."""
        from fimbria.analysis.bulk import Bulk

        return Bulk(self)

    def _one(self, flow: Flow, judge: str) -> Result | FlowError:
        try:
            return self.eval(flow, judge)
        except FlowError as error:
            return error

    def place(self, name: str) -> Place:
        """Return one end by name. Raises FlowError."""
        found = self._found.get(name)
        if found is None:
            try:
                found = self.places.find(name)
            except FlowError as error:
                found = error
            self._found[name] = found
        if isinstance(found, FlowError):
            raise found
        return found

    def _eval(self, flow: Flow, judge: str) -> Result:
        if flow.reply:
            opener = Flow(flow.destination, flow.source, flow.protocol, flow.port)
            return self._reply(flow, self._eval(opener, judge))
        source = self.place(flow.source)
        worst: Result | None = None
        targets = self.places.targets(flow)
        for name, port in targets:
            destination = self.place(name)
            protocol, number = packet(flow, source, destination, port)
            egress, ingress = self.both(source, destination, protocol, number, judge)
            outcome = together(egress, ingress)
            if worst is None or _SEVERITY.index(outcome) > _SEVERITY.index(worst.verdict):
                backend = None if name == flow.destination else name
                worst = Result(
                    flow.source, flow.destination, flow.protocol, flow.port,
                    outcome, egress, ingress, backend,
                )  # fmt: skip
        assert worst is not None
        return worst

    @staticmethod
    def _reply(flow: Flow, opened: Result) -> Result:
        """Return the answer for a reply: what its connection's opening packet got decides."""
        egress, ingress = opened.ingress, opened.egress
        if opened.verdict is not Outcome.DENIED:
            egress = ingress = Half(opened.verdict, Because.REPLY, None, None, None)
        return Result(
            flow.source, flow.destination, flow.protocol, flow.port, opened.verdict, egress, ingress
        )

    def both(
        self, source: Place, destination: Place, protocol: int, port: int, judge: str
    ) -> tuple[Half, Half]:
        """Return egress and ingress of a packet; `judge` is any of JUDGES but "all"."""
        return (
            self.half(source, destination, Direction.EGRESS, protocol, port, judge),
            self.half(destination, source, Direction.INGRESS, protocol, port, judge),
        )

    def half(
        self, own: Place, other: Place, direction: Direction, protocol: int, port: int, judge: str
    ) -> Half:
        """Return what the policy of `own` says of a packet; `judge` is any of JUDGES but "all"."""
        view, own, peer = self.views.seen(own, other)
        if view is not self:
            return view.half(own, peer, direction, protocol, port, judge)
        if not own.unit or loops(own, peer):
            return self.halves.unpoliced
        if judge == "model":
            host = own.unit == EndpointIds.HOST
            asked = Question(
                own.own, peer.end, direction, protocol, port, self.mode, self._context, host
            )
            return self.halves.of_verdict(own.unit, direction, verdict(self._about(own), asked))
        number = endpoint_policy(self.maps, own.unit)
        seen = Asked(peer.end.identity, direction, protocol, port, peer.cidr)
        if judge == "kernel":
            hit = self.kernel.lookup(number, seen)
        else:
            hit = policy_lookup(self.policy_maps, number, seen)
        return self.halves.of_hit(own.unit, direction, hit)

    def _about(self, own: Place) -> list[Policy]:
        """Return the policies that select an end; the rules are asked of these only."""
        found = self._policies_of.get(own.unit)
        if found is None:
            found = self._policies_of[own.unit] = [
                policy
                for policy in self._policies
                if any(spec.subject.matches(own.own.labels) for spec in policy.specs)
            ]
        return found


def loops(own: Place, peer: Place) -> bool:
    """Return whether a node talks with itself, as its own view has it: that passes no device."""
    return own.unit == EndpointIds.HOST and peer.end.identity == Identity.HOST


def _essence(one: Result) -> tuple[object, ...]:
    """Return what all judges must agree on.

    Where both a rule and the node's own right allow its traffic, either may be named.
    """
    halves = (one.egress, one.ingress)
    same = {Because.LOCAL_NODE: Because.ALLOW_RULE}
    reasons = [(half.verdict, same.get(half.reason, half.reason)) for half in halves]
    return one.verdict, one.backend, *reasons
