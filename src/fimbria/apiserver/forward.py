"""Pass connections on to another address, byte for byte.

    client ── listener ──► relay ──► 127.0.0.1:PORT

What comes by TCP is passed on as it is, so TLS is between the client and the server behind. What
comes by a unix socket is plain, and is put into TLS here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

CHUNK = 65536


async def serve(listener: socket.socket, port: int, tls: ssl.SSLContext) -> asyncio.Server:
    """Start to pass a bound listener's connections on to a port of the loopback device."""
    context = tls if listener.family == socket.AF_UNIX else None

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await _relay(reader, writer, port, context)
        writer.close()

    if listener.family == socket.AF_UNIX:
        return await asyncio.start_unix_server(accept, sock=listener)
    return await asyncio.start_server(accept, sock=listener)


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    tls: ssl.SSLContext | None,
) -> None:
    behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        async with asyncio.TaskGroup() as tasks:
            there = tasks.create_task(_copy(reader, behind_writer))
            back = tasks.create_task(_copy(behind_reader, writer))
            # TLS knows no half-closed connections: whichever side ends, both do.
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
    finally:
        behind_writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
