"""Alarms about tables that fill up: raised once, with who fills them; ended once."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.agent.pressure import Fill, Pressure
from fimbria.compile.delta import IPCACHE
from fimbria.datapath import abi

if TYPE_CHECKING:
    import pytest


def prefix(text: str, bits: int) -> bytes:
    """The ipcache's key of a prefix."""
    ip = ip_address(text)
    family = abi.Family.IPV4 if ip.version == 4 else abi.Family.IPV6
    key = abi.IpcacheKey(prefixlen=32 + bits, family=family, ip=ip.packed.ljust(16, b"\0"))
    return key.pack()


def test_an_alarm_begins_and_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    """Ninety per cent raises it, with the numbers and names; it ends below eighty-five."""
    caplog.set_level(logging.INFO)
    fills: list[Fill] = []
    pressure = Pressure(lambda: fills, dict)
    told: list[int] = []
    for used in (899, 900, 950, 860, 849, 700):
        fills[:] = Fill("cilium_ct", used, 1000, "default/web 800"), Fill("cilium_lxc", 1, 1000)
        pressure.sample()
        told.append(len(caplog.messages))
    assert told == [0, 1, 1, 1, 2, 2]
    assert caplog.messages[0] == "cilium_ct 90% full (900 of 1000; most: default/web 800)"
    assert not pressure.alarms


def test_the_fullest_comes_first() -> None:
    """Status names the tables by how full they are."""
    fills = [Fill("a", 95, 100), Fill("b", 99, 100), Fill("c", 10, 100)]
    pressure = Pressure(lambda: fills, dict)
    pressure.sample()
    assert [fill.name for fill in pressure.alarms] == ["b", "a"]


def test_what_does_not_fit_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A full map names the prefixes that wait, the first three of them; logged once."""
    keys = [prefix(f"10.0.0.{i}", 32) for i in range(1, 5)] + [prefix("fd00::", 64)]
    waiting = {IPCACHE: dict.fromkeys(keys[-2:], b"")}
    pressure = Pressure(list, lambda: waiting)
    for _ in range(2):
        pressure.sample()
    assert caplog.messages == [
        "cilium_ipcache is full, there is no room for 10.0.0.4/32, fd00::/64"
    ]
    waiting[IPCACHE] = dict.fromkeys(keys, b"")
    text = "10.0.0.1/32, 10.0.0.2/32, 10.0.0.3/32 and 2 more"
    assert pressure.missing() == [f"cilium_ipcache is full, there is no room for {text}"]
