"""Objects that use the whole policy language, all of them good: what is generated must be accepted.

Every field of every kind turns up; values are few, so that selectors select some pods and not all.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]
SECTIONS = {
    "ingress": ("from", False),
    "ingressDeny": ("from", True),
    "egress": ("to", False),
    "egressDeny": ("to", True),
}


def few(item: Strategy, least: int = 1, most: int = 2) -> Strategy:
    """A short list."""
    return st.lists(item, min_size=least, max_size=most)


def record(required: dict[str, Strategy] | None = None, **optional: Strategy) -> Strategy:
    """A mapping of fields; those in `required` are always there."""
    return st.fixed_dictionaries(required or {}, optional=optional)


def one_of_fields(**fields: Strategy) -> Strategy:
    """A mapping with exactly one of these fields."""
    return st.one_of([record({name: value}) for name, value in fields.items()])


words = st.sampled_from(["a", "web", "x-1"])
keys = st.sampled_from(["app", "tier"])
expressions = st.one_of(
    record({"key": keys, "operator": st.sampled_from(["In", "NotIn"]), "values": few(words)}),
    record({"key": keys, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
)
selectors = record(
    matchLabels=st.dictionaries(keys, st.sampled_from(["web", "db", "x"]), max_size=1),
    matchExpressions=few(expressions, 0, 1),
)
reserved = st.just({"matchLabels": {"reserved:world": ""}})
cidrs = st.sampled_from(["192.0.2.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32", "192.0.2.7/32"])
names = one_of_fields(
    matchName=st.sampled_from(["a.example.com", "Example.com."]),
    matchPattern=st.sampled_from(["*", "*.example.com", "**.b", "a*.c"]),
)
secrets = record({"name": words}, namespace=words)

# Ports and what a proxy reads.
numbers = st.sampled_from(["80", "443", "1", "65535"])
protocols = st.sampled_from(["TCP", "UDP", "SCTP", "ANY", "", "tcp"])
plain_ports = st.one_of(
    record({"port": st.one_of(numbers, st.sampled_from(["0", "http", 80]))}, protocol=protocols),
    record({"port": numbers, "endPort": st.just(65535)}, protocol=protocols),
)


def tcp_ports(*ports: str) -> Strategy:
    """Ports for a proxy; each proxy has its own, because two of them cannot share one."""
    return few(
        record({"port": st.sampled_from(ports), "protocol": st.just("TCP")}, endPort=st.just(0))
    )


http = record(
    path=st.sampled_from(["/a/.*", "/[[:alpha:]]+"]),
    method=st.sampled_from(["GET", "PUT|POST"]),
    host=st.just(r".*\.example\.com"),
    headers=few(st.sampled_from(["X-A", "X-A: b"])),
    headerMatches=few(
        record({"name": words}, value=words, secret=secrets, mismatch=st.sampled_from(["LOG"]))
    ),
)
kafka = st.one_of(
    record(role=st.just("produce"), topic=words, clientID=words),
    record(apiKey=st.just("fetch"), apiVersion=st.just("1")),
)
r2d2 = record({"l7proto": st.just("r2d2")}, l7=few(st.dictionaries(words, words, max_size=1)))
contexts = record({"secret": secrets}, trustedCA=words, certificate=words, privateKey=words)
listeners = record({
    "envoyConfig": record(
        {"name": st.just("c"), "kind": st.just("CiliumEnvoyConfig")}), "name": st.just("l"),
}, priority=st.integers(1, 100))  # fmt: skip


def port_rules(*, egress: bool, deny: bool, host: bool) -> Strategy:
    """An item of toPorts."""
    found = [record({"ports": few(plain_ports)})]
    if not deny and not host:
        tls: dict[str, Strategy] = {"terminatingTLS": contexts, "originatingTLS": contexts}
        found += [
            record({"ports": tcp_ports("80", "http"), "rules": record({"http": few(http)})}, **tls),
            record({"ports": tcp_ports("9092"), "rules": record({"kafka": few(kafka)})}, **tls),
            record({"ports": tcp_ports("1", "2"), "rules": r2d2}, **tls),
            record({"ports": tcp_ports("80", "443")}, serverNames=few(words), **tls),
        ]
    if egress and not deny:
        dns = record({"port": st.just("53")}, protocol=st.sampled_from(["UDP", "ANY", "TCP"]))
        found.append(record({"ports": few(dns), "rules": record({"dns": few(names)})}))
        if not host:
            found.append(record({"ports": tcp_ports("65535"), "listener": listeners}))
    return st.one_of(found)


icmps = record({"fields": few(st.one_of(
    record({"type": st.sampled_from([8, "0", "EchoRequest"])}, family=st.just("IPv4")),
    record({"type": st.sampled_from([128, "EchoReply"]), "family": st.just("IPv6")}),
))})  # fmt: skip
blocks = record({"cidr": st.just("192.0.2.0/24")}, **{"except": few(st.just("192.0.2.0/28"))})
sets = st.one_of(
    blocks,
    record({"cidrGroupRef": words}, **{"except": few(cidrs)}),
    record({"cidrGroupSelector": selectors}),
)
services = one_of_fields(
    k8sService=record({"serviceName": words}, namespace=st.sampled_from(["", "red"])),
    k8sServiceSelector=record({"selector": selectors}, namespace=st.just("blue")),
)
entities = st.sampled_from(["all", "world", "cluster", "host", "none", "kube-apiserver"])


@st.composite
def cilium_rules(draw: st.DrawFn, section: str, host: bool) -> dict[str, Any]:
    """A rule of a section."""
    end, deny = SECTIONS[section]
    peers: dict[str, Strategy] = {
        f"{end}Endpoints": st.one_of(selectors, reserved), f"{end}CIDR": cidrs,
        f"{end}CIDRSet": sets, f"{end}Entities": entities, f"{end}Nodes": selectors,
    }  # fmt: skip
    if end == "to":
        peers["toServices"] = services
        if not deny:
            peers["toFQDNs"] = names
    rule: dict[str, Any] = {}
    if draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(peers)))
        rule[name] = draw(few(peers[name], 0))
    what = draw(st.sampled_from(["toPorts", "toPorts", "icmps", ""]))
    if what == "toPorts":
        ports = port_rules(egress=end == "to", deny=deny, host=host)
        rule["toPorts"] = draw(few(ports, 0))
    elif what == "icmps":
        rule["icmps"] = draw(few(icmps, 0))
    if not deny and draw(st.booleans()):
        rule["authentication"] = {"mode": "disabled"}
    return rule


@st.composite
def cilium_specs(draw: st.DrawFn, clusterwide: bool) -> dict[str, Any]:
    """A spec about pods, or now and then about nodes."""
    host = clusterwide and draw(st.integers(0, 3)) == 0
    spec: dict[str, Any] = {"nodeSelector" if host else "endpointSelector": draw(selectors)}
    for name in sorted(draw(st.sets(st.sampled_from(sorted(SECTIONS)), min_size=1))):
        spec[name] = draw(few(cilium_rules(name, host)))
    extra = record(
        description=words,
        labels=few(record(key=words)),
        log=record(value=words),
        enableDefaultDeny=record(ingress=st.booleans(), egress=st.booleans()),
    )
    return {**spec, **draw(extra)}


network_ports = st.one_of(
    record(protocol=st.sampled_from(["TCP", "UDP", "SCTP"])),
    record({"port": st.sampled_from([80, "http"])}),
    record({"port": st.just(80), "endPort": st.just(81)}),
)
network_peers = st.one_of(
    record({"podSelector": selectors}, namespaceSelector=selectors),
    record({"namespaceSelector": selectors}),
    record({"ipBlock": blocks}),
)
network_specs = record(
    {"podSelector": selectors},
    ingress=few(record({}, **{"from": few(network_peers, 0), "ports": few(network_ports, 0)}), 0),
    egress=few(record(to=few(network_peers, 0), ports=few(network_ports, 0)), 0),
    policyTypes=st.sampled_from([[], ["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
)

destinations = record({"destinationPort": one_of_fields(
    number=st.just(80), range=st.just({"start": 80, "end": 90}))})  # fmt: skip
cluster_ports: dict[str, Strategy] = {
    "protocols": few(one_of_fields(tcp=destinations, udp=destinations, sctp=destinations)),
    "ports": few(one_of_fields(
        portNumber=st.just({"protocol": "TCP", "port": 80}),
        portRange=st.just({"protocol": "UDP", "start": 1, "end": 65535}),
    )),
}  # fmt: skip
cluster_pods = one_of_fields(
    namespaces=selectors, pods=record({"podSelector": selectors}, namespaceSelector=selectors)
)
networks = record({"networks": few(cidrs)})
domains = record({"domainNames": few(st.sampled_from(["*.example.com", "a.b"]))})
nodes = record({"nodes": selectors})


@st.composite
def cluster_rules(draw: st.DrawFn, end: str) -> dict[str, Any]:
    """A rule of a ClusterNetworkPolicy."""
    action = draw(st.sampled_from(["Accept", "Deny", "Pass"]))
    others = [networks, nodes, *([domains] if action == "Accept" else [])] if end == "to" else []
    rule = {"action": action, end: draw(few(st.one_of(cluster_pods, *others)))}
    form = draw(st.sampled_from(["protocols", "ports", ""]))
    if form:
        rule[form] = draw(cluster_ports[form])
    return {**rule, **draw(record(name=words))}


cluster_specs = record(
    {
        "tier": st.sampled_from(["Admin", "Baseline"]),
        "priority": st.integers(0, 1000),
        "subject": cluster_pods,
    },
    ingress=few(cluster_rules("from"), 0),
    egress=few(cluster_rules("to"), 0),
)


@st.composite
def objects(draw: st.DrawFn, index: int = 0) -> dict[str, Any]:
    """A good object of any kind; it is nobody else's, so it may be changed."""
    kinds = ("NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy",
             "ClusterNetworkPolicy")  # fmt: skip
    kind = draw(st.sampled_from(kinds))
    meta: dict[str, Any] = {"name": f"p{index}"}
    if kind in kinds[:2]:
        meta["namespace"] = draw(st.sampled_from(["red", "blue"]))
    document: dict[str, Any] = {"kind": kind, "metadata": meta}
    if kind == "NetworkPolicy":
        document["spec"] = draw(network_specs)
    elif kind == "ClusterNetworkPolicy":
        document["spec"] = draw(cluster_specs)
    elif draw(st.integers(0, 3)):
        document["spec"] = draw(cilium_specs(kind.startswith("CiliumCluster")))
    else:
        document["specs"] = draw(few(cilium_specs(kind.startswith("CiliumCluster"))))
    return document
