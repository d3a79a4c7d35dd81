"""The C's policy lookup as a function of arrays (bpf/tests/judge.h).

A case is a record: what is asked, and behind it what the kernel answers. The kernel takes 512 of
them in one run of the program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fimbria.kernel.bpf import run_syscall

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


class KernelJudge:
    """judge_policy, on the maps of a loaded tests/judge object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._batch = loaded.maps["judge_cases"]
        self._program = loaded.programs["judge_policy"].fd

    def ask(self, questions: list[tuple[int, ...]]) -> NDArray[Any]:
        """Answer questions, each with the fields of ASKED; the rows are CASEs in the same order."""
        cases: NDArray[Any] = np.zeros(len(questions), CASE)
        columns = np.array(questions, np.uint32).reshape(-1, len(ASKED)).T
        for name, column in zip(ASKED, columns, strict=True):
            cases[name] = column
        for start in range(0, len(cases), BATCH):
            part = cases[start : start + BATCH]
            head = len(part).to_bytes(4, "little") + bytes(4)
            body = part.tobytes().ljust(CASE.itemsize * BATCH, b"\0")
            self._batch.put(bytes(4), head + body)
            assert run_syscall(self._program, bytes(4))[0] == 0
            done = self._batch.get(bytes(4))
            assert done is not None
            cases[start : start + BATCH] = np.frombuffer(done, CASE, len(part), len(head))
        return cases
