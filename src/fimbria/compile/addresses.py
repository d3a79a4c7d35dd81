"""Everything that is kept by address: endpoints, ipcache, CIDRs, nodes, routes; row by row.

Work is proportional to what changed: each changed row names the addresses that it had and has, and
only these are decided again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from fimbria.compile import endpoints, ipcache, nodes
from fimbria.compile.delta import CIDR, DEVICES, IPCACHE, LXC, NODES, Store
from fimbria.compile.ipcache import Values
from fimbria.compile.prefixes import PrefixSet
from fimbria.compile.state import pod_cidrs
from fimbria.model.peers import Prefix, host_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.compile.cidrs import Cidrs
    from fimbria.compile.nodeids import NodeIdentities
    from fimbria.compile.state import ClusterState, LocalEndpoint, Node

K = TypeVar("K")
V = TypeVar("V", int, str)


class _Index(Generic[K, V]):
    """Who claims a key; the greatest claimant has it."""

    def __init__(self) -> None:
        self._claims: dict[K, V | set[V]] = {}

    def add(self, key: K, claimant: V) -> None:
        have = self._claims.get(key)
        if have is None or have == claimant:
            self._claims[key] = claimant
        elif isinstance(have, set):
            have.add(claimant)
        else:
            self._claims[key] = {have, claimant}

    def discard(self, key: K, claimant: V) -> None:
        have = self._claims.get(key)
        if isinstance(have, set):
            have.discard(claimant)
            if len(have) == 1:
                self._claims[key] = have.pop()
        elif have == claimant:
            del self._claims[key]

    def get(self, key: K) -> V | None:
        have = self._claims.get(key)
        return max(have) if isinstance(have, set) else have


class Addresses:
    """Keeps `store` up to date with the state's endpoints, remote pods and nodes, and with `cidrs`.

    `node_ids` must have taken up what changed before.
    """

    def __init__(
        self, state: ClusterState, store: Store, cidrs: Cidrs, node_ids: NodeIdentities
    ) -> None:
        self._state = state
        self._store = store
        self._prefixes = cidrs
        self._node_ids = node_ids
        self._values = Values(state.config)
        self._locals: dict[int, LocalEndpoint] = {}
        self._nodes: dict[str, Node] = {}
        self._local_ips: _Index[bytes, int] = _Index()
        self._devices: _Index[int, int] = _Index()
        self._node_ips: _Index[bytes, str] = _Index()
        self._cidrs: _Index[Prefix, str] = _Index()
        self._pods = PrefixSet()
        """Pod CIDRs of all nodes."""
        self._own: frozenset[bytes] = frozenset()
        self._special: set[bytes] = set()
        """Addresses of this node's endpoints and of nodes, now or before."""

    def update(self, local: Iterable[int], remote: Iterable[bytes], names: Iterable[str]) -> None:
        """Take up changed rows, given by their keys, and the prefixes that changed."""
        dirty = set(remote)
        prefixes = self._prefixes.take_prefixes()
        for prefix in prefixes:
            number = self._prefixes.match_identity(prefix)
            value = None if number is None else ipcache.cidr_value(number)
            self._store.set(CIDR, ipcache.key(*prefix), value)
        for name in sorted(names):
            dirty |= self._node(name, prefixes)
        for number in sorted(local):
            dirty |= self._local(number)
        for prefix in prefixes:
            if prefix.bits < len(prefix.ip) * 8:
                self._store.set(IPCACHE, ipcache.key(*prefix), self._around(prefix))
            else:
                dirty.add(prefix.ip)
        for ip in dirty:
            self._decide(ip)

    def _local(self, number: int) -> set[bytes]:
        """Take up a local endpoint; return the addresses that it concerns."""
        old, new = self._locals.pop(number, None), self._state.local.get(number)
        config, store = self._state.config, self._store
        if old is not None:
            for ip in old.addresses:
                self._local_ips.discard(ip, number)
            self._devices.discard(old.ifindex, number)
        if new is not None:
            self._locals[number] = new
            for ip in new.addresses:
                self._local_ips.add(ip, number)
            if new.ifindex:
                self._devices.add(new.ifindex, number)
        for row in (old, new):
            if row is not None and row.ifindex:
                owner = self._devices.get(row.ifindex)
                value = None if owner is None else endpoints.device_value(self._locals[owner])
                store.set(DEVICES, endpoints.device_key(row), value)
        store.set_routes(
            nodes.endpoint_routes(old, config) if old else set(),
            nodes.endpoint_routes(new, config) if new else set(),
        )
        return {ip for row in (old, new) if row is not None for ip in row.addresses}

    def _node(self, name: str, prefixes: set[Prefix]) -> set[bytes]:
        """Take up a node; return the addresses that it concerns, add the prefixes to `prefixes`."""
        old, new = self._nodes.pop(name, None), self._state.nodes.get(name)
        config = self._state.config
        own = name == self._state.self_name
        before, after = set(old.addresses if old else ()), set(new.addresses if new else ())
        for ip in before:
            self._node_ips.discard(ip, name)
        for ip in after:
            self._node_ips.add(ip, name)
        gone = set(pod_cidrs(old, config) if old else ())
        come = set(pod_cidrs(new, config) if new else ())
        for prefix in gone:
            self._cidrs.discard(prefix, name)
            if self._cidrs.get(prefix) is None:
                self._pods.remove(prefix)
        for prefix in come:
            if self._cidrs.get(prefix) is None:
                self._pods.add(prefix)
            self._cidrs.add(prefix, name)
        for prefix in gone | come:
            prefixes.add(prefix)
            prefixes.update(self._prefixes.prefixes.inside(prefix))
        if new is not None:
            self._nodes[name] = new
        self._store.set_routes(
            nodes.node_routes(old, config, own=own) if old else set(),
            nodes.node_routes(new, config, own=own) if new else set(),
        )
        if not own:
            return before | after
        self._own = frozenset(after)
        return before | after | set(self._state.remote)

    def _decide(self, ip: bytes) -> None:
        """Set what the maps say about one address."""
        state, values = self._state, self._values
        endpoint = self._local_ips.get(ip)
        name = self._node_ips.get(ip)
        node = self._nodes[name] if name is not None else None
        local = self._locals[endpoint] if endpoint is not None else None
        lxc = info = None
        if ip in self._own:
            lxc, info = endpoints.HOST, values.host()
        elif ip in state.config.kube_apiserver:
            if node is not None:
                number = self._node_ids.number(node, apiserver=True)
            else:
                number = self._prefixes.identity(host_prefix(ip))
            info = None if number is None else values.direct(number)
        elif local is not None:
            lxc, info = endpoints.lxc_value(local), values.local(local)
        elif node is not None:
            info = values.node(node, ip, self._node_ids.number(node, apiserver=False))
        else:
            row = state.remote.get(ip)
            info = values.remote(row, self._own) if row else self._around(host_prefix(ip))
        self._store.set(IPCACHE, ipcache.key(ip), info)
        if local is None and node is None and ip not in self._special:
            return
        self._special.add(ip)
        self._store.set(LXC, endpoints.lxc_key(ip), lxc)
        known = nodes.node_value(node) if node is not None and ip not in self._own else None
        self._store.set(NODES, nodes.node_key(ip), known)

    def _around(self, prefix: Prefix) -> bytes | None:
        """Return what the ipcache says about a prefix as such: a pod CIDR, or one that rules name.

        The world needs no row.
        """
        name = self._cidrs.get(prefix)
        if name is not None:
            node = None if name == self._state.self_name else self._nodes[name]
            return self._values.pods(node, len(prefix.ip) * 8)
        number = self._prefixes.identity(prefix) if prefix.bits else None
        if number is None or next(self._pods.around(prefix), None) is not None:
            return None
        return self._values.direct(number)
