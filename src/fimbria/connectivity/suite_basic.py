"""Scenarios: no policy, default deny, Kubernetes NetworkPolicy, and policies that come and go."""

from __future__ import annotations

from fimbria.connectivity.model import (
    ALLOW,
    EGRESS_DENIED,
    INGRESS_DENIED,
    Document,
    Scenario,
    Step,
    check,
    single,
)
from fimbria.connectivity.policies import CLIENT, ECHO, HOME, ccnp, cnp, knp, labels, tcp

CLIENTS = "client client2 client3"

ECHOES = "echo-same echo-other"

ALL = "8080 8053/udp icmp"

LOCAL_HOSTS = (check("host", "echo-same", "8080 icmp", ALLOW),)

"""A node may always reach its own pods: probes of the kubelet come from there."""

EMPTY_RULE: list[Document] = [{}]

BASIC = (
    single(
        "no-policies",
        "without a policy every pod reaches every pod",
        (),
        check(f"{CLIENTS} stranger", f"{ECHOES} stranger-echo client", ALL, ALLOW),
    ),
    single(
        "host-to-pod",
        "both nodes reach pods of both nodes",
        (),
        check("host remote-host", f"{ECHOES} client", "8080 8053/udp icmp", ALLOW),
    ),
    single(
        "pod-to-host",
        "pods reach their own node and the other one",
        (),
        check("client client3 stranger", "host remote-host", "icmp", ALLOW),
    ),
    single(
        "ingress-default-deny",
        "an empty ingress rule closes the pods for all but their own node",
        cnp("ingress-default-deny", ECHO, ingress=EMPTY_RULE),
        check(f"{CLIENTS} stranger", ECHOES, ALL, INGRESS_DENIED),
        check("host", "echo-other", "8080", INGRESS_DENIED),
        check("echo-same echo-other", "client client3", "8080", ALLOW),
        *LOCAL_HOSTS,
    ),
    single(
        "egress-default-deny",
        "an empty egress rule keeps the pods from opening connections, not from answering",
        cnp("egress-default-deny", CLIENT, egress=EMPTY_RULE),
        check(CLIENTS, f"{ECHOES} stranger-echo", ALL, EGRESS_DENIED),
        check("client client3", "host", "icmp", EGRESS_DENIED),
        check("stranger", ECHOES, "8080", ALLOW),
        check("echo-same stranger", "client client3", "8080 icmp", ALLOW),
    ),
    single(
        "all-default-deny",
        "both directions closed for a whole namespace",
        cnp("all-default-deny", {}, ingress=EMPTY_RULE, egress=EMPTY_RULE),
        check("client client3", ECHOES, "8080 icmp", EGRESS_DENIED),
        check("stranger", "client echo-other", "8080 icmp", INGRESS_DENIED),
        check("stranger", "stranger-echo", "8080", ALLOW),
    ),
    single(
        "knp-ingress-default-deny",
        "a NetworkPolicy that selects all pods and lists no rule closes ingress",
        knp("knp-ingress-default-deny", {}),
        check("client client3 stranger", ECHOES, "8080 icmp", INGRESS_DENIED),
        check("client", "stranger-echo", "8080", ALLOW),
        *LOCAL_HOSTS,
    ),
    single(
        "knp-egress-default-deny",
        "a NetworkPolicy of type Egress without rules closes egress",
        knp("knp-egress-default-deny", CLIENT, "Egress"),
        check(CLIENTS, ECHOES, "8080 8053/udp", EGRESS_DENIED),
        check("stranger", "client", "8080", ALLOW),
    ),
    single(
        "knp-allow-all-ingress",
        "a NetworkPolicy with one empty rule allows everything",
        (knp("knp-closed", ECHO), knp("knp-allow-all-ingress", ECHO, ingress=EMPTY_RULE)),
        check(f"{CLIENTS} stranger host", ECHOES, "8080 icmp", ALLOW),
    ),
    single(
        "knp-pod-selector",
        "a podSelector means pods of the policy's own namespace",
        knp("knp-pod-selector", ECHO, ingress=[{"from": [{"podSelector": labels(**CLIENT)}]}]),
        check(CLIENTS, ECHOES, "8080 icmp", ALLOW),
        check("stranger stranger-echo", ECHOES, "8080 icmp", INGRESS_DENIED),
    ),
    single(
        "knp-namespace-selector",
        "a namespaceSelector means all pods of the namespaces with those labels",
        knp(
            "knp-namespace-selector",
            ECHO,
            ingress=[{"from": [{"namespaceSelector": labels(connectivity="other")}]}],
        ),
        check("stranger stranger-echo", ECHOES, "8080", ALLOW),
        check("client client3", ECHOES, "8080", INGRESS_DENIED),
    ),
    single(
        "knp-both-selectors",
        "namespaceSelector and podSelector in one peer must both match",
        knp(
            "knp-both-selectors",
            ECHO,
            ingress=[
                {
                    "from": [
                        {
                            "namespaceSelector": labels(connectivity="other"),
                            "podSelector": labels(**CLIENT),
                        }
                    ]
                }
            ],
        ),
        check("stranger", ECHOES, "8080", ALLOW),
        check("stranger-echo client", ECHOES, "8080", INGRESS_DENIED),
    ),
    single(
        "knp-egress-port",
        "an egress rule with ports and no peer opens these ports to everyone",
        knp(
            "knp-egress-port",
            CLIENT,
            "Egress",
            egress=[{"ports": [{"port": 8080, "protocol": "TCP"}]}],
        ),
        check("client client3", f"{ECHOES} stranger-echo", "8080", ALLOW),
        check("client client3", ECHOES, "8081 8053/udp icmp", EGRESS_DENIED),
    ),
    single(
        "clusterwide-policy",
        "a clusterwide policy selects pods by namespace label and reaches into no other",
        ccnp(
            "clusterwide-policy",
            {"k8s:io.kubernetes.pod.namespace": HOME, **ECHO},
            ingress=[{"fromEndpoints": [labels(name="client")]}],
        ),
        check("client", ECHOES, "8080", ALLOW),
        check("client2 client3 stranger", ECHOES, "8080", INGRESS_DENIED),
        check("client2 client3", "stranger-echo", "8080", ALLOW),
    ),
    Scenario(
        "policy-removal",
        "what a policy closed is open again when it is gone",
        (
            Step(
                (cnp("policy-removal", ECHO, ingress=EMPTY_RULE),),
                (check(f"{CLIENTS} stranger", ECHOES, "8080", INGRESS_DENIED),),
            ),
            Step((), (check(f"{CLIENTS} stranger", ECHOES, ALL, ALLOW),)),
        ),
    ),
    single(
        "policies-add-up",
        "what any of several policies allows is allowed",
        (
            cnp(
                "policies-add-up-8080",
                ECHO,
                ingress=[{"fromEndpoints": [labels(name="client")], "toPorts": tcp(8080)}],
            ),
            knp(
                "policies-add-up-8081",
                ECHO,
                ingress=[{"ports": [{"port": 8081, "protocol": "TCP"}]}],
            ),
        ),
        check("client", ECHOES, "8080 8081", ALLOW),
        check("client2 client3 stranger", ECHOES, "8081", ALLOW),
        check("client2 client3 stranger", ECHOES, "8080 icmp", INGRESS_DENIED),
    ),
    Scenario(
        "label-change",
        "a pod that gets other labels gets the rights that go with them, and loses them again",
        (
            Step(
                (cnp("label-change", ECHO, ingress=[{"fromEndpoints": [labels(badge="yes")]}]),),
                (
                    check("client2", ECHOES, "8080 icmp", ALLOW),
                    check("client client3", ECHOES, "8080", INGRESS_DENIED),
                ),
                labels={"client2": {"badge": "yes"}},
            ),
            Step(
                (cnp("label-change", ECHO, ingress=[{"fromEndpoints": [labels(badge="yes")]}]),),
                (check("client2 client client3", ECHOES, "8080", INGRESS_DENIED),),
            ),
        ),
    ),
)
