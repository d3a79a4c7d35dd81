"""Sockets to listen on, from their names on the command line."""

from __future__ import annotations

import os
import socket
import stat


class ListenError(Exception):
    """A listener that cannot be had; the message names it."""


def bind(listen: str) -> socket.socket:
    """A bound socket for `HOST:PORT`, `[V6]:PORT`, `unix:PATH` (mode 0600) or `fd:N`.

    Raises ListenError.
    """
    try:
        if listen.startswith("fd:"):
            return socket.socket(fileno=int(listen.removeprefix("fd:")))
        if listen.startswith("unix:"):
            return _bind_unix(listen.removeprefix("unix:"))
        host, _, port = listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal():
            raise ListenError(f"{listen!r}: expected HOST:PORT, unix:PATH or fd:N")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(port)))
        except (OSError, OverflowError):
            listener.close()
            raise
    except (OSError, ValueError, OverflowError) as error:
        raise ListenError(f"cannot listen on {listen}: {error}") from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a bound socket: https://HOST:PORT or unix:///PATH."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix://{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else str(name[0])
    return f"https://{host}:{name[1]}"


def _bind_unix(path: str) -> socket.socket:
    """A socket at `path`; one that nobody listens on any more is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            if listener.connect_ex(path) == 0:
                raise ListenError(f"unix:{path}: a server is listening there")
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
    except (OSError, ListenError):
        listener.close()
        raise
    return listener
