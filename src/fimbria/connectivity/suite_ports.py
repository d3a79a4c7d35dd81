"""Scenarios: ports, protocols, denials, and policies that cannot be enforced."""

from __future__ import annotations

from fimbria.connectivity.model import (
    ALLOW,
    EGRESS_DENIED,
    EGRESS_DENY_RULE,
    INGRESS_DENIED,
    INGRESS_DENY_RULE,
    Scenario,
    Step,
    check,
    single,
)
from fimbria.connectivity.policies import (
    CLIENT,
    ECHO,
    cnp,
    labels,
    tcp,
)

CLIENTS = "client client2 client3"

ECHOES = "echo-same echo-other"

PORTS = (
    single(
        "port",
        "a port opens that port",
        cnp("port", ECHO, ingress=[{"fromEndpoints": [labels(**CLIENT)], "toPorts": tcp(8080)}]),
        check(CLIENTS, ECHOES, "8080", ALLOW),
        check("client client3", ECHOES, "8081 8053/udp icmp", INGRESS_DENIED),
        check("stranger", ECHOES, "8080", INGRESS_DENIED),
    ),
    single(
        "port-without-peer",
        "a rule that names ports only is for every peer",
        cnp("port-without-peer", ECHO, ingress=[{"toPorts": tcp(8080)}]),
        check("client client3 stranger host", ECHOES, "8080", ALLOW),
        check("client stranger", ECHOES, "8081 icmp", INGRESS_DENIED),
    ),
    single(
        "port-range",
        "endPort opens all ports from the first to the last",
        cnp(
            "port-range",
            ECHO,
            ingress=[
                {"toPorts": [{"ports": [{"port": "8081", "endPort": 8999, "protocol": "TCP"}]}]}
            ],
        ),
        check("client client3", ECHOES, "8081 8085", ALLOW),
        check("client client3", ECHOES, "8080 9000", INGRESS_DENIED),
    ),
    single(
        "port-udp",
        "a UDP port opens UDP and not the same port of TCP",
        cnp(
            "port-udp",
            ECHO,
            ingress=[{"toPorts": [{"ports": [{"port": "8053", "protocol": "UDP"}]}]}],
        ),
        check("client client3", ECHOES, "8053/udp", ALLOW),
        check("client client3", ECHOES, "8054/udp 8080", INGRESS_DENIED),
    ),
    single(
        "port-any-protocol",
        "the protocol ANY opens TCP and UDP",
        cnp(
            "port-any-protocol",
            CLIENT,
            egress=[
                {
                    "toEndpoints": [labels(**ECHO)],
                    "toPorts": [{"ports": [{"port": "8080"}, {"port": "8053", "protocol": "ANY"}]}],
                }
            ],
        ),
        check("client client3", ECHOES, "8080 8053/udp", ALLOW),
        check("client client3", ECHOES, "8081 8054/udp icmp", EGRESS_DENIED),
    ),
    single(
        "port-named",
        "a port's name is resolved at the pod that has it",
        cnp("port-named", ECHO, ingress=[{"toPorts": tcp("http")}]),
        check("client client3", ECHOES, "8080", ALLOW),
        check("client client3", ECHOES, "8081", INGRESS_DENIED),
    ),
    single(
        "icmp-only",
        "an ICMP rule lets ping in and nothing else",
        cnp(
            "icmp-only",
            ECHO,
            ingress=[
                {
                    "icmps": [
                        {"fields": [{"family": "IPv4", "type": 8}, {"family": "IPv6", "type": 128}]}
                    ]
                }
            ],
        ),
        check("client client3 stranger", ECHOES, "icmp", ALLOW),
        check("client client3 stranger", ECHOES, "8080 8053/udp", INGRESS_DENIED),
    ),
)

ALLOW_ALL = {"fromEntities": ["all"]}

