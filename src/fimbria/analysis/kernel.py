"""The third judge: the C itself, run by the kernel over the compiled maps.

It needs root, a kernel and the object bpf/tests/judge, which a source tree has after `make build`.
Its maps are its own and go with it; nothing is attached anywhere.
"""

from __future__ import annotations

import struct
import weakref
from typing import TYPE_CHECKING

from fimbria.analysis.engine import KernelUnavailable
from fimbria.datapath.abi import Direction, PolicyEntry, PolicyKey, PolicyShape
from fimbria.datapath.lookup import Hit
from fimbria.kernel import objects_dir
from fimbria.kernel.bpf import MapType, run_syscall
from fimbria.kernel.errors import AbiMismatch, BpfError, ObjectError
from fimbria.kernel.loader import load_object
from fimbria.kernel.maps import BpfMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.compile.ids import PolicyMap
    from fimbria.datapath.lookup import Asked

_HEAD = struct.Struct("=I4x")
_QUESTION = struct.Struct("=III2sBB")
_ANSWER = struct.Struct("=iII2sBBB3x")


class Kernel:
    """judge_policy (bpf/tests/judge.h) on maps that hold `policies`. Raises KernelUnavailable."""

    def __init__(self, policies: Mapping[int, PolicyMap]) -> None:
        self._policies = policies
        try:
            self._loaded = load_object(objects_dir() / "tests" / "judge.o")
            self._fill()
        except (AbiMismatch, BpfError, ObjectError) as error:
            raise KernelUnavailable(f"the kernel cannot judge: {error}") from error
        self._batch = self._loaded.maps["judge_cases"]
        weakref.finalize(self, self._loaded.close)

    def _fill(self) -> None:
        inner: dict[bytes, BpfMap] = {}
        infos: dict[bytes, bytes] = {}
        for number, policy in self._policies.items():
            size = len(policy.entries) or 1
            held = BpfMap.create(
                MapType.HASH, key_size=8, value_size=16, max_entries=size, name="policy"
            )
            held.put_many(policy.entries)
            key = number.to_bytes(4, "little")
            inner[key], infos[key] = held, policy.info
        self._loaded.maps["cilium_policy_info"].put_many(infos)
        self._loaded.maps["cilium_policy"].put_maps(inner)
        for held in inner.values():
            held.close()

    def lookup(self, policy_id: int, asked: Asked) -> Hit:
        """Return the C's answer in the form of `datapath.lookup.policy_lookup`'s."""
        question = _QUESTION.pack(
            policy_id, asked.identity, asked.cidr, asked.port.to_bytes(2, "big"), asked.protocol,
            asked.direction is Direction.EGRESS,
        )  # fmt: skip
        self._batch.put(bytes(4), (_HEAD.pack(1) + question).ljust(self._batch.value_size, b"\0"))
        status, _ = run_syscall(self._loaded.programs["judge_policy"].fd, bytes(4))
        done = self._batch.get(bytes(4))
        if status != 0 or done is None:
            raise KernelUnavailable(f"the kernel's judge returned {status}")
        answer = _ANSWER.unpack_from(done, _HEAD.size + _QUESTION.size)
        verdict, rule, tier, _, shape, _, enforced = answer
        found = self._entry(asked, tier, rule, shape) if rule else None
        key, entry = found or (None, None)
        return Hit(verdict, rule, shape, bool(enforced), key, entry, tier)

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
