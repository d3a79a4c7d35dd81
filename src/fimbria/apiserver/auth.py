"""Who may use the API: whoever shows a token from the token file, or is root on the unix socket.

There are no roles: the token is the administrator's. A unix socket with mode 0600 asks the kernel
for the peer's user id (SO_PEERCRED) and takes root and the server's own user without a token.
"""

from __future__ import annotations

import hmac
import os
import socket
import struct
from typing import TYPE_CHECKING

from fimbria.apiserver.errors import unauthorized

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aiohttp import web

_UCRED = struct.Struct("iII")


class Authenticator:
    """Checks requests against a set of tokens."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """`tokens`: token → user name."""
        self._tokens = {token.encode(): user for token, user in tokens.items()}

    def user(self, request: web.BaseRequest) -> str:
        """The name of the user who asks. Raises 401."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            secret = given.strip().encode("utf-8", "surrogateescape")
            for token, user in self._tokens.items():
                if hmac.compare_digest(token, secret):
                    return user
            raise unauthorized("the bearer token is not known")
        connection = request.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            level, name = socket.SOL_SOCKET, socket.SO_PEERCRED
            _, uid, _ = _UCRED.unpack(connection.getsockopt(level, name, _UCRED.size))
            if uid in (0, os.geteuid()):
                return "root" if uid == 0 else f"uid:{uid}"
        raise unauthorized("a bearer token is needed")


def read_tokens(path: Path) -> dict[str, str]:
    """The tokens of a file: `token` or `token,user,…` per line (Kubernetes' static token file).

    Raises ValueError naming the file and line.
    """
    tokens: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        token, _, rest = line.partition(",")
        token = token.strip().strip('"')
        if len(token) < 8:
            raise ValueError(f"{path}:{number}: a token has at least 8 characters")
        tokens[token] = rest.split(",")[0].strip().strip('"') or "admin"
    if not tokens:
        raise ValueError(f"{path}: there is no token in this file")
    return tokens
