"""One rule, three judges: the semantics, the lookup over exact map bytes, and the C in the kernel.

FIMBRIA_CASES is the number of (policies, endpoints, packet) cases; the nightly size is 100,000.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fimbria.compile.ids import BUILT_IN, Ids, PolicyMap
from fimbria.compile.node import Compiler
from fimbria.datapath.abi import Direction, DropReason, RuleIds
from fimbria.datapath.lookup import Hit, policy_lookup
from fimbria.model.semantics import Question, Reason, Verdict, verdict
from tests.property.strategies import Cluster, clusters

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = int(os.environ.get("FIMBRIA_CASES", "2000"))
PACKETS = 50
sized = settings(
    max_examples=max(1, CASES // PACKETS),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


class Case(NamedTuple):
    """A packet with what the first two judges say."""

    policy_id: int
    peer: int
    direction: Direction
    protocol: int
    port: int
    hit: Hit
    judged: Verdict


def judge_two(cluster: Cluster) -> tuple[Compiler, list[Case]]:
    """Judge every packet of a cluster by the rules and by the compiled maps, and compare."""
    compiler = Compiler(cluster.state(), Ids())
    compiler.update()
    assert not compiler.problems
    policies = cluster.parsed()
    cases: list[Case] = []
    for packet in cluster.packets:
        _, peer, direction, protocol, port = (
            packet.subject, packet.peer, packet.direction, packet.protocol, packet.port,
        )  # fmt: skip
        judged = verdict(
            policies,
            Question(
                cluster.subject(packet), cluster.end(peer), direction, protocol, port, cluster.mode
            ),
        )
        number = compiler.policies.policy_id(packet.subject)
        policy = content(compiler, number)
        hit = policy_lookup(policy.info, policy.entries, peer, direction, protocol, port)
        agree(compiler, judged, hit)
        cases.append(Case(number, peer, direction, protocol, port, hit, judged))
    return compiler, cases


def content(compiler: Compiler, number: int) -> PolicyMap:
    return BUILT_IN.get(number) or compiler.desired().policies[number]


def agree(compiler: Compiler, judged: Verdict, hit: Hit) -> None:
    """The same verdict, the same kind of denial, and a rule that the semantics name too."""
    assert hit.allowed == judged.allowed
    assert hit.enforced == (judged.reason is not Reason.NO_POLICY)
    if not judged.allowed:
        denied = judged.reason is Reason.DENY_RULE
        assert hit.verdict == -(DropReason.POLICY_DENY if denied else DropReason.POLICY)
    if hit.rule_id >= RuleIds.FIRST:
        rule = compiler.ids.rules.rule(hit.rule_id)
        assert rule in {(name.policy, name.path) for name in judged.rules}
    elif judged.reason is Reason.DENY_RULE:
        pytest.fail(f"a rule denies, the map names {hit.rule_id}")


@sized
@given(clusters(packets=PACKETS))
def test_two_judges(cluster: Cluster) -> None:
    """What the rules say of a packet and what the compiled maps say is the same."""
    judge_two(cluster)


_QUESTION = struct.Struct("=II2sBB")
_ANSWER = struct.Struct("=iIBBBx")
_SIZE = _QUESTION.size + _ANSWER.size


class KernelJudge:
    """The C, behind a syscall program (bpf/tests/judge.h), on maps of its own."""

    def __init__(self) -> None:
        from fimbria.kernel import objects_dir
        from fimbria.kernel.loader import load_object

        self._loaded = load_object(objects_dir() / "tests" / "judge.o")
        self._maps = self._loaded.maps

    def fill(self, policies: dict[int, PolicyMap]) -> None:
        """Put policies into the kernel under their numbers."""
        from fimbria.kernel.bpf import MapType
        from fimbria.kernel.maps import BpfMap

        inner: dict[bytes, BpfMap] = {}
        for number, policy in policies.items():
            held = BpfMap.create(
                MapType.HASH,
                key_size=8,
                value_size=16,
                max_entries=len(policy.entries) or 1,
                name="policy",
            )
            held.put_many(policy.entries)
            self._maps["cilium_policy_info"].put(struct.pack("=I", number), policy.info)
            inner[struct.pack("=I", number)] = held
        self._maps["cilium_policy"].put_maps(inner)
        for held in inner.values():
            held.close()

    def ask(self, cases: list[tuple[int, Case]]) -> list[tuple[int, int, int, int, int]]:
        """Judge (policy number, case); answers are (verdict, rule, shape, match, enforced)."""
        from fimbria.kernel.bpf import run_syscall

        answers: list[tuple[int, int, int, int, int]] = []
        for start in range(0, len(cases), 512):
            part = cases[start : start + 512]
            batch = bytearray(8 + _SIZE * 512)
            struct.pack_into("=I", batch, 0, len(part))
            for i, (number, case) in enumerate(part):
                port, egress = case.port.to_bytes(2, "big"), case.direction is Direction.EGRESS
                _QUESTION.pack_into(
                    batch, 8 + _SIZE * i, number, case.peer, port, case.protocol, egress
                )
            self._maps["judge_cases"].put(bytes(4), bytes(batch))
            assert run_syscall(self._loaded.programs["judge_policy"].fd, bytes(4))[0] == 0
            done = self._maps["judge_cases"].get(bytes(4))
            assert done is not None
            answers += [
                _ANSWER.unpack_from(done, 8 + _SIZE * i + _QUESTION.size) for i in range(len(part))
            ]
        return answers

    def close(self) -> None:
        self._loaded.close()


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelJudge]:
    judge = KernelJudge()
    yield judge
    judge.close()


@pytest.mark.root
def test_three_judges(kernel: KernelJudge) -> None:
    """The C in the kernel gives the same verdict, rule and shape as the other two judges.

    Cases are gathered, because the kernel takes eight milliseconds to let a map of maps change.
    """
    waiting: list[tuple[int, Case]] = []
    policies: dict[int, PolicyMap] = {}

    def flush() -> None:
        kernel.fill(policies)
        for (number, case), answer in zip(waiting, kernel.ask(waiting), strict=True):
            code, rule, shape, _, enforced = answer
            hit = case.hit
            assert (code, rule, bool(enforced)) == (hit.verdict, hit.rule_id, hit.enforced), (
                number,
                case,
            )
            if hit.key is not None:
                assert shape == hit.shape
        waiting.clear()
        policies.clear()

    @sized
    @given(clusters(packets=PACKETS))
    def gather(cluster: Cluster) -> None:
        compiler, cases = judge_two(cluster)
        numbers: dict[int, int] = {}
        for case in cases:
            if case.policy_id not in numbers:
                numbers[case.policy_id] = len(policies)
                policies[len(policies)] = content(compiler, case.policy_id)
            waiting.append((numbers[case.policy_id], case))
        if len(policies) > 3900:
            flush()

    gather()
    flush()
