"""Which ports the pods of an identity name, counted, because a name means what it means at the pod.

Pods of one identity may name different ports; a rule towards the identity names all of them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fimbria.compile import endpoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fimbria.compile.state import ClusterState
    from fimbria.model.policy import NamedPort

_Names = tuple[int, "tuple[NamedPort, ...]"]
"""An endpoint's identity and the ports that it names."""


class PortNames:
    """Named ports by identity, kept up with the endpoints of the cluster."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._counts: dict[int, Counter[NamedPort]] = {}
        self._endpoints: dict[int | bytes, _Names] = {}

    @property
    def by_identity(self) -> Mapping[int, Mapping[NamedPort, int]]:
        """Return the live named ports, with how many endpoints name each."""
        return self._counts

    def update(self, local: Iterable[int], remote: Iterable[bytes]) -> set[int]:
        """Take up changed endpoints; return the identities whose names may have changed."""
        changed: set[int] = set()
        for number in local:
            row = self._state.local.get(number)
            names = (endpoints.identity_of(row), row.named_ports) if row else None
            changed |= self._put(number, names)
        for ip in remote:
            other = self._state.remote.get(ip)
            changed |= self._put(ip, (other.identity, other.named_ports) if other else None)
        return changed

    def _put(self, key: int | bytes, new: _Names | None) -> set[int]:
        old = self._endpoints.get(key)
        if new is not None and not new[1]:
            new = None
        if old == new:
            return set()
        if old is not None:
            del self._endpoints[key]
            self._count(*old, -1)
        if new is not None:
            self._endpoints[key] = new
            self._count(*new, 1)
        return {row[0] for row in (old, new) if row is not None}

    def _count(self, identity: int, ports: tuple[NamedPort, ...], change: int) -> None:
        counts = self._counts.setdefault(identity, Counter())
        for port in set(ports):
            counts[port] += change
            if not counts[port]:
                del counts[port]
        if not counts:
            del self._counts[identity]
