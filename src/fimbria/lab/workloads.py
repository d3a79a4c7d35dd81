"""Scheduler, Deployment, ReplicaSet and DaemonSet, each a function from a snapshot to actions."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from fimbria.lab import objects
from fimbria.lab.objects import digest, finished, leaving, owner, ready
from fimbria.lab.snapshot import Action

if TYPE_CHECKING:
    from fimbria.lab.objects import Document
    from fimbria.lab.snapshot import Snapshot
    from fimbria.sources.resources import Resource

HASH = "pod-template-hash"


def schedule(state: Snapshot) -> list[Action]:
    """Bind pods without a node: fewest pods of the same owner, then fewest pods, then by name."""
    placed = [p for p in state.pods.values() if p["spec"].get("nodeName") and not finished(p)]
    total = Counter(str(p["spec"]["nodeName"]) for p in placed)
    of_owner = Counter((owner(p), str(p["spec"]["nodeName"])) for p in placed)
    actions: list[Action] = []
    for (namespace, name), pod in sorted(state.pods.items()):
        if pod["spec"].get("nodeName") or leaving(pod) or finished(pod):
            continue
        wanted = objects.part(pod["spec"], "nodeSelector")
        fitting = [key[1] for key, node in state.nodes.items() if objects.selects(wanted, node)]
        if not fitting:
            continue
        mine = owner(pod)
        node = min(fitting, key=lambda n: (of_owner[mine, n] if mine else 0, total[n], n))
        total[node] += 1
        of_owner[mine, node] += 1
        actions.append(Action("bind", objects.PODS, namespace, name, node))
    return actions


def deployments(state: Snapshot) -> list[Action]:
    """One ReplicaSet per template; the old ones shrink once the new one is ready."""
    actions: list[Action] = []
    for (namespace, name), deployment in state.deployments.items():
        if leaving(deployment):
            continue
        spec = deployment["spec"]
        replicas = int(spec.get("replicas", 1))
        template = spec["template"]
        number = digest(json.dumps(template, sort_keys=True), length=10)
        current = f"{name}-{number}"
        uid = deployment["metadata"]["uid"]
        sets = {k[1]: s for k, s in state.replica_sets.items() if owner(s) == uid}
        new = sets.get(current)
        if new is None:
            body = _replica_set(deployment, current, number, replicas)
            actions.append(Action("create", objects.REPLICA_SETS, namespace, current, body))
        elif int(new["spec"].get("replicas", 1)) != replicas:
            actions.append(_scale(namespace, current, replicas))
        done = new is not None and _count(new, "readyReplicas") >= replicas
        for old, one in sets.items():
            if old != current and done and int(one["spec"].get("replicas", 1)):
                actions.append(_scale(namespace, old, 0))
        counts = {
            "replicas": sum(_count(one, "replicas") for one in sets.values()),
            "updatedReplicas": _count(new, "replicas") if new else 0,
            "readyReplicas": sum(_count(one, "readyReplicas") for one in sets.values()),
        }
        available = counts["readyReplicas"]
        counts |= {
            "availableReplicas": available,
            "unavailableReplicas": max(replicas - available, 0),
        }
        condition = {
            "type": "Available",
            "status": "True" if available >= replicas else "False",
            "reason": "MinimumReplicasAvailable"
            if available >= replicas
            else "MinimumReplicasUnavailable",
        }
        actions += _status(objects.DEPLOYMENTS, deployment, counts, [condition])
    return actions


def _replica_set(deployment: Document, name: str, number: str, replicas: int) -> Document:
    template: Document = json.loads(json.dumps(deployment["spec"]["template"]))
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    labels[HASH] = number
    selector: Document = json.loads(json.dumps(deployment["spec"]["selector"]))
    selector.setdefault("matchLabels", {})[HASH] = number
    return {
        "metadata": {
            "name": name,
            "namespace": deployment["metadata"]["namespace"],
            "labels": dict(labels),
            "ownerReferences": objects.owned_by(deployment, objects.DEPLOYMENTS),
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }


def _scale(namespace: str, name: str, replicas: int) -> Action:
    body = {"spec": {"replicas": replicas}}
    return Action("patch", objects.REPLICA_SETS, namespace, name, body)


def replica_sets(state: Snapshot) -> list[Action]:
    """As many pods as wanted; of too many, those that are not ready go first."""
    actions: list[Action] = []
    for (namespace, name), one in state.replica_sets.items():
        if leaving(one):
            continue
        uid = one["metadata"]["uid"]
        mine = [pod for pod in state.pods.values() if owner(pod) == uid]
        alive = [pod for pod in mine if not leaving(pod) and not finished(pod)]
        wanted = int(one["spec"].get("replicas", 1))
        number = 0
        for _ in range(wanted - len(alive)):
            while (namespace, pod_name := f"{name}-{digest(uid, number)}") in state.pods:
                number += 1
            number += 1
            body = _pod(one, pod_name, objects.REPLICA_SETS)
            actions.append(Action("create", objects.PODS, namespace, pod_name, body))
        surplus = sorted(alive, key=lambda pod: (ready(pod), objects.key(pod)))
        for pod in surplus[: max(len(alive) - wanted, 0)]:
            pod_name = pod["metadata"]["name"]
            actions.append(Action("delete", objects.PODS, namespace, pod_name))
        running = sum(map(ready, alive))
        counts = {
            "replicas": len(alive),
            "fullyLabeledReplicas": len(alive),
            "readyReplicas": running,
            "availableReplicas": running,
        }
        actions += _status(objects.REPLICA_SETS, one, counts)
    return actions


def daemon_sets(state: Snapshot) -> list[Action]:
    """One pod on every node that the template's nodeSelector fits."""
    actions: list[Action] = []
    for (namespace, name), one in state.daemon_sets.items():
        if leaving(one):
            continue
        uid = one["metadata"]["uid"]
        template = one["spec"]["template"]
        number = digest(json.dumps(template, sort_keys=True), length=10)
        selector = objects.part(objects.part(template, "spec"), "nodeSelector")
        nodes = [key[1] for key, node in state.nodes.items() if objects.selects(selector, node)]
        mine = [pod for pod in state.pods.values() if owner(pod) == uid]
        alive = [pod for pod in mine if not leaving(pod) and not finished(pod)]
        for pod in alive:
            labels = objects.part(pod["metadata"], "labels")
            node = pod["spec"].get("nodeName")
            if node not in nodes or labels.get("controller-revision-hash") != number:
                pod_name = pod["metadata"]["name"]
                actions.append(Action("delete", objects.PODS, namespace, pod_name))
        served = {pod["spec"].get("nodeName") for pod in alive}
        for node in sorted(set(nodes) - served):
            pod_name = f"{name}-{digest(uid, number, node)}"
            if (namespace, pod_name) in state.pods:
                continue
            body = _pod(one, pod_name, objects.DAEMON_SETS)
            body["spec"]["nodeName"] = node
            body["metadata"]["labels"]["controller-revision-hash"] = number
            actions.append(Action("create", objects.PODS, namespace, pod_name, body))
        running = sum(map(ready, alive))
        counts = {
            "desiredNumberScheduled": len(nodes),
            "currentNumberScheduled": len(alive),
            "updatedNumberScheduled": len(alive),
            "numberReady": running,
            "numberAvailable": running,
            "numberUnavailable": len(nodes) - running,
            "numberMisscheduled": 0,
        }
        actions += _status(objects.DAEMON_SETS, one, counts)
    return actions


