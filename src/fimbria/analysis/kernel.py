"""The third judge: the C itself (bpf/tests/judge.h), run by the kernel over compiled maps.

It needs root, a kernel and the object bpf/tests/judge, which a source tree has after `make build`.
Its maps are its own and go with it; nothing is attached anywhere.

A case is a record: what is asked, and behind it what the kernel answers. The kernel takes 512 of
them in one run of the program.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from fimbria.analysis.engine import KernelUnavailable
from fimbria.datapath.abi import Direction, PolicyEntry, PolicyKey, PolicyShape
from fimbria.datapath.lookup import Hit
from fimbria.kernel import objects_dir
from fimbria.kernel.bpf import MapType, run_syscall
from fimbria.kernel.errors import AbiMismatch, BpfError, ObjectError
from fimbria.kernel.loader import load_object
from fimbria.kernel.maps import BpfMap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fimbria.compile.ids import PolicyMap
    from fimbria.datapath.lookup import Asked
    from fimbria.kernel.loader import LoadedObject

ASKED = ("policy_id", "identity", "cidr", "dport", "protocol", "egress")
CASE: np.dtype[np.void] = np.dtype(
    [
        ("policy_id", "<u4"),
        ("identity", "<u4"),
        ("cidr", "<u4"),
        ("dport", ">u2"),
        ("protocol", "u1"),
        ("egress", "u1"),
        ("verdict", "<i4"),
        ("rule", "<u4"),
        ("tier", "<u4"),
        ("proxy_port", ">u2"),
        ("shape", "u1"),
        ("match", "u1"),
        ("enforced", "u1"),
        ("pad", "V3"),
    ]
)
"""struct judge_case."""
BATCH = 512


def fill(maps: Mapping[str, BpfMap], policies: Mapping[int, PolicyMap]) -> None:
    """Put policies, by their numbers, into the maps of a loaded judge."""
    inner: dict[bytes, BpfMap] = {}
    infos: dict[bytes, bytes] = {}
    for number, policy in policies.items():
        size = len(policy.entries) or 1
        held = BpfMap.create(
            MapType.HASH, key_size=8, value_size=16, max_entries=size, name="policy"
        )
        held.put_many(policy.entries)
        key = number.to_bytes(4, "little")
        inner[key], infos[key] = held, policy.info
    maps["cilium_policy_info"].put_many(infos)
    maps["cilium_policy"].put_maps(inner)
    for held in inner.values():
        held.close()


class KernelJudge:
    """judge_policy, on the maps of a loaded tests/judge object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._batch = loaded.maps["judge_cases"]
        self._program = loaded.programs["judge_policy"].fd

    def ask(self, questions: Sequence[tuple[int, ...]]) -> NDArray[Any]:
        """Answer questions, each with the fields of ASKED; the rows are CASEs in the same order.

        Raises KernelUnavailable if the program fails.
        """
        cases: NDArray[Any] = np.zeros(len(questions), CASE)
        columns = np.array(questions, np.uint32).reshape(-1, len(ASKED)).T
        for name, column in zip(ASKED, columns, strict=True):
            cases[name] = column
        for start in range(0, len(cases), BATCH):
            part = cases[start : start + BATCH]
            head = len(part).to_bytes(4, "little") + bytes(4)
            body = part.tobytes().ljust(CASE.itemsize * BATCH, b"\0")
            self._batch.put(bytes(4), head + body)
            status, _ = run_syscall(self._program, bytes(4))
            done = self._batch.get(bytes(4))
            if status != 0 or done is None:
                raise KernelUnavailable(f"the kernel's judge returned {status}")
            cases[start : start + BATCH] = np.frombuffer(done, CASE, len(part), len(head))
        return cases


class Kernel:
    """The C's lookup in `policies`, one question at a time. Raises KernelUnavailable."""

    def __init__(self, policies: Mapping[int, PolicyMap]) -> None:
        self._policies = policies
        try:
            loaded = load_object(objects_dir() / "tests" / "judge.o")
            weakref.finalize(self, loaded.close)
            fill(loaded.maps, policies)
        except (AbiMismatch, BpfError, ObjectError) as error:
            raise KernelUnavailable(f"the kernel cannot judge: {error}") from error
        self._judge = KernelJudge(loaded)

    def lookup(self, policy_id: int, asked: Asked) -> Hit:
        """Return the C's answer in the form of `datapath.lookup.policy_lookup`'s."""
        egress = asked.direction is Direction.EGRESS
        (one,) = self._judge.ask(
            [(policy_id, asked.identity, asked.cidr, asked.port, asked.protocol, egress)]
        )
        rule, tier, shape = int(one["rule"]), int(one["tier"]), int(one["shape"])
        found = self._entry(asked, tier, rule, shape) if rule else None
        key, entry = found or (None, None)
        return Hit(int(one["verdict"]), rule, shape, bool(one["enforced"]), key, entry, tier)

    def _entry(
        self, asked: Asked, tier: int, rule: int, shape: int
    ) -> tuple[PolicyKey, PolicyEntry] | None:
        """Return the entry that decided: the one of that rule and shape on one of the sides."""
        way = int(PolicyShape.EGRESS) if asked.direction is Direction.EGRESS else 0
        port = asked.port >> (17 - shape) << (17 - shape) if shape > 1 else 0
        for identity in (asked.identity, asked.cidr, 0):
            key = PolicyKey(identity, port, asked.protocol if shape else 0, shape | way)
            value = self._policies[tier].entries.get(key.pack())
            if value is not None and PolicyEntry.unpack(value).rule_id == rule:
                return key, PolicyEntry.unpack(value)
        return None
