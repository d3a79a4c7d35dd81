"""Changes of devices, addresses and routes, as they happen, for an event loop.

The kernel multicasts every change; a reader that is too slow loses some, and is told so: then
`Overrun` comes out, and whoever keeps a picture of the network lists it again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fimbria.kernel import netrows, rtnl
from fimbria.kernel.netns import run_in
from fimbria.kernel.rtnl import RtnlSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fimbria.kernel.netrows import Address, Link, Route

_LINK, _IPV4_ADDR, _IPV4_ROUTE, _IPV6_ADDR, _IPV6_ROUTE = 1, 5, 7, 9, 11
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class Changed:
    """Something appeared or changed (`present`), or went."""

    row: Link | Address | Route
    present: bool


@dataclass(frozen=True, slots=True)
class Overrun:
    """Changes were lost."""


class Watch:
    """Hears changes from its creation on, in `netns` (None: the calling thread's)."""

    def __init__(
        self,
        netns: int | None = None,
        *,
        links: bool = True,
        addresses: bool = False,
        routes: bool = False,
    ) -> None:
        wanted = [_LINK] * links
        wanted += [_IPV4_ADDR, _IPV6_ADDR] * addresses + [_IPV4_ROUTE, _IPV6_ROUTE] * routes
        groups = sum(1 << group - 1 for group in wanted)

        def opened() -> RtnlSocket:
            return RtnlSocket(groups)

        self._rtnl = opened() if netns is None else run_in(netns, opened)
        self._rtnl.socket.setblocking(False)
        self._rtnl.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def __aiter__(self) -> AsyncIterator[Changed | Overrun]:
        return self._events()

    async def _events(self) -> AsyncIterator[Changed | Overrun]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._rtnl.socket, _BUFFER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield Overrun()
                continue
            for message, _ in rtnl.messages(data):
                if (changed := _decode(message)) is not None:
                    yield changed

    def close(self) -> None:
        """Ends it; a reader that waits must be cancelled first."""
        self._rtnl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _decode(message: rtnl.Message) -> Changed | None:
    match message.type:
        case rtnl.RTM_NEWLINK | rtnl.RTM_DELLINK:
            return Changed(netrows.link_row(message), message.type == rtnl.RTM_NEWLINK)
        case rtnl.RTM_NEWADDR | rtnl.RTM_DELADDR:
            return Changed(netrows.address_row(message), message.type == rtnl.RTM_NEWADDR)
        case rtnl.RTM_NEWROUTE | rtnl.RTM_DELROUTE:
            return Changed(netrows.route_row(message), message.type == rtnl.RTM_NEWROUTE)
        case _:
            return None