def _pod(controller: Document, name: str, kind: Resource[Document]) -> Document:
    template: Document = json.loads(json.dumps(controller["spec"]["template"]))
    meta = objects.part(template, "metadata")
    meta = {
        "labels": objects.part(meta, "labels"),
        "annotations": objects.part(meta, "annotations"),
    }
    meta |= {
        "name": name,
        "namespace": controller["metadata"]["namespace"],
        "ownerReferences": objects.owned_by(controller, kind),
    }
    return {"metadata": meta, "spec": template["spec"]}


def _count(document: Document, name: str) -> int:
    return int(objects.part(document, "status").get(name) or 0)


def _status(
    resource: Resource[Document],
    document: Document,
    counts: dict[str, int],
    conditions: list[Document] | None = None,
) -> list[Action]:
    """A status patch if the numbers differ from what stands there."""
    wanted: Document = dict(counts)
    wanted["observedGeneration"] = document["metadata"].get("generation", 1)
    have = objects.part(document, "status")
    if all(have.get(name, 0) == value for name, value in wanted.items()):
        return []
    if conditions is not None:
        wanted["conditions"] = [
            one | {"lastUpdateTime": objects.now(), "lastTransitionTime": objects.now()}
            for one in conditions
        ]
    namespace, name = objects.key(document)
    return [Action("status", resource, namespace, name, {"status": wanted})]