DENIALS = (
    single(
        "ingress-deny",
        "a deny rule beats every allow rule",
        cnp(
            "ingress-deny",
            ECHO,
            ingress=[ALLOW_ALL, {"fromEndpoints": [labels(name="client")]}],
            ingressDeny=[{"fromEndpoints": [labels(name="client")]}],
        ),
        check("client", ECHOES, "8080 icmp", INGRESS_DENY_RULE),
        check("client2 client3 stranger", ECHOES, "8080 icmp", ALLOW),
    ),
    single(
        "ingress-deny-port",
        "a deny rule for a port leaves the others open",
        cnp("ingress-deny-port", ECHO, ingress=[ALLOW_ALL], ingressDeny=[{"toPorts": tcp(8081)}]),
        check("client client3 stranger", ECHOES, "8081", INGRESS_DENY_RULE),
        check("client client3 stranger", ECHOES, "8080 8053/udp", ALLOW),
    ),
    single(
        "ingress-deny-across-policies",
        "a deny rule of one policy beats the allow rule of another",
        (
            cnp(
                "deny-across-allow",
                ECHO,
                ingress=[{"fromEndpoints": [labels(**CLIENT)], "toPorts": tcp(8080)}],
            ),
            cnp(
                "deny-across-deny", ECHO, ingressDeny=[{"fromEndpoints": [labels(name="client2")]}]
            ),
        ),
        check("client client3", ECHOES, "8080", ALLOW),
        check("client2", ECHOES, "8080", INGRESS_DENY_RULE),
        check("client", ECHOES, "8081", INGRESS_DENIED),
    ),
    single(
        "egress-deny",
        "a deny rule at the sender's end",
        cnp(
            "egress-deny",
            CLIENT,
            egress=[{"toEntities": ["all"]}],
            egressDeny=[{"toEndpoints": [labels(name="echo-other")]}],
        ),
        check("client client3", "echo-other", "8080 icmp", EGRESS_DENY_RULE),
        check("client client3", "echo-same stranger-echo", "8080", ALLOW),
    ),
    single(
        "deny-entity",
        "an entity can be denied",
        cnp(
            "deny-entity",
            ECHO,
            ingress=[ALLOW_ALL],
            ingressDeny=[{"fromEntities": ["remote-node"]}],
        ),
        check("host", "echo-other", "8080", INGRESS_DENY_RULE),
        check("host", "echo-same", "8080", ALLOW),
        check("client client3", ECHOES, "8080", ALLOW),
    ),
    single(
        "deny-alone",
        "a deny rule alone puts its subjects into default deny",
        cnp("deny-alone", ECHO, ingressDeny=[{"fromEndpoints": [labels(name="client")]}]),
        check("client", ECHOES, "8080", INGRESS_DENY_RULE),
        check("client2 client3 stranger", ECHOES, "8080", INGRESS_DENIED),
    ),
    single(
        "without-default-deny",
        "enableDefaultDeny false keeps open what no rule denies",
        cnp(
            "without-default-deny",
            ECHO,
            enableDefaultDeny={"ingress": False},
            ingressDeny=[{"fromEndpoints": [labels(name="client")]}],
        ),
        check("client", ECHOES, "8080 icmp", INGRESS_DENY_RULE),
        check("client2 client3 stranger", ECHOES, "8080 icmp", ALLOW),
    ),
    Scenario(
        "refused-policy-closes",
        "a policy that cannot be enforced closes its subjects in the directions it names",
        (
            Step(
                (
                    cnp(
                        "refused-policy-closes",
                        CLIENT,
                        egress=[{"toGroups": [{"aws": {"securityGroupsNames": ["none"]}}]}],
                    ),
                ),
                (
                    check("client client3", ECHOES, "8080 icmp", EGRESS_DENIED),
                    check("echo-same", "client", "8080", ALLOW),
                    check("stranger", ECHOES, "8080", ALLOW),
                ),
            ),
            Step((), (check("client client3", ECHOES, "8080 icmp", ALLOW),)),
        ),
    ),
)
