"""The addresses that a node knows: whose they are, and who said so."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

from fimbria.agent.endpoints import Endpoints
from fimbria.agent.policyview import PolicyView
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, Node, NodeConfig
from fimbria.datapath.abi import Identity, IdentityScope

OWN, OTHER, OUTSIDE = (ip_address(f"172.18.0.{n}").packed for n in (2, 3, 9))


def view(server: bytes) -> dict[str, dict[str, Any]]:
    """The addresses by prefix, as a node of two sees them."""
    state = ClusterState("one", NodeConfig(kube_apiserver=frozenset({server})))
    state.nodes.put("one", Node("one", (OWN,)))
    state.nodes.put("two", Node("two", (OTHER,)))
    compiler = Compiler(state, Ids())
    compiler.update()
    cluster, applier = SimpleNamespace(state=state), SimpleNamespace(compiler=compiler)
    made = PolicyView(cast("Any", cluster), cast("Any", applier), Endpoints())
    return {one["cidr"]: one for one in made.addresses()}


def test_an_api_server_that_is_a_node() -> None:
    """It is the node with one more label."""
    found = view(OTHER)
    assert set(found) == {"172.18.0.2/32", "172.18.0.3/32"}
    row = found["172.18.0.3/32"]
    assert (row["identity"], row["source"]) == (Identity.KUBE_APISERVER, "kube-apiserver")
    assert found["172.18.0.2/32"]["source"] == "local"


def test_an_api_server_outside_the_cluster() -> None:
    """It has an identity of this node's own, though no rule names its address."""
    row = view(OUTSIDE)["172.18.0.9/32"]
    assert row["identity"] & IdentityScope.MASK == IdentityScope.CIDR
    assert row["source"] == "kube-apiserver"
