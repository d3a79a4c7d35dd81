"""Random clusters: pods with labels, policies as manifests; small enough to collide often.

Few names and few values on purpose: what matters is that selectors select some but not all, that
rules overlap, that ranges nest, and that denials meet allowances of every shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fimbria.compile.state import ClusterState, LocalEndpoint, NodeConfig, RemoteEndpoint
from fimbria.model.labels import pod_labels
from fimbria.model.policy import Policy, Protocol
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import Mode

NAMESPACES = {"red": {"env": "prod"}, "blue": {"env": "test", "team": "b"}}
LABELS = {"app": ("web", "db", "log"), "tier": ("x", "y")}
NAMES = ("http", "dns")
ENTITIES = ("all", "world", "host", "remote-node", "kube-apiserver", "cluster", "init", "none")
PORTS = (1, 53, 79, 80, 81, 88, 443, 8080, 32768, 65535)


@dataclass(frozen=True)
class PodRow:
    """A pod as the cluster knows it."""

    labels: tuple[str, ...]
    identity: int
    named: tuple[tuple[str, int, int], ...]


@dataclass
class Cluster:
    """One case: the first `local` pods run on this node."""

    pods: list[PodRow]
    local: int
    policies: list[dict[str, Any]]
    mode: Mode = Mode.DEFAULT

    def parsed(self) -> list[Policy]:
        """The policies as values."""
        return [parse_policy(document) for document in self.policies]

    def state(self) -> ClusterState:
        """The state of the node."""
        state = ClusterState("n", NodeConfig(enforcement=self.mode))
        for number, pod in enumerate(self.pods, 1):
            state.identities.put(pod.identity, pod.labels)
            put_pod(state, number, pod, local=number <= self.local)
        for policy in self.parsed():
            state.policies.put(policy.key, policy)
        return state


def put_pod(state: ClusterState, number: int, pod: PodRow, *, local: bool) -> None:
    """Put a pod into a state, as one of this node or of another."""
    ip = bytes([10, 0, 1 if local else 2, number])
    if local:
        row = LocalEndpoint(
            number, 10 + number, bytes(6), bytes(6), ip, None, pod.identity, pod.named
        )
        state.local.put(number, row)
    else:
        state.remote.put(ip, RemoteEndpoint(ip, pod.identity, bytes([172, 18, 0, 2]), pod.named))


namespaces = st.sampled_from(["red", "red", "red", "blue"])
labels = st.fixed_dictionaries(
    {"app": st.sampled_from(LABELS["app"])}, optional={"tier": st.sampled_from(LABELS["tier"])}
)
named_ports = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([Protocol.TCP, Protocol.UDP]).map(int),
        st.sampled_from([53, 80, 8080]),
    ),
    max_size=2,
    unique=True,
).map(tuple)


@st.composite
def pods(draw: st.DrawFn) -> list[PodRow]:
    """One to six pods; equal labels have equal identities."""
    numbers: dict[tuple[str, ...], int] = {}
    found: list[PodRow] = []
    for _ in range(draw(st.integers(1, 6))):
        namespace = draw(namespaces)
        texts = pod_labels(draw(labels), namespace, NAMESPACES[namespace], "default", "default")
        number = numbers.setdefault(texts, 300 + len(numbers))
        found.append(PodRow(texts, number, draw(named_ports)))
    return found


def label_selectors(keys: dict[str, tuple[str, ...]]) -> st.SearchStrategy[dict[str, Any]]:
    """Selectors over some keys, with all four operators; half of them select everything."""

    def expression(key: str) -> st.SearchStrategy[dict[str, Any]]:
        values = st.lists(st.sampled_from(keys[key]), min_size=1, max_size=2)
        return st.one_of(
            st.builds(
                lambda operator, v: {"key": key, "operator": operator, "values": v},
                st.sampled_from(["In", "NotIn"]),
                values,
            ),
            st.sampled_from(["Exists", "DoesNotExist"]).map(
                lambda operator: {"key": key, "operator": operator}
            ),
        )

    match = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in keys.items()})
    expressions = st.lists(st.sampled_from(sorted(keys)).flatmap(expression), max_size=1)
    return st.one_of(
        st.just({}),
        st.builds(
            lambda m, e: ({"matchLabels": m} if m else {}) | ({"matchExpressions": e} if e else {}),
            match,
            expressions,
        ),
    )


selectors = label_selectors(LABELS)
namespaced = st.builds(
    lambda chosen, namespace: {
        **chosen,
        "matchLabels": {**chosen.get("matchLabels", {}), **namespace},
    },
    selectors,
    st.one_of(
        st.sampled_from(sorted(NAMESPACES)).map(lambda n: {"k8s:io.kubernetes.pod.namespace": n}),
        st.sampled_from(["prod", "test"]).map(
            lambda env: {"k8s:io.cilium.k8s.namespace.labels.env": env}
        ),
    ),
)
reserved_peers: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    ["reserved:host", "reserved:world", "reserved:remote-node"]
).map(lambda key: {"matchExpressions": [{"key": key, "operator": "Exists"}]})
peers: st.SearchStrategy[dict[str, Any]] = st.one_of(selectors, namespaced, reserved_peers)


@st.composite
def cilium_port(draw: st.DrawFn) -> dict[str, Any]:
    """A port of a Cilium rule: number, range, name, or all of a protocol."""
    protocol = draw(st.sampled_from(["TCP", "TCP", "UDP", "SCTP", "ANY", None]))
    port: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
    kind = draw(st.sampled_from(["number", "number", "range", "range", "name", "all"]))
    if kind == "name":
        port["port"] = draw(st.sampled_from(NAMES))
    elif kind == "all":
        port["port"] = "0"
    else:
        first = draw(st.sampled_from(PORTS))
        port["port"] = str(first)
        if kind == "range":
            port["endPort"] = draw(st.integers(first, 65535))
    return port


icmp_field: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from([0, 8, "EchoRequest"]).map(lambda t: {"family": "IPv4", "type": t}),
    st.sampled_from([128, "EchoReply"]).map(lambda t: {"family": "IPv6", "type": t}),
)


@st.composite
def cilium_rule(draw: st.DrawFn, end: str) -> dict[str, Any]:
    """One rule of a section; `end` is from or to."""
    rule: dict[str, Any] = {}
    few = draw(st.sampled_from([0, 1, 1, 1, 2]))
    kind = draw(st.sampled_from(["endpoints", "endpoints", "entities", "anyone"]))
    if kind == "endpoints":
        rule[f"{end}Endpoints"] = draw(st.lists(peers, min_size=few, max_size=few))
    elif kind == "entities":
        names = st.sampled_from(ENTITIES)
        rule[f"{end}Entities"] = draw(st.lists(names, min_size=few, max_size=few))
    kind = draw(st.sampled_from(["ports", "ports", "ports", "icmps", "none"]))
    if kind == "ports":
        ports = st.lists(cilium_port(), min_size=1, max_size=2).map(lambda p: {"ports": p})
        rule["toPorts"] = draw(st.lists(ports, min_size=1, max_size=2))
    elif kind == "icmps":
        rule["icmps"] = [{"fields": draw(st.lists(icmp_field, min_size=1, max_size=2))}]
    return rule


@st.composite
def cilium_spec(draw: st.DrawFn) -> dict[str, Any]:
    """A spec with at least one section."""
    spec: dict[str, Any] = {"endpointSelector": draw(selectors)}
    sections = st.sets(
        st.sampled_from(["ingress", "ingressDeny", "egress", "egressDeny"]), min_size=2, max_size=4
    )
    for name in sorted(draw(sections)):
        end = "from" if name.startswith("ingress") else "to"
        spec[name] = draw(st.lists(cilium_rule(end), min_size=1, max_size=3))
    if draw(st.integers(0, 3)) == 0:
        spec["enableDefaultDeny"] = {"ingress": draw(st.booleans()), "egress": draw(st.booleans())}
    return spec


@st.composite
def network_rule(draw: st.DrawFn, end: str) -> dict[str, Any]:
    """One rule of a NetworkPolicy."""
    where = label_selectors({"env": ("prod", "test"), "team": ("a", "b")})
    peer = st.one_of(
        selectors.map(lambda s: {"podSelector": s}),
        where.map(lambda s: {"namespaceSelector": s}),
        st.builds(lambda p, n: {"podSelector": p, "namespaceSelector": n}, selectors, where),
    )
    rule: dict[str, Any] = {}
    if draw(st.booleans()):
        rule[end] = draw(st.lists(peer, max_size=2))
    port = st.builds(
        lambda protocol, what: {**({"protocol": protocol} if protocol else {}), **what},
        st.sampled_from(["TCP", "UDP", "SCTP", None]),
        st.one_of(
            st.just({}),
            st.sampled_from(PORTS).map(lambda n: {"port": n}),
            st.sampled_from(NAMES).map(lambda n: {"port": n}),
            st.integers(80, 65535).map(lambda n: {"port": 80, "endPort": n}),
        ),
    )
    if draw(st.booleans()):
        rule["ports"] = draw(st.lists(port, max_size=2))
    return rule


@st.composite
def network_spec(draw: st.DrawFn) -> dict[str, Any]:
    """The spec of a NetworkPolicy."""
    spec: dict[str, Any] = {"podSelector": draw(selectors)}
    for name, end in (("ingress", "from"), ("egress", "to")):
        if draw(st.booleans()):
            spec[name] = draw(st.lists(network_rule(end), max_size=2))
    if draw(st.booleans()):
        types = st.lists(st.sampled_from(["Ingress", "Egress"]), min_size=1, unique=True)
        spec["policyTypes"] = draw(types)
    return spec


@st.composite
def policy(draw: st.DrawFn, index: int = 0) -> dict[str, Any]:
    """A policy object of any kind; now and then one that must be refused."""
    kind = draw(
        st.sampled_from(["NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"])
    )
    meta = {"name": f"p{index}"}
    if kind != "CiliumClusterwideNetworkPolicy":
        meta["namespace"] = draw(namespaces)
    document: dict[str, Any] = {"kind": kind, "metadata": meta}
    if kind == "NetworkPolicy":
        document["spec"] = draw(network_spec())
    elif draw(st.integers(0, 4)) == 0:
        document["specs"] = draw(st.lists(cilium_spec(), min_size=1, max_size=2))
    else:
        document["spec"] = draw(cilium_spec())
    if draw(st.integers(0, 31)) == 31 and "spec" in document:
        document["spec"]["surprise"] = True
    return document


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """A cluster with pods and policies."""
    rows = draw(pods())
    local = draw(st.integers(1, len(rows)))
    policies = [draw(policy(index)) for index in range(draw(st.sampled_from([3, 2, 4, 1, 5, 0])))]
    mode = draw(st.sampled_from([Mode.DEFAULT] * 6 + [Mode.ALWAYS, Mode.NEVER]))
    return Cluster(rows, local, policies, mode)
