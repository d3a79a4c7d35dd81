"""Scenarios: whom a rule of a CiliumNetworkPolicy means: labels, namespaces, entities."""

from __future__ import annotations

from fimbria.connectivity.model import (
    ALLOW,
    EGRESS_DENIED,
    INGRESS_DENIED,
    check,
    single,
)
from fimbria.connectivity.policies import (
    CLIENT,
    ECHO,
    NAMESPACE_LABEL,
    OTHER,
    cnp,
    cnp_specs,
    labels,
)

CLIENTS = "client client2 client3"

ECHOES = "echo-same echo-other"


def expression(key: str, operator: str, *values: str) -> dict[str, object]:
    """Return a selector with one expression."""
    one: dict[str, object] = {"key": key, "operator": operator}
    return {"matchExpressions": [{**one, "values": list(values)} if values else one]}


PEERS = (
    single(
        "client-ingress",
        "pods with a label may come in, no other",
        cnp("client-ingress", ECHO, ingress=[{"fromEndpoints": [labels(other="client")]}]),
        check("client2", ECHOES, "8080 8053/udp icmp", ALLOW),
        check("client client3 stranger", ECHOES, "8080 icmp", INGRESS_DENIED),
    ),
    single(
        "client-egress",
        "pods may go out to pods with a label of their own namespace, nowhere else",
        cnp("client-egress", CLIENT, egress=[{"toEndpoints": [labels(**ECHO)]}]),
        check(CLIENTS, ECHOES, "8080 8053/udp icmp", ALLOW),
        check(CLIENTS, "stranger-echo", "8080", EGRESS_DENIED),
        check("client", "host remote-host", "icmp", EGRESS_DENIED),
    ),
    single(
        "client-egress-and-echo-ingress",
        "both ends must agree",
        (
            cnp("both-egress", CLIENT, egress=[{"toEndpoints": [labels(**ECHO)]}]),
            cnp("both-ingress", ECHO, ingress=[{"fromEndpoints": [labels(name="client")]}]),
        ),
        check("client", ECHOES, "8080", ALLOW),
        check("client2 client3", ECHOES, "8080", INGRESS_DENIED),
        check("client client3", "stranger-echo", "8080", EGRESS_DENIED),
    ),
    *(
        single(
            f"match-expression-{operator.lower()}",
            f"a selector with {operator} means the pods it should",
            cnp(
                f"match-expression-{operator.lower()}",
                ECHO,
                ingress=[{"fromEndpoints": [selector]}],
            ),
            check(allowed, ECHOES, "8080 icmp", ALLOW),
            check(denied, ECHOES, "8080", INGRESS_DENIED),
        )
        for operator, selector, allowed, denied in (
            (
                "In",
                expression("name", "In", "client", "client3"),
                "client client3",
                "client2 stranger",
            ),
            ("NotIn", expression("name", "NotIn", "client"), "client2 client3", "client stranger"),
            ("Exists", expression("other", "Exists"), "client2", "client client3 stranger"),
            (
                "DoesNotExist",
                expression("other", "DoesNotExist"),
                "client client3",
                "client2 stranger",
            ),
        )
    ),
    single(
        "other-namespace",
        "a peer may name the namespace it means",
        cnp(
            "other-namespace",
            ECHO,
            ingress=[{"fromEndpoints": [{"matchLabels": {NAMESPACE_LABEL: OTHER, **CLIENT}}]}],
        ),
        check("stranger", ECHOES, "8080 icmp", ALLOW),
        check("client client3 stranger-echo", ECHOES, "8080", INGRESS_DENIED),
    ),
    single(
        "same-namespace",
        "an empty peer selector means all pods of the policy's namespace",
        cnp("same-namespace", ECHO, ingress=[{"fromEndpoints": [{}]}]),
        check(f"{CLIENTS} echo-same", ECHOES, "8080", ALLOW),
        check("stranger stranger-echo", ECHOES, "8080", INGRESS_DENIED),
    ),
    single(
        "several-specs",
        "each of an object's specs has its own subject",
        cnp_specs(
            "several-specs",
            {
                "endpointSelector": labels(name="echo-same"),
                "ingress": [{"fromEndpoints": [labels(name="client")]}],
            },
            {
                "endpointSelector": labels(name="echo-other"),
                "ingress": [{"fromEndpoints": [labels(name="client2")]}],
            },
        ),
        check("client", "echo-same", "8080", ALLOW),
        check("client2", "echo-other", "8080", ALLOW),
        check("client2 client3", "echo-same", "8080", INGRESS_DENIED),
        check("client client3", "echo-other", "8080", INGRESS_DENIED),
    ),
)

ENTITIES = (
    single(
        "entity-all",
        "the entity all is everyone",
        cnp("entity-all", ECHO, ingress=[{"fromEntities": ["all"]}]),
        check(f"{CLIENTS} stranger host remote-host", ECHOES, "8080 icmp", ALLOW),
    ),
    single(
        "entity-cluster",
        "the entity cluster is all pods and nodes of this cluster",
        cnp("entity-cluster", CLIENT, egress=[{"toEntities": ["cluster"]}]),
        check("client client3", f"{ECHOES} stranger-echo", "8080 icmp", ALLOW),
        check("client client3", "host remote-host", "icmp", ALLOW),
    ),
    single(
        "entity-world",
        "pods and nodes are not the world",
        cnp("entity-world", CLIENT, egress=[{"toEntities": ["world"]}]),
        check("client client3", f"{ECHOES} stranger-echo", "8080 icmp", EGRESS_DENIED),
        check("client", "host remote-host", "icmp", EGRESS_DENIED),
    ),
    single(
        "entity-host",
        "the entity host is the pod's own node only",
        cnp("entity-host", CLIENT, egress=[{"toEntities": ["host"]}]),
        check("client", "host", "icmp", ALLOW),
        check("client3", "remote-host", "icmp", ALLOW),
        check("client", "remote-host", "icmp", EGRESS_DENIED),
        check("client", ECHOES, "8080", EGRESS_DENIED),
    ),
    single(
        "entity-remote-node",
        "the entity remote-node is the other nodes",
        cnp("entity-remote-node", ECHO, ingress=[{"fromEntities": ["remote-node"]}]),
        check("host", "echo-other", "8080 icmp", ALLOW),
        check("remote-host", "echo-same", "8080 icmp", ALLOW),
        check("client client3 stranger", ECHOES, "8080", INGRESS_DENIED),
    ),
)
