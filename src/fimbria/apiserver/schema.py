"""What objects must look like: one compact schema per kind, read by validation and by OpenAPI.

Source: the API reference of Kubernetes 1.32 and the cilium.io CRDs. The notation is explained in
`notation`; policies, which are large, stand in `policy_schema`.
"""

from __future__ import annotations

from fimbria.apiserver.notation import (
    ANY,
    CONDITIONS,
    COUNT,
    INT_OR_STRING,
    PORT,
    PROTOCOL,
    SELECTOR,
    STRINGS,
    Enum,
    Int,
    Schema,
)
from fimbria.apiserver.policy_schema import POLICY_SCHEMAS

_ALWAYS = Enum("Always", "OnFailure", "Never")

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
    return {"spec!": spec, "status": {"readyReplicas": COUNT, "conditions": CONDITIONS}}


SCHEMAS: dict[str, Schema] = {
    "Namespace": {"spec": {"finalizers": [str]}, "status": {"phase": str}},
    "Node": {
        "spec": {"podCIDR": str, "podCIDRs": [str], "unschedulable": bool, "taints": [dict]},
        "status": {
            "addresses": [{"type!": str, "address!": str}],
            "conditions": CONDITIONS,
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
            "conditions": CONDITIONS,
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
    **POLICY_SCHEMAS,
    "CiliumEndpoint": {"status": dict},
    "CiliumIdentity": {"security-labels!": STRINGS},
    "CiliumNode": {"spec!": dict, "status": dict},
    "CiliumNodeConfig": {"spec!": {"defaults!": STRINGS, "nodeSelector!": SELECTOR}},
}
