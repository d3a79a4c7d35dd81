"""Where an address belongs: what the first judge is told is what the compiled maps say."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from fimbria.compile.delta import CIDR, IPCACHE
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import Direction, Identity, IdentityScope
from fimbria.datapath.lookup import cidr_lookup, ipcache_lookup
from fimbria.model.identity import RESERVED, world
from fimbria.model.peers import Cidr, Prefix
from fimbria.model.policy import Action, Peer, Policy, PolicyKey, Rule, Spec
from fimbria.model.selector import EVERYTHING

if TYPE_CHECKING:
    from fimbria.model.labels import Labels

BASES = {4: bytes([10, 0, 0, 0]), 16: bytes([0xFD]) + bytes(15)}


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    """Prefixes in a space of 64 addresses per family, or around it."""
    size = draw(st.sampled_from([4, 4, 16]))
    bits = draw(st.sampled_from([0, 8, *range(size * 8 - 6, size * 8 + 1)]))
    host = size * 8 - bits
    number = int.from_bytes(BASES[size], "big") + draw(st.integers(0, 63))
    return Prefix((number >> host << host).to_bytes(size, "big"), bits)


addresses = prefixes().map(
    lambda net: (int.from_bytes(net.ip, "big") | 5).to_bytes(len(net.ip), "big")
)


@st.composite
def cidr(draw: st.DrawFn) -> Cidr:
    """A prefix less some of what it covers."""
    net = draw(prefixes())
    outs = draw(st.lists(prefixes(), max_size=3))
    return Cidr(net, tuple(out for out in outs if net.covers(out)))


labels: st.SearchStrategy[Labels] = st.sampled_from([(), ("node:a=1",), ("node:a=2",)])
groups = st.lists(st.lists(cidr(), min_size=1, max_size=4), max_size=4)


@st.composite
def states(draw: st.DrawFn) -> ClusterState:
    """Nodes, pods and kube-apiserver at addresses that collide; policies come later."""
    config = NodeConfig(
        ipv4=True,
        ipv6=draw(st.booleans()),
        kube_apiserver=draw(st.frozensets(addresses, max_size=2)),
        cidr_match=draw(st.frozensets(st.sampled_from(["nodes", "pods"]))),
        node_labels=draw(st.booleans()),
    )
    state = ClusterState("n0", config)
    state.identities.put(300, ("k8s:app=web",))
    for index in range(draw(st.integers(0, 3))):
        state.nodes.put(f"n{index}", draw(nodes(f"n{index}")))
    for number, ip in enumerate(draw(st.lists(addresses, max_size=3)), 1):
        four, six = (ip, None) if len(ip) == 4 else (None, ip)
        identity = draw(st.sampled_from([0, 300]))
        state.local.put(
            number, LocalEndpoint(number, number, bytes(6), bytes(6), four, six, identity)
        )
    for ip in draw(st.lists(addresses, max_size=3)):
        state.remote.put(ip, RemoteEndpoint(ip, draw(st.sampled_from([300, 301]))))
    return state


@st.composite
def nodes(draw: st.DrawFn, name: str) -> Node:
    """A node with an address or two, and pod CIDRs of any size."""
    ips = draw(st.lists(addresses, max_size=2))
    pods = draw(st.lists(prefixes().filter(lambda net: net.bits > 8), max_size=2))
    return Node(
        name,
        tuple(ip for ip in ips if len(ip) == 4),
        tuple(ip for ip in ips if len(ip) == 16),
        tuple(str(net) for net in pods),
        labels=draw(labels),
    )


def policy(index: int, named: list[Cidr]) -> Policy:
    rule = Rule("r", Direction.INGRESS, Action.ALLOW, tuple(Peer("p", whom) for whom in named))
    key = PolicyKey("NetworkPolicy", "default", f"p{index}")
    return Policy(key, (Spec("spec", EVERYTHING, True, None, (rule,)),))


def check(compiler: Compiler, named: list[Cidr], ip: bytes) -> None:
    """Compare one address: identity, labels, and which CIDRs match it."""
    state, maps = compiler.state, compiler.desired().maps
    config, selectors = state.config, compiler.policies.selectors
    end = state.places().end(ip)
    found = ipcache_lookup(maps[IPCACHE], ip)
    dual = config.ipv4 and config.ipv6
    identity = found.sec_identity if found else world(len(ip) * 8, dual_stack=dual)
    kind = identity & IdentityScope.MASK
    known = selectors.labels(identity)
    assert set(end.labels.labels) == {
        label for label in (known.labels if known else ()) if not label.startswith("cidr:")
    }
    if kind == IdentityScope.CIDR:
        assert end.identity == world(len(ip) * 8, dual_stack=dual)
    elif kind == IdentityScope.NODE:
        assert end.identity in (Identity.REMOTE_NODE, Identity.KUBE_APISERVER)
    else:
        assert end.identity == identity
    other = cidr_lookup(
        maps[CIDR],
        identity,
        ip,
        nodes="nodes" in config.cidr_match,
        pods="pods" in config.cidr_match,
    )
    for whom in named:
        numbers = selectors.identities(whom)
        matched = identity in numbers or (other in numbers and other != 0)
        assert matched == (end.net is not None and whom.covers(end.net)), (whom, end)


@settings(max_examples=100, deadline=None)
@given(states(), groups, groups, st.lists(addresses, min_size=1, max_size=8))
def test_maps_say_where_an_address_belongs(
    state: ClusterState, first: list[list[Cidr]], then: list[list[Cidr]], asked: list[bytes]
) -> None:
    """Identity, labels and matching CIDRs are those that Places gives, as policies change."""
    compiler = Compiler(state, Ids())
    families = (4, 16) if state.config.ipv6 else (4,)
    for stage in (first, then):
        state.policies.replace({(p := policy(i, some)).key: p for i, some in enumerate(stage)})
        compiler.update()
        named = list(chain.from_iterable(stage))
        edges = [net.ip for whom in named for net in (whom.net, *whom.excepts)]
        for ip in (*asked, *edges):
            if len(ip) in families:
                check(compiler, named, ip)
        fresh = Compiler(state, Ids())
        fresh.update()
        for name in (IPCACHE, CIDR):
            assert compiler.desired().maps[name] == fresh.desired().maps[name]


def test_reserved_labels_are_the_models() -> None:
    """A node without labels of its own has the labels of its kind."""
    state = ClusterState("n0")
    state.nodes.put("n1", Node("n1", (bytes([10, 0, 0, 9]),)))
    end = state.places().end(bytes([10, 0, 0, 9]))
    assert end.labels.labels == RESERVED[Identity.REMOTE_NODE]
    assert end.net is None
