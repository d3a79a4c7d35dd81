"""What the judges have to agree on, and the kernel's part of it.

    World ──► rules ──► semantics.verdict ───────────────┐
      └─► compiler ──► map bytes ──► policy_lookup ──────┤ the same verdict, rule, kind of denial
                           └─► kernel's maps ──► the C ──┘

`judge` asks the first two about every packet of a world; `Gathered` collects the policies and
questions of many worlds for the third, because the kernel takes eight milliseconds to let a map of
maps change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fimbria.analysis.kernel import CASE, KernelJudge, fill
from fimbria.compile.ids import BUILT_IN, PolicyIds, PolicyMap
from fimbria.datapath.abi import Direction, DropReason, PolicyInfo, PolicyRef, RuleIds
from fimbria.datapath.lookup import Asked, Hit, address_identity, cidr_lookup, policy_lookup
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet
from fimbria.model.semantics import End, Question, Reason, Verdict, verdict
from tests.property.worlds import HOST, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.compile.node import Compiler
    from fimbria.compile.state import ClusterState
    from fimbria.kernel.loader import LoadedObject
    from tests.property.worlds import Packet

ALLOWED_BY_NONE = (Reason.NO_POLICY, Reason.NO_DEFAULT_DENY)
_FREE = (int(RuleIds.NONE), int(RuleIds.ALLOW_ALL))


class Case(NamedTuple):
    """A packet with what the first two judges say, by a policy or by its shadow."""

    packet: Packet
    policy_id: int
    asked: Asked
    judged: Verdict
    hit: Hit


def subjects(state: ClusterState) -> dict[int, End]:
    """The endpoints that packets are judged at, as the semantics see them: with their own ports."""
    found: dict[int, End] = {}
    for number, row in state.local.items():
        labels = state.identities.get(row.identity) or RESERVED[5]
        found[number] = End(row.identity or 5, LabelSet(labels), frozenset(row.named_ports))
    own = state.nodes.get(state.self_name)
    labels = (*RESERVED[1], *(own.labels if own else ()))
    found[HOST] = End(1, LabelSet(labels))
    return found


def judge(compiler: Compiler, world: World) -> list[Case]:
    """Judge every packet of a world by the rules and by the compiled maps, and compare."""
    state, config = compiler.state, world.config
    policies, places, context = world.parsed(), state.places(), state.context()
    desired, ends = compiler.desired(), subjects(state)
    held = {**desired.policies, **BUILT_IN}
    peers = {
        ip: (seen(desired.maps, ip, config.ipv6, config.cidr_match), places.end(ip))
        for ip in set(world.addresses())
    }
    cases: list[Case] = []
    for packet in world.packets:
        (identity, cidr), peer = peers[packet.peer]
        asked = Asked(identity, packet.direction, packet.protocol, packet.port, cidr)
        question = Question(
            ends[packet.subject], peer, packet.direction, packet.protocol,
            packet.port, config.enforcement, context, packet.subject == HOST,
        )  # fmt: skip
        row = desired.maps["cilium_policy_ref"][packet.subject.to_bytes(4, "little")]
        ref = PolicyRef.unpack(row)
        for number, shadow in ((ref.policy_id, False), (ref.shadow_id, True)):
            if shadow and not number:
                continue
            judged = verdict(policies, question, shadow=shadow)
            hit = policy_lookup(held, number, asked)
            case = Case(packet, number, asked, judged, hit)
            agree(compiler, case)
            cases.append(case)
    return cases


def seen(
    maps: Mapping[str, Mapping[bytes, bytes]], ip: bytes, dual: bool, match: frozenset[str]
) -> tuple[int, int]:
    """What the maps say of an address: its identity, and the one that rules by CIDR see."""
    identity = address_identity(maps, ip, dual_stack=dual)
    nodes, pods = "nodes" in match, "pods" in match
    return identity, cidr_lookup(maps["cilium_cidr"], identity, ip, nodes=nodes, pods=pods)


def agree(compiler: Compiler, case: Case) -> None:
    """The same verdict, the same kind of denial, and a rule that the semantics name too."""
    judged, hit = case.judged, case.hit
    assert hit.allowed == judged.allowed, case
    if not judged.allowed:
        denied = judged.reason is Reason.DENY_RULE
        assert hit.verdict == -(DropReason.POLICY_DENY if denied else DropReason.POLICY), case
    assert bool(hit.proxy_port) == (judged.reason is Reason.REDIRECT), case
    if hit.proxy_port:
        wanted = compiler.ids.proxies.port(case.packet.direction, judged.parser)
        assert hit.proxy_port == wanted, case
    assert (judged.allowed and hit.rule_id in _FREE) == (judged.reason in ALLOWED_BY_NONE), case
    assert hit.enforced == (judged.reason is not Reason.NO_POLICY), case
    if hit.rule_id >= RuleIds.FIRST:
        rule = compiler.ids.rules.rule(hit.rule_id)
        assert rule in {(name.policy, name.path) for name in judged.rules}, case
    elif hit.rule_id != RuleIds.ALLOW_LOCALHOST:
        assert not judged.rules, case


class Gathered:
    """Policies under numbers of their own, and questions, until the kernel is asked."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._maps = loaded.maps
        self._kernel = KernelJudge(loaded)
        self._ids = PolicyIds()
        self._policies: dict[int, PolicyMap] = {}
        self._questions: list[tuple[int, ...]] = []
        self._expected: list[tuple[int, ...]] = []
        self._cases: list[Case] = []

    @property
    def full(self) -> bool:
        """Whether the kernel should be asked before more is added."""
        return len(self._policies) > 3500 or len(self._cases) > 200_000

    def add(self, compiler: Compiler, cases: list[Case]) -> None:
        """Take in the cases of one world."""
        held = {**compiler.desired().policies, **BUILT_IN}
        numbers: dict[int, int] = {0: 0}
        for case in cases:
            asked, hit = case.asked, case.hit
            self._questions.append(
                (self._number(held, case.policy_id, numbers), asked.identity, asked.cidr,
                 asked.port, asked.protocol, asked.direction is Direction.EGRESS)
            )  # fmt: skip
            self._expected.append(
                (hit.verdict, hit.rule_id, numbers[hit.tier], hit.proxy_port, hit.shape,
                 hit.enforced)
            )  # fmt: skip
        self._cases += cases

    def ask(self) -> int:
        """Let the kernel judge what was gathered, and compare. Returns how many cases it were."""
        fill(self._maps, self._policies)
        answers = self._kernel.ask(self._questions)
        names = ("verdict", "rule", "tier", "proxy_port", "shape", "enforced")
        expected = np.array(self._expected, np.int64).reshape(-1, len(names)).T
        for name, column in zip(names, expected, strict=True):
            wrong: Any = np.flatnonzero(answers[name].astype(np.int64) != column)
            assert not len(wrong), (
                f"{name}: the kernel says {answers[wrong[0]]} ({CASE.names})",
                self._cases[wrong[0]],
            )
        count = len(self._cases)
        for part in (self._policies, self._questions, self._expected, self._cases):
            part.clear()
        self._ids.retain(())
        return count

    def _number(self, held: Mapping[int, PolicyMap], wanted: int, numbers: dict[int, int]) -> int:
        """Return the number of a policy, whose successors have numbers of their own too."""
        if wanted not in numbers:
            policy = held[wanted]
            info = PolicyInfo.unpack(policy.info)
            following = self._number(held, info.next_id, numbers)
            own = PolicyMap(info._replace(next_id=following).pack(), dict(policy.entries))
            numbers[wanted] = self._ids.take(own)
            self._policies[numbers[wanted]] = own
        return numbers[wanted]
