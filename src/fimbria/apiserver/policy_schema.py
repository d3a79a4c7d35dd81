"""What policies must look like, in the notation of `schema`.

Types and closed sets only. What a policy means, and whether it can be enforced, is the agents' to
say: they write it into its status, with the field. Sources: the cilium.io CRDs, and
policy.networking.k8s.io/v1alpha2 of the network policy API.
"""

from __future__ import annotations

from fimbria.apiserver.notation import (
    CONDITIONS,
    INT_OR_STRING,
    LABEL_VALUE,
    PORT,
    SELECTOR,
    STRINGS,
    Enum,
    Int,
    Schema,
)

_ANY_PORT = Int(0, 65535)
_PROTOCOL = Enum("TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "VRRP", "IGMP", "ANY")
_NAME = {"matchName": str, "matchPattern": str}
_SECRET = {"namespace": str, "name!": str}

_SELECTOR: Schema = {**SELECTOR, "matchLabels": {"*": LABEL_VALUE}}

_HTTP: Schema = {
    "path": str,
    "method": str,
    "host": str,
    "headers": [str],
    "headerMatches": [
        {
            "name!": str,
            "value": str,
            "secret": _SECRET,
            "mismatch": Enum("LOG", "ADD", "DELETE", "REPLACE"),
        }
    ],
}
_KAFKA: Schema = {
    "role": Enum("produce", "consume"),
    "apiKey": str,
    "apiVersion": str,
    "clientID": str,
    "topic": str,
}
_TLS: Schema = {
    "secret!": _SECRET,
    "trustedCA": str,
    "certificate": str,
    "privateKey": str,
}
_PORTS: Schema = [{"port": INT_OR_STRING, "endPort": _ANY_PORT, "protocol": _PROTOCOL}]
_DENY_PORTS: Schema = [{"ports": _PORTS}]
_ALLOW_PORTS: Schema = [
    {
        "ports": _PORTS,
        "rules": {
            "http": [_HTTP],
            "kafka": [_KAFKA],
            "dns": [_NAME],
            "l7proto": str,
            "l7": [STRINGS],
        },
        "terminatingTLS": _TLS,
        "originatingTLS": _TLS,
        "serverNames": [str],
        "listener": {
            "envoyConfig!": {"kind": str, "name!": str},
            "name!": str,
            "priority": Int(1, 100),
        },
    }
]
_ICMPS: Schema = [{"fields": [{"family": Enum("IPv4", "IPv6"), "type!": INT_OR_STRING}]}]
_CIDR_SET: Schema = [
    {"cidr": str, "cidrGroupRef": str, "cidrGroupSelector": _SELECTOR, "except": [str]}
]
_SERVICES: Schema = [
    {
        "k8sService": {"serviceName": str, "namespace": str},
        "k8sServiceSelector": {"selector!": _SELECTOR, "namespace": str},
    }
]
_GROUPS: Schema = [{"aws": dict}]


def _peers(way: str) -> dict[str, Schema]:
    return {
        f"{way}Endpoints": [_SELECTOR],
        f"{way}Requires": [_SELECTOR],
        f"{way}CIDR": [str],
        f"{way}CIDRSet": _CIDR_SET,
        f"{way}Entities": [str],
        f"{way}Groups": _GROUPS,
        f"{way}Nodes": [_SELECTOR],
    }


_AUTHENTICATION: Schema = {"mode!": Enum("disabled", "required", "test-always-fail")}
_INGRESS, _EGRESS = _peers("from"), {**_peers("to"), "toServices": _SERVICES}
_RULE: dict[str, Schema] = {
    "labels": [dict],
    "description": str,
    "enableDefaultDeny": {"ingress": bool, "egress": bool},
    "log": {"value": str},
    "ingress": [
        {**_INGRESS, "toPorts": _ALLOW_PORTS, "icmps": _ICMPS, "authentication": _AUTHENTICATION}
    ],
    "ingressDeny": [{**_INGRESS, "toPorts": _DENY_PORTS, "icmps": _ICMPS}],
    "egress": [
        {
            **_EGRESS,
            "toFQDNs": [_NAME],
            "toPorts": _ALLOW_PORTS,
            "icmps": _ICMPS,
            "authentication": _AUTHENTICATION,
        }
    ],
    "egressDeny": [{**_EGRESS, "toPorts": _DENY_PORTS, "icmps": _ICMPS}],
    "endpointSelector": _SELECTOR,
    "nodeSelector": _SELECTOR,
}
_CILIUM: Schema = {"spec": _RULE, "specs": [_RULE], "status": {"conditions": CONDITIONS}}

_PODS: Schema = {"namespaceSelector": SELECTOR, "podSelector": SELECTOR}
_SUBJECT: Schema = {"namespaces": SELECTOR, "pods": _PODS}
_DESTINATION: Schema = {
    "destinationPort": {"number": PORT, "range": {"start!": PORT, "end!": PORT}}
}
_ACTION = Enum("Accept", "Deny", "Pass")
_PROTOCOLS: Schema = [
    {
        "tcp": _DESTINATION,
        "udp": _DESTINATION,
        "sctp": _DESTINATION,
        "destinationNamedPort": str,
    }
]
_CLUSTER_POLICY: Schema = {
    "spec!": {
        "tier!": Enum("Admin", "Baseline"),
        "priority!": Int(0, 1000),
        "subject!": _SUBJECT,
        "ingress": [
            {"name": str, "action!": _ACTION, "from!": [_SUBJECT], "protocols": _PROTOCOLS}
        ],
        "egress": [
            {
                "name": str,
                "action!": _ACTION,
                "to!": [{**_SUBJECT, "nodes": SELECTOR, "networks": [str], "domainNames": [str]}],
                "protocols": _PROTOCOLS,
            }
        ],
    },
    "status": {"conditions": CONDITIONS},
}

POLICY_SCHEMAS: dict[str, Schema] = {
    "CiliumNetworkPolicy": _CILIUM,
    "CiliumClusterwideNetworkPolicy": _CILIUM,
    "ClusterNetworkPolicy": _CLUSTER_POLICY,
    "CiliumCIDRGroup": {
        "spec!": {"externalCIDRs!": [str]},
        "status": {"conditions": CONDITIONS},
    },
}
