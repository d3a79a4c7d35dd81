"""What the agent may do, and who may use it: the least that its work takes.

It runs as root with three capabilities, and as the group whose members may use its API: so its
socket and its files belong to that group without anything being changed afterwards.
"""

from __future__ import annotations

import contextlib
import grp
import os

from fimbria.kernel import capabilities
from fimbria.kernel.capabilities import Capability

NEEDED = {
    Capability.NET_ADMIN: "devices, addresses, routes, sysctls of the network, programs on devices",
    Capability.SYS_ADMIN: "entering pods' network namespaces, BPF programs and maps by id, mounting"
    " a BPF file system that is missing",
    Capability.SYS_PTRACE: "opening a pod's namespace that a runtime names by its process"
    " (/proc/PID/ns/net)",
}
UMASK = 0o027


class NotPrivileged(Exception):
    """The agent was started without what it needs; the message says what is missing."""


def confine(group: str) -> None:
    """Give up everything that is not needed; before there is a second thread. NotPrivileged."""
    if lacking := capabilities.missing(NEEDED):
        reasons = "; ".join(f"CAP_{one.name} ({NEEDED[one]})" for one in lacking)
        raise NotPrivileged(f"the agent needs {reasons}")
    os.umask(UMASK)
    number = group_id(group)
    if number is not None and number != os.getegid():
        with contextlib.suppress(PermissionError):  # `text` tells of it
            os.setgroups([])
            os.setgid(number)
    capabilities.keep_only(NEEDED)


def group_id(name: str) -> int | None:
    """Return a group's number, None if there is no such group (or `name` is empty)."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def text(group: str) -> str:
    """Return who may use the API and what the agent may do, for `status`."""
    number = group_id(group)
    who = "root only" if not group else f"root only: there is no group {group}"
    if number is not None:
        who = (
            f"root and group {group}"
            if number == os.getegid()
            else f"root only: the agent could not become group {group}"
        )
    have = [one.name.lower() for one in NEEDED if not capabilities.missing([one])]
    return f"API: {who}   Capabilities: {', '.join(have)}"
