"""What objects must look like: one compact schema per kind, read by validation and by OpenAPI.

A schema names the fields whose type, presence or range matters to this server, to Fimbria or to
the kind's users; fields that it does not name are taken as they are, so that manifests written
for a full Kubernetes work. Source: the API reference of Kubernetes 1.32 and the cilium.io CRDs.

Notation: `{"name!": str}` an object with a required field, `{"*": x}` a map of x, `[x]` a list,
`str | int | bool | dict | list` a type, `Int(low, high)`, `Enum(…)`, `INT_OR_STRING`, `ANY`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Schema = Any
"""A value in the notation above."""


@dataclass(frozen=True, slots=True)
class Int:
    """An integer between `low` and `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Enum:
    """One of these strings."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, slots=True)
class Special:
    """A type that JSON has no single name for."""

    name: str


ANY: Final = Special("any")
INT_OR_STRING: Final = Special("int-or-string")

TYPE_NAMES: dict[type, str] = {
    str: "string",
    int: "integer",
    bool: "boolean",
    dict: "object",
    list: "array",
}
"""What JSON schema calls the plain types."""

PORT = Int(1, 65535)
COUNT = Int(0, 2**31 - 1)
PROTOCOL = Enum("TCP", "UDP", "SCTP")
STRINGS: Schema = {"*": str}
_ALWAYS = Enum("Always", "OnFailure", "Never")

_CONDITIONS: Schema = [{"type!": str, "status!": str, "reason": str, "message": str}]

SELECTOR: Schema = {
    "matchLabels": STRINGS,
    "matchExpressions": [
        {"key!": str, "operator!": Enum("In", "NotIn", "Exists", "DoesNotExist"), "values": [str]}
    ],
}
METADATA: Schema = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "uid": str,
    "resourceVersion": str,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "labels": STRINGS,
    "annotations": STRINGS,
    "finalizers": [str],
    "ownerReferences": [
        {
            "apiVersion!": str,
            "kind!": str,
            "name!": str,
            "uid!": str,
            "controller": bool,
            "blockOwnerDeletion": bool,
        }
    ],
}
_HTTP_GET: Schema = {
    "path": str,
    "port!": INT_OR_STRING,
    "host": str,
    "scheme": Enum("HTTP", "HTTPS"),
}
_PROBE: Schema = {
    "httpGet": _HTTP_GET,
    "tcpSocket": {"port!": INT_OR_STRING, "host": str},
    "exec": {"command": [str]},
    "initialDelaySeconds": COUNT,
    "periodSeconds": COUNT,
    "timeoutSeconds": COUNT,
    "successThreshold": COUNT,
    "failureThreshold": COUNT,
}
_CONTAINER: Schema = {
    "name!": str,
    "image": str,
    "imagePullPolicy": Enum("Always", "IfNotPresent", "Never"),
    "command": [str],
    "args": [str],
    "workingDir": str,
    "env": [{"name!": str, "value": str, "valueFrom": dict}],
    "envFrom": [dict],
    "ports": [
        {"containerPort!": PORT, "hostPort": PORT, "name": str, "protocol": PROTOCOL, "hostIP": str}
    ],
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool}],
    "resources": {"limits": {"*": ANY}, "requests": {"*": ANY}},
    "readinessProbe": _PROBE,
    "livenessProbe": _PROBE,
    "startupProbe": _PROBE,
    "lifecycle": dict,
    "securityContext": dict,
}
_CONTAINER_STATUS: Schema = {
    "name": str,
    "ready": bool,
    "restartCount": COUNT,
    "state": {"waiting": {"reason": str}, "running": dict, "terminated": {"reason": str}},
}
POD_SPEC: Schema = {
    "containers!": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "volumes": [{"name!": str}],
    "nodeName": str,
    "nodeSelector": STRINGS,
    "serviceAccountName": str,
    "serviceAccount": str,
    "restartPolicy": _ALWAYS,
    "terminationGracePeriodSeconds": COUNT,
    "dnsPolicy": Enum("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "hostNetwork": bool,
    "hostPID": bool,
    "hostname": str,
    "subdomain": str,
    "affinity": dict,
    "tolerations": [dict],
    "securityContext": dict,
    "hostAliases": [{"ip!": str, "hostnames": [str]}],
}
_TEMPLATE: Schema = {
    "metadata": {"labels": STRINGS, "annotations": STRINGS, "name": str},
    "spec!": POD_SPEC,
}
_STRATEGY: Schema = {
    "type": str,
    "rollingUpdate": {"maxSurge": INT_OR_STRING, "maxUnavailable": INT_OR_STRING},
}
_PEERS: Schema = [
    {
        "podSelector": SELECTOR,
        "namespaceSelector": SELECTOR,
        "ipBlock": {"cidr!": str, "except": [str]},
    }
]
_POLICY_PORTS: Schema = [{"protocol": PROTOCOL, "port": INT_OR_STRING, "endPort": PORT}]
_ENDPOINT_PORTS: Schema = [{"name": str, "port": PORT, "protocol": PROTOCOL}]


def _workload(**extra: Schema) -> Schema:
    spec = {"selector!": SELECTOR, "template!": _TEMPLATE, **extra}
    return {"spec!": spec, "status": {"readyReplicas": COUNT, "conditions": _CONDITIONS}}


SCHEMAS: dict[str, Schema] = {
    "Namespace": {"spec": {"finalizers": [str]}, "status": {"phase": str}},
    "Node": {
        "spec": {"podCIDR": str, "podCIDRs": [str], "unschedulable": bool, "taints": [dict]},
        "status": {
            "addresses": [{"type!": str, "address!": str}],
            "conditions": _CONDITIONS,
            "nodeInfo": STRINGS,
        },
    },
    "Pod": {
        "spec!": POD_SPEC,
        "status": {
            "phase": str,
            "reason": str,
            "podIP": str,
            "podIPs": [{"ip": str}],
            "conditions": _CONDITIONS,
            "containerStatuses": [_CONTAINER_STATUS],
            "initContainerStatuses": [_CONTAINER_STATUS],
        },
    },
    "Service": {
        "spec!": {
            "type": Enum("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
            "clusterIP": str,
            "clusterIPs": [str],
            "selector": STRINGS,
            "sessionAffinity": Enum("None", "ClientIP"),
            "externalName": str,
            "externalIPs": [str],
            "ports": [
                {
                    "name": str,
                    "port!": PORT,
                    "protocol": PROTOCOL,
                    "targetPort": INT_OR_STRING,
                    "nodePort": PORT,
                }
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": str, "hostname": str}]}},
    },
    "Endpoints": {
        "subsets": [
            {
                "addresses": [{"ip!": str}],
                "notReadyAddresses": [{"ip!": str}],
                "ports": _ENDPOINT_PORTS,
            }
        ]
    },
    "ConfigMap": {"data": STRINGS, "binaryData": STRINGS, "immutable": bool},
    "Secret": {"data": STRINGS, "stringData": STRINGS, "type": str, "immutable": bool},
    "ServiceAccount": {"secrets": [dict], "imagePullSecrets": [dict]},
    "Event": {
        "involvedObject!": {"kind": str, "namespace": str, "name": str, "uid": str},
        "reason": str,
        "message": str,
        "type": str,
        "count": COUNT,
        "source": dict,
        "firstTimestamp": str,
        "lastTimestamp": str,
        "eventTime": str,
        "series": {"count": COUNT, "lastObservedTime": str},
    },
    "Deployment": _workload(
        replicas=COUNT, strategy=_STRATEGY, revisionHistoryLimit=COUNT, paused=bool
    ),
    "ReplicaSet": _workload(replicas=COUNT),
    "DaemonSet": _workload(updateStrategy=_STRATEGY, revisionHistoryLimit=COUNT),
    "StatefulSet": _workload(replicas=COUNT, serviceName=str, updateStrategy=dict),
    "NetworkPolicy": {
        "spec": {
            "podSelector": SELECTOR,
            "policyTypes": [Enum("Ingress", "Egress")],
            "ingress": [{"from": _PEERS, "ports": _POLICY_PORTS}],
            "egress": [{"to": _PEERS, "ports": _POLICY_PORTS}],
        }
    },
    "EndpointSlice": {
        "addressType!": Enum("IPv4", "IPv6", "FQDN"),
        "endpoints": [{"addresses!": [str], "conditions": dict, "nodeName": str}],
        "ports": _ENDPOINT_PORTS,
    },
    "Lease": {
        "spec": {
            "holderIdentity": str,
            "leaseDurationSeconds": Int(1, 2**31 - 1),
            "acquireTime": str,
            "renewTime": str,
            "leaseTransitions": COUNT,
        }
    },
    "CustomResourceDefinition": {
        "spec!": {
            "group!": str,
            "names!": {"kind!": str, "plural!": str, "shortNames": [str]},
            "scope!": Enum("Cluster", "Namespaced"),
            "versions!": [{"name!": str, "served!": bool, "storage!": bool}],
        },
        "status": dict,
    },
    "CiliumNetworkPolicy": {"spec": dict, "specs": [dict], "status": dict},
    "CiliumClusterwideNetworkPolicy": {"spec": dict, "specs": [dict], "status": dict},
    "CiliumEndpoint": {"status": dict},
    "CiliumIdentity": {"security-labels!": STRINGS},
    "CiliumNode": {"spec!": dict, "status": dict},
    "CiliumNodeConfig": {"spec!": {"defaults!": STRINGS, "nodeSelector!": SELECTOR}},
    "CiliumCIDRGroup": {"spec!": {"externalCIDRs!": [str]}},
}
