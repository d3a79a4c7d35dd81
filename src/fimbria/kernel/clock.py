"""The only place that reads a clock.

The datapath counts time in jiffies, whose rate is the kernel's compile-time HZ and whose start is
five minutes before zero (so that code which forgets about wrapping fails early). Lifetimes of
connections are compared with `jiffies()`, which asks the kernel through a two-instruction program
where it may, and computes it from the monotonic clock where it may not.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from fimbria.kernel.errors import BpfError

_CLOCK_MONOTONIC_COARSE = 6  # the time module has no name for it
_JIFFIES64 = 118  # number of the helper bpf_jiffies64
_INITIAL_SECONDS = 300


@cache
def hz() -> int:
    """Jiffies per second: the resolution of the coarse clock is one tick."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def computed_jiffies(monotonic_ns: int, rate: int) -> int:
    """Jiffies (64 bit) at a monotonic time, up to a second late: boot's first ticks are lost."""
    initial = -_INITIAL_SECONDS * rate & 0xFFFFFFFF
    return initial + monotonic_ns * rate // 1_000_000_000


def jiffies() -> int:
    """The kernel's jiffies now, 64 bit; conntrack entries hold the low 32."""
    rough = computed_jiffies(time.clock_gettime_ns(time.CLOCK_MONOTONIC), hz())
    fd = _program()
    if fd is None:
        return rough
    from fimbria.kernel import bpf

    low = bpf.test_run(fd, bytes(14), data_out=0).retval
    # the low half is exact; the rough value tells which of the neighbouring high halves it is
    return rough + ((low - rough + 0x80000000) & 0xFFFFFFFF) - 0x80000000


@cache
def _program() -> int | None:
    """`return bpf_jiffies64()`, loaded once per process; None where bpf(2) is not allowed."""
    from fimbria.kernel import bpf

    code = bytes((0x85, 0, 0, 0, _JIFFIES64, 0, 0, 0)) + bytes((0x95, 0, 0, 0, 0, 0, 0, 0))
    try:
        return bpf.prog_load(bpf.ProgType.SCHED_CLS, code, name="jiffies")[0]
    except BpfError:
        return None


class SystemClock:
    """The machine's clocks, as `port.Clock`."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never going back."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def boottime(self) -> float:
        """Seconds since this boot, those asleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """What names this boot."""
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def jiffies(self) -> int:
        """The kernel's tick counter, 64 bit."""
        return jiffies()

    @property
    def hz(self) -> int:
        """Jiffies per second."""
        return hz()
