"""Identities of the cluster's nodes.

Without enable-node-selector-labels every other node is remote-node, or kube-apiserver. With it,
every distinct set of node labels has an identity of scope NODE with these labels besides the
reserved ones, and this node's labels are on identity host. Addresses of kube-apiserver that are no
node's are outside the cluster: they have identities of prefixes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.compile.localids import LocalIds
from fimbria.datapath.abi import Identity, IdentityScope
from fimbria.model.identity import RESERVED, node_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.compile.selectors import SelectorCache
    from fimbria.compile.state import ClusterState, Node
    from fimbria.model.labels import Labels


class NodeIdentities:
    """Keeps the identities of nodes in `selectors` up to date with the state's nodes."""

    def __init__(self, state: ClusterState, selectors: SelectorCache[Any]) -> None:
        self._state = state
        self._selectors = selectors
        self._ids = LocalIds(IdentityScope.NODE)
        self._holders: dict[bytes, set[str]] = {}
        """Names of the nodes that have an identity, by its key."""
        self._held: dict[str, frozenset[bytes]] = {}
        self._servers = {ip: set[str]() for ip in sorted(state.config.kube_apiserver)}
        """Names of the nodes that have an address of kube-apiserver."""

    def update(self, names: Iterable[str]) -> set[str]:
        """Take up changed nodes; return them, and those whose identities got another number."""
        found = set(names)
        for name in found:
            node = self._state.nodes.get(name)
            addresses = set(node.addresses) if node is not None else set[bytes]()
            for ip, owners in self._servers.items():
                (owners.add if ip in addresses else owners.discard)(name)
        self._selectors.set_servers(ip for ip, owners in self._servers.items() if not owners)
        if not self._state.config.node_labels:
            return found
        for name in sorted(found):
            node = self._state.nodes.get(name)
            if name == self._state.self_name:
                own = node.labels if node is not None else ()
                self._selectors.put(Identity.HOST, (*RESERVED[Identity.HOST], *own))
                continue
            new = self._wanted(node) if node is not None else frozenset[bytes]()
            old = self._held.pop(name, frozenset[bytes]())
            if new:
                self._held[name] = new
            for key in sorted(new - old):
                found |= self._hold(key, name)
            for key in old - new:
                self._holders[key].discard(name)
        return found

    def settle(self) -> set[str]:
        """Let the identities go that no node has any more, once no address has them.

        Returns the nodes whose identities got another number.
        """
        found: set[str] = set()
        for key in sorted(key for key, names in self._holders.items() if not names):
            del self._holders[key]
            found |= self._renumber(self._ids.remove(key))
        return found

    def number(self, node: Node, *, apiserver: bool) -> int:
        """Return the identity of another node's address; `apiserver`: it is kube-apiserver's."""
        number = self._ids.get(_key(node_labels(node.labels, apiserver=apiserver)))
        if number is not None:
            return number
        return Identity.KUBE_APISERVER if apiserver else Identity.REMOTE_NODE

    def local(self) -> list[tuple[int, Labels]]:
        """Return the identities of scope NODE with their labels, in order."""
        return sorted((number, _labels(key)) for key, number in self._ids.items())

    def _wanted(self, node: Node) -> frozenset[bytes]:
        """Return the keys of the identities that a node's addresses have."""
        special = self._state.config.kube_apiserver
        kinds = {ip in special for ip in node.addresses}
        return frozenset(_key(node_labels(node.labels, apiserver=kind)) for kind in kinds)

    def _hold(self, key: bytes, name: str) -> set[str]:
        names = self._holders.get(key)
        if names is not None:
            names.add(name)
            return set()
        self._holders[key] = {name}
        return self._renumber(self._ids.add(key))

    def _renumber(self, old: dict[bytes, int | None]) -> set[str]:
        """Take up that keys had the numbers `old` before; return the nodes that this concerns."""
        for number in old.values():
            if number is not None:
                self._selectors.remove(number)
        for key in old:
            number = self._ids.get(key)
            if number is not None:
                self._selectors.put(number, _labels(key))
        return {name for key in old for name in self._holders.get(key, ())}


def _key(labels: Labels) -> bytes:
    return "\0".join(labels).encode()


def _labels(key: bytes) -> Labels:
    return tuple(key.decode().split("\0"))
