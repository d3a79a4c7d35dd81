"""Stations: raw sockets in every network namespace of a lab, all of them in one process.

    probes ─► sockets of their sources ─► the real datapath ─► sockets of their destinations ─► Seen

A socket stays in the namespace that it was made in, so one loop sends, answers and receives for all
pods, nodes and the world; no process is started for a probe.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fimbria.kernel import netns
from tests.lab.truth.packets import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Probe,
    answer,
    opening,
    seen,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROTOCOLS = {4: (ICMP, TCP, UDP, SCTP), 6: (ICMPV6, TCP, UDP, SCTP)}
BURST = 64
"""Probes that are sent before what has arrived is read."""
QUIET, PATIENCE = 0.25, 3.0
"""Seconds without a packet after which nothing more is on its way; seconds for what should come."""
BUFFER = 8 << 20
SO_RCVBUFFORCE = 33


class Station(NamedTuple):
    """A place with addresses of its own: a pod, a node, the world."""

    name: str
    path: str
    addresses: tuple[str, ...]


@dataclass
class Seen:
    """What has been seen: numbers of probes that arrived, and of those that were answered.

    `strange` are packets that came to a wrong place, or from a wrong address.
    """

    arrived: set[int] = field(default_factory=set[int])
    answered: set[int] = field(default_factory=set[int])
    strange: list[str] = field(default_factory=list[str])


class _Ear(NamedTuple):
    address: str
    protocol: int
    socket: socket.socket


class Stations:
    """The sockets of all stations. Close it when done."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self.seen = Seen()
        self._probes: dict[int, Probe] = {}
        self._ears: dict[tuple[str, int], _Ear] = {}
        self._selector = selectors.DefaultSelector()
        for station in stations:
            self._open(station)

    def _open(self, station: Station) -> None:
        def make() -> list[_Ear]:
            return [
                _ear(address, protocol)
                for address in station.addresses
                for protocol in PROTOCOLS[ip_address(address).version]
            ]

        space = netns.open_netns(Path(station.path))
        try:
            for ear in netns.run_in(space, make):
                self._ears[ear.address, ear.protocol] = ear
                self._selector.register(ear.socket, selectors.EVENT_READ, ear)
        finally:
            os.close(space)

    def close(self) -> None:
        """Close all sockets."""
        for ear in self._ears.values():
            ear.socket.close()
        self._selector.close()

    def run(self, probes: Iterable[Probe], wanted: set[int]) -> None:
        """Send probes; return when all of `wanted` were seen to the end, or nothing comes any more.

        `wanted` are the numbers of those that should arrive.
        """
        for index, probe in enumerate(probes):
            self.send(probe)
            if index % BURST == BURST - 1:
                self.take(0)
        deadline = time.monotonic() + PATIENCE
        while self.take(QUIET) or (self._missing(wanted) and time.monotonic() < deadline):
            pass

    def send(self, probe: Probe) -> None:
        """Send a probe's packet."""
        self._probes[probe.number] = probe
        ear = self._ears[probe.source, probe.protocol]
        try:
            ear.socket.sendto(opening(probe), (probe.destination, 0))
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # dropped on the node's own device: a verdict too
                raise

    def take(self, seconds: float) -> bool:
        """Take what has come; False if nothing did within a time."""
        ready = self._selector.select(seconds)
        for key, _ in ready:
            self._drain(key.data)
        return bool(ready)

    def _missing(self, wanted: set[int]) -> bool:
        answers = (number for number in wanted if self._probes[number].answered)
        return not wanted <= self.seen.arrived or not self.seen.answered.issuperset(answers)

    def _drain(self, ear: _Ear) -> None:
        while True:
            try:
                data, sender = ear.socket.recvfrom(2048)
            except BlockingIOError:
                return
            if ":" not in ear.address:
                data = data[(data[0] & 15) * 4 :]
            what = seen(ear.protocol, data)
            probe = None if what is None else self._probes.get(what[0])
            if what is not None and probe is not None and probe.protocol == ear.protocol:
                self._note(ear, probe, sender[0], is_answer=what[1])

    def _note(self, ear: _Ear, probe: Probe, sender: str, *, is_answer: bool) -> None:
        if ear.protocol in (ICMP, ICMPV6):  # an unasked echo reply is a probe, not an answer
            is_answer = is_answer and probe.answered
        way = probe.source, probe.destination
        if (sender, ear.address) != (way[::-1] if is_answer else way):
            what = "answer to" if is_answer else "probe"
            self.seen.strange.append(f"{what} {probe}: from {sender} at {ear.address}")
        elif is_answer:
            self.seen.answered.add(probe.number)
        elif probe.number not in self.seen.arrived:
            self.seen.arrived.add(probe.number)
            back = answer(probe)
            if back is not None:
                ear.socket.sendto(back, (probe.source, 0))


def _ear(address: str, protocol: int) -> _Ear:
    """A raw socket bound to an address, in the calling thread's namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    made.setblocking(False)
    made.bind((address, 0))
    return _Ear(address, protocol, made)
