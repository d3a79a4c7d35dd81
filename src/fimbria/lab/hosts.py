"""The hosts file of pods: every pod and service by name, as long as services are not translated.

A service's name leads to the addresses of its ready pods. Short names are those of the reader's
own Kubernetes namespace, so there is one file per namespace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEAD = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
"""
DOMAIN = "svc.cluster.local"


@dataclass(frozen=True)
class Name:
    """A node, pod or service and its addresses; a node has no namespace."""

    kind: str
    namespace: str
    name: str
    addresses: tuple[str, ...]


def render(names: Iterable[Name], namespace: str) -> str:
    """The file for pods of `namespace`; the same names always give the same text."""
    lines: list[str] = []
    for one in sorted(names, key=lambda n: (n.kind, n.namespace, n.name)):
        words = [one.name] if one.namespace in ("", namespace) else []
        if one.namespace:
            words.append(f"{one.name}.{one.namespace}")
        if one.kind == "service":
            words += [f"{one.name}.{one.namespace}.svc", f"{one.name}.{one.namespace}.{DOMAIN}"]
        lines += [f"{address} {' '.join(words)}\n" for address in one.addresses]
    return HEAD + "".join(lines)


def write(path: Path, text: str) -> bool:
    """Write in place (the file is bind-mounted into pods); False if it was the same already."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    data = text.encode()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.pread(file, len(data) + 1, 0) == data:
            return False
        os.pwrite(file, data, 0)
        os.ftruncate(file, len(data))
        return True
    finally:
        os.close(file)
