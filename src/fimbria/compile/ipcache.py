"""Rows of cilium_ipcache: what an address is, and where it lives.

Several sources can say something about one address; the order of precedence is the node itself,
kube-apiserver, pods of this node, other nodes, pods of other nodes, pod CIDRs, prefixes that rules
name. A kube-apiserver that is no node is outside the cluster, and has the identity of a prefix. Pod
CIDRs catch addresses whose pod is not known yet: identity world, so that they get no more than
that, but with the tunnel they would need. No prefix inside a pod CIDR has a row, so that no rule by
CIDR matches what the cluster may give to a pod.

cilium_cidr has all prefixes that rules name, for rules by CIDR that may match the cluster's own
addresses (policy-cidr-match-mode); it is empty without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.compile.endpoints import address_key, identity_of
from fimbria.datapath.abi import CidrInfo, Identity, IpcacheInfo, IpcacheKey
from fimbria.model.identity import world

if TYPE_CHECKING:
    from fimbria.compile.state import LocalEndpoint, Node, NodeConfig, RemoteEndpoint

STATIC_BITS = 32
"""Bits of a key before the address: cluster id, padding, family."""


def key(ip: bytes, bits: int | None = None) -> bytes:
    """Return the key of an address, or of a prefix of `bits`."""
    padded, family = address_key(ip)
    length = STATIC_BITS + (len(ip) * 8 if bits is None else bits)
    return IpcacheKey(prefixlen=length, family=family, ip=padded).pack()


def value(identity: int, tunnel: bytes = b"") -> bytes:
    """Return a value; `tunnel` is a packed IPv4 address or empty."""
    endpoint = int.from_bytes(tunnel, "big") if len(tunnel) == 4 else 0
    return IpcacheInfo(sec_identity=identity, tunnel_endpoint=endpoint).pack()


def cidr_value(identity: int) -> bytes:
    """Return a prefix's value in cilium_cidr."""
    return CidrInfo(identity=identity).pack()


class Values:
    """Values by what they say: the same few occur ten thousands of times, so they are shared."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._made: dict[tuple[int, bytes], bytes] = {}

    def _value(self, identity: int, tunnel: bytes | None) -> bytes:
        what = identity, (tunnel or b"") if self._config.tunnel else b""
        made = self._made.get(what)
        if made is None:
            made = self._made[what] = value(*what)
        return made

    def host(self) -> bytes:
        """Return the value of the node's own addresses."""
        return self._value(Identity.HOST, None)

    def direct(self, identity: int) -> bytes:
        """Return the value of what is not behind a tunnel: kube-apiserver, prefixes."""
        return self._value(identity, None)

    def local(self, endpoint: LocalEndpoint) -> bytes:
        """Return the value of a local pod's addresses."""
        return self._value(identity_of(endpoint), None)

    def node(self, node: Node, ip: bytes, identity: int) -> bytes:
        """Return the value of another node's address; its router is behind the tunnel."""
        return self._value(identity, node.tunnel_ip if ip in node.routers else None)

    def remote(self, row: RemoteEndpoint, own: frozenset[bytes]) -> bytes:
        """Return the value of a pod's address; `own` are this node's, to which no tunnel leads."""
        return self._value(row.identity, None if row.node_ip in own else row.node_ip)

    def pods(self, node: Node | None, bits: int) -> bytes:
        """Return the value of a pod CIDR; `bits` is the family's address length, None this node."""
        config = self._config
        number = world(bits, dual_stack=config.ipv4 and config.ipv6)
        return self._value(number, None if node is None else node.tunnel_ip)
