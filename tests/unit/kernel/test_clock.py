"""Jiffies and HZ."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fimbria.kernel import clock


def test_hz_is_a_rate_that_kernels_have() -> None:
    """The coarse clock's resolution names one of the rates that Linux can be built with."""
    assert clock.hz() in (100, 250, 300, 1000)


def test_computed_jiffies() -> None:
    """Jiffies start five minutes before their low half wraps."""
    assert clock.computed_jiffies(0, 250) == 2**32 - 75_000
    assert clock.computed_jiffies(300 * 10**9, 250) == 2**32


@pytest.mark.root
def test_jiffies_are_the_kernel_s() -> None:
    """What we call jiffies is what the kernel calls so, within the time between two looks."""
    before = clock.jiffies()
    found = re.search(r"^jiffies: (\d+)", Path("/proc/timer_list").read_text(), re.M)
    assert found
    assert before <= int(found[1]) <= clock.jiffies()
