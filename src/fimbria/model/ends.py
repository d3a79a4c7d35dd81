"""From an address to the end of a packet's way that it is, as one node sees it.

This is what the ipcache and cilium_cidr say, read off what the node knows, address by address and
without any prefix that a rule names. Order of precedence: the node itself, kube-apiserver, pods of
this node, other nodes, pods of other nodes; in a pod CIDR the world, without an address that rules
could name; anything else is the world. A kube-apiserver that is no node is part of the world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Identity
from fimbria.model.identity import RESERVED, node_labels, world, world_labels
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Prefix, host_prefix
from fimbria.model.semantics import End

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.model.labels import Labels
    from fimbria.model.policy import NamedPort

WORLDS = (Identity.WORLD, Identity.WORLD_IPV4, Identity.WORLD_IPV6)
NODES = (Identity.HOST, Identity.REMOTE_NODE, Identity.KUBE_APISERVER)
"""Identities of nodes; those by their labels count as the one of their kind."""


@dataclass(frozen=True, slots=True)
class Places:
    """Whose address is whose. Addresses are packed; identities of pods are numbers.

    `own_labels` and the values of `nodes` are the nodes' labels (source "node"); `labels` are those
    of the cluster's identities, `named` the ports that any pod of an identity names. `cidr_match`
    is policy-cidr-match-mode, `node_labels` enable-node-selector-labels.
    """

    own: frozenset[bytes] = frozenset()
    own_labels: Labels = ()
    apiserver: frozenset[bytes] = frozenset()
    local: Mapping[bytes, int] = field(default_factory=dict[bytes, int])
    nodes: Mapping[bytes, Labels] = field(default_factory=dict[bytes, "Labels"])
    remote: Mapping[bytes, int] = field(default_factory=dict[bytes, int])
    pod_cidrs: frozenset[Prefix] = frozenset()
    labels: Mapping[int, Labels] = field(default_factory=dict[int, "Labels"])
    named: Mapping[int, frozenset[NamedPort]] = field(
        default_factory=dict[int, "frozenset[NamedPort]"]
    )
    dual_stack: bool = False
    node_labels: bool = False
    cidr_match: frozenset[str] = frozenset()

    def end(self, ip: bytes) -> End:
        """Return the end that an address is. A node's identity is the one of its kind."""
        identity, labels = self._owner(ip)
        named = self.named.get(identity, frozenset())
        return End(identity, LabelSet(labels), named, self._net(ip, identity))

    def _owner(self, ip: bytes) -> tuple[int, Labels]:
        """Return identity and labels."""
        if ip in self.own:
            own = self.own_labels if self.node_labels else ()
            return Identity.HOST, (*RESERVED[Identity.HOST], *own)
        if ip in self.apiserver:
            return self._server(ip)
        if ip not in self.local and ip in self.nodes:
            node = self.nodes[ip] if self.node_labels else ()
            return Identity.REMOTE_NODE, node_labels(node, apiserver=False)
        number = self.local.get(ip, self.remote.get(ip))
        if number is None:
            number = world(len(ip) * 8, dual_stack=self.dual_stack)
        return number, self.labels.get(number) or RESERVED.get(number, ())

    def _server(self, ip: bytes) -> tuple[int, Labels]:
        """Return identity and labels of an address of the API server that is not this node's."""
        if ip in self.nodes:
            node = self.nodes[ip] if self.node_labels else ()
            return Identity.KUBE_APISERVER, node_labels(node, apiserver=True)
        bits, dual = len(ip) * 8, self.dual_stack
        labels = world_labels(bits, dual_stack=dual, apiserver=True)
        return world(bits, dual_stack=dual), labels

    def _net(self, ip: bytes, identity: int) -> Prefix | None:
        """Return what rules by CIDR see of an address."""
        if identity in WORLDS:
            if ip not in self.apiserver and any(
                net.covers(host_prefix(ip)) for net in self.pod_cidrs
            ):
                return Prefix(bytes(len(ip)), 0)
            return host_prefix(ip)
        kind = "nodes" if identity in NODES else "pods"
        return host_prefix(ip) if identity and kind in self.cidr_match else None
