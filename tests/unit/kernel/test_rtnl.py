"""Netlink's bytes: what is encoded is decoded again, and garbage is refused."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimbria.kernel import netrows, rtnl
from fimbria.kernel.netrows import Address, Neighbour, Route, Rule
from fimbria.kernel.rtnl import Message

v4 = st.integers(0, 2**32 - 1).map(lambda n: socket.inet_ntop(socket.AF_INET, struct.pack("!I", n)))
v6 = st.binary(min_size=16, max_size=16).map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw))
u32 = st.integers(0, 2**32 - 1)
index = st.integers(1, 2**31 - 1)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """Routes as we write them."""
    wide = draw(st.booleans())
    address = v6 if wide else v4
    destination = f"{draw(address)}/{draw(st.integers(0, 128 if wide else 32))}"
    refusing = draw(st.booleans())
    gateway = "" if refusing else draw(st.one_of(st.just(""), address))
    return Route(
        destination,
        ifindex=0 if refusing else draw(index),
        gateway=gateway,
        type="unreachable" if refusing else "unicast",
        table=draw(st.integers(1, 2**32 - 1)),
        metric=draw(u32.filter(lambda metric: metric != 1024)),
        mtu=draw(u32),
        source="" if refusing else draw(st.one_of(st.just(""), address)),
        onlink=bool(gateway) and draw(st.booleans()),
        protocol=draw(st.integers(0, 255)),
    )


@given(routes())
def test_routes(row: Route) -> None:
    """A route survives its netlink form."""
    payload = netrows.route_payload(row)
    assert netrows.route_row(Message(rtnl.RTM_NEWROUTE, 0, payload)) == row


@given(st.one_of(v4.map(lambda a: f"{a}/32"), v6.map(lambda a: f"{a}/128")), index)
def test_addresses(text: str, ifindex: int) -> None:
    """An address survives its netlink form, whatever its flags."""
    row = Address(ifindex, text)
    payload = netrows.address_payload(row, nodad=True)
    assert netrows.address_row(Message(rtnl.RTM_NEWADDR, 0, payload)) == row


@given(st.one_of(v4, v6), index, st.binary(min_size=6, max_size=6))
def test_neighbours(text: str, ifindex: int, mac: bytes) -> None:
    """A neighbour survives its netlink form."""
    row = Neighbour(ifindex, text, mac)
    payload = netrows.neighbour_payload(row)
    assert netrows.neighbour_row(Message(rtnl.RTM_NEWNEIGH, 0, payload)) == row


@given(u32, st.integers(1, 2**32 - 1), u32, st.integers(1, 2**32 - 1))
def test_rules(priority: int, table: int, mark: int, mask: int) -> None:
    """A rule survives its netlink form."""
    row = Rule(priority, table, mark=mark, mask=mask)
    assert netrows.rule_row(Message(rtnl.RTM_NEWRULE, 0, netrows.rule_payload(row))) == row


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are no messages or attributes are ValueError, never anything else."""
    for parse in (lambda: list(rtnl.messages(data)), lambda: rtnl.attrs(data)):
        with contextlib.suppress(ValueError):
            parse()


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.1/33", "fd00::/129", "x/8", "1.2.3/8"])
def test_no_prefix(text: str) -> None:
    """What is no prefix is refused with the text that was given."""
    with pytest.raises(ValueError, match="is no"):
        netrows.split_prefix(text)
