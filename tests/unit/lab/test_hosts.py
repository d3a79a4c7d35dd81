"""The hosts file that pods get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.lab import hosts
from fimbria.lab.hosts import Name

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    Name("pod", "default", "a", ("10.0.0.1", "fd00::1")),
    Name("pod", "other", "a", ("10.0.0.2",)),
    Name("service", "default", "web", ("10.0.0.1",)),
    Name("node", "", "node1", ("172.18.0.2",)),
]


def resolve(text: str, name: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if name in line.split()[1:]]


def test_short_names_are_the_readers_own() -> None:
    """A short name means a pod of the reader's namespace; long names mean the same for all."""
    for namespace, address in (("default", "10.0.0.1"), ("other", "10.0.0.2")):
        text = hosts.render(NAMES, namespace)
        assert resolve(text, "a")[0] == address
        assert resolve(text, "a.other") == ["10.0.0.2"]


def test_services_have_their_dns_names() -> None:
    """A service is found by all names that cluster DNS would give it, in its namespace by one."""
    text = hosts.render(NAMES, "default")
    for name in ("web", "web.default", "web.default.svc", "web.default.svc.cluster.local"):
        assert resolve(text, name) == ["10.0.0.1"]
    assert resolve(hosts.render(NAMES, "other"), "web") == []


def test_order_of_names_does_not_matter() -> None:
    """The same names give the same text."""
    assert hosts.render(NAMES, "x") == hosts.render(NAMES[::-1], "x")


def test_written_in_place(tmp_path: Path) -> None:
    """The file keeps its inode, since pods have it mounted, and shrinks when the text does."""
    path = tmp_path / "hosts" / "default"
    assert hosts.write(path, "long text\n")
    inode = path.stat().st_ino
    assert hosts.write(path, "short\n")
    assert not hosts.write(path, "short\n")
    assert (path.read_text(), path.stat().st_ino) == ("short\n", inode)
