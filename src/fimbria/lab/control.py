"""The supervisor's socket: one JSON request per connection, answered in lines of JSON.

{"op": "status"}                          the status document
{"op": "down"}                            ends the lab
{"op": "wait", "objects": [[kind, namespace, name], …]}
                                          {"pending": [text, …]} until it is empty
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from fimbria.lab import objects
from fimbria.lab.supervisor import GIVE_UP

if TYPE_CHECKING:
    import socket

    from fimbria.lab.supervisor import Supervisor

Document = dict[str, Any]


async def serve(supervisor: Supervisor) -> None:
    """Answer until cancelled."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError, KeyError):
            request: Document = json.loads(await reader.readline())
            await _answer(supervisor, request, writer)
        writer.close()

    server = await asyncio.start_unix_server(answer, str(supervisor.paths.control))
    os.chmod(supervisor.paths.control, 0o600)
    async with server:
        await server.serve_forever()


async def announce(supervisor: Supervisor, caller: socket.socket) -> None:
    """Tell `lab up` how far we are: "api", "node NAME", at last "ready"; or "failed REASON"."""
    loop = asyncio.get_running_loop()
    kubelets = supervisor.kubelets
    assert kubelets is not None

    async def say(text: str) -> None:
        with contextlib.suppress(OSError):
            await loop.sock_sendall(caller, f"{text}\n".encode())

    while not kubelets.api_up.is_set():
        changed = supervisor.changed
        if supervisor.daemons["apiserver"].ends >= GIVE_UP:
            await say("failed apiserver: it does not stay up")
        await changed.wait()
    await say("api")
    told: set[str] = set()
    while told != set(supervisor.nodes):
        changed = supervisor.changed
        for name in sorted(supervisor.ready_nodes - told):
            told.add(name)
            await say(f"node {name}")
        for name in set(supervisor.nodes) - told:
            if supervisor.daemons[name].ends >= GIVE_UP:
                await say(f"failed {name}: its agent does not stay up")
        if told != set(supervisor.nodes):
            await changed.wait()
    await say("ready")


async def _answer(supervisor: Supervisor, request: Document, writer: asyncio.StreamWriter) -> None:
    operation = request["op"]
    if operation == "status":
        await _send(writer, status(supervisor))
    elif operation == "down":
        supervisor.end.set()
    elif operation == "wait":
        last: list[str] | None = None
        while last != []:
            changed = supervisor.changed
            found = pending(supervisor, request["objects"])
            if found != last:
                last = found
                await _send(writer, {"pending": found})
            if found:
                await changed.wait()


async def _send(writer: asyncio.StreamWriter, document: Document) -> None:
    writer.write(json.dumps(document).encode() + b"\n")
    await writer.drain()


def status(supervisor: Supervisor) -> Document:
    """`lab status -o json`: nodes and pods with the machine's pids and paths from outside."""
    spec, paths, here = supervisor.spec, supervisor.paths, supervisor.host_pid
    nodes: list[Document] = []
    for index, name in enumerate(spec.node_names()):
        daemon = supervisor.daemons.get(name)
        nodes.append(
            {
                "name": name,
                "agent_pid": daemon.pid if daemon else 0,
                "netns": paths.outside(paths.netns(name), here),
                "addresses": spec.node_addresses(index),
                "bpffs": paths.outside(paths.bpffs(name), here),
                "socket": str(paths.socket(name)),
                "log": str(paths.agent_log(name)),
                "ready": name in supervisor.ready_nodes,
                "restarts": daemon.ends if daemon else 0,
            }
        )
    daemons = supervisor.daemons
    return {
        "name": spec.name,
        "routing": spec.routing,
        "ipv6": spec.ipv6,
        "host_routing": spec.host_routing,
        "supervisor_pid": here,
        "apiserver_pid": daemons["apiserver"].pid if "apiserver" in daemons else 0,
        "operator_pid": daemons["operator"].pid if "operator" in daemons else 0,
        "netns": f"/proc/{here}/ns/net",
        "kubeconfig": str(paths.kubeconfig),
        "directory": str(paths.directory),
        "nodes": nodes,
        "pods": _pods(supervisor, here),
    }


def _pods(supervisor: Supervisor, here: int) -> list[Document]:
    kubelets = supervisor.kubelets
    if kubelets is None:
        return []
    found: list[Document] = []
    for (namespace, name), pod in sorted(kubelets.cluster.state.pods.items()):
        runner = kubelets.runners.get(pod["metadata"]["uid"])
        box = runner.box if runner else None
        current = runner.report.status() if runner else objects.part(pod, "status")
        entry: Document = {
            "namespace": namespace,
            "name": name,
            "node": pod["spec"].get("nodeName") or "",
            "netns": "",
            "addresses": runner.state.addresses if runner else objects.addresses(pod),
            "ready": objects.ready({"status": current}),
            "phase": current.get("phase") or "Pending",
            "pids": [one.pid for one in runner.state.containers if one.pid] if runner else [],
            "reason": _reason(current),
        }
        if box is not None:
            net = supervisor.paths.outside(box.path, here) if box.path else ""
            entry["netns"] = net or f"/proc/{here}/fd/{box.net}"
            entry["mntns"] = f"/proc/{here}/fd/{box.mnt}"
            entry["utsns"] = f"/proc/{here}/fd/{box.uts}"
            entry["pidns"] = f"/proc/{here}/ns/pid"
            entry["cgroup"] = f"pod-{pod['metadata']['uid']}"
            entry["container_id"] = box.container_id
        found.append(entry)
    return found


def _reason(current: Document) -> str:
    """Why a pod's containers do not run, in one line."""
    for one in objects.parts(current, "containerStatuses"):
        waiting = objects.part(one["state"], "waiting")
        if waiting.get("message"):
            return f"{waiting['reason']}: {waiting['message']}"
    return ""


def pending(supervisor: Supervisor, wanted: list[list[str]]) -> list[str]:
    """Which of the wanted objects are not ready, and what they lack."""
    assert supervisor.kubelets is not None
    state = supervisor.kubelets.cluster.state
    found: list[str] = []
    for kind, namespace, name in wanted:
        key = (namespace, name)
        if kind == "Pod":
            pod = state.pods.get(key)
            done = pod is not None and (objects.ready(pod) or objects.finished(pod))
            why = _reason(objects.part(pod or {}, "status"))
            text = f"pod {namespace}/{name}" + (f" ({why})" if why else "")
        elif kind in ("Deployment", "ReplicaSet", "DaemonSet"):
            rows = {
                "Deployment": state.deployments,
                "ReplicaSet": state.replica_sets,
                "DaemonSet": state.daemon_sets,
            }[kind]
            have, want = _progress(kind, rows.get(key))
            done = rows.get(key) is not None and have >= want
            text = f"{kind.lower()} {namespace}/{name} ({have}/{want})"
        else:
            continue
        if not done:
            found.append(text)
    return found


def _progress(kind: str, document: Document | None) -> tuple[int, int]:
    """How many pods are ready, and how many are wanted."""
    if document is None:
        return 0, 1
    current = objects.part(document, "status")
    if current.get("observedGeneration", 0) < document["metadata"].get("generation", 1):
        return 0, 1
    if kind == "DaemonSet":
        return current.get("numberReady", 0), current.get("desiredNumberScheduled", 0)
    updated = current.get("updatedReplicas", current.get("readyReplicas", 0))
    return min(current.get("readyReplicas", 0), updated), document["spec"].get("replicas", 1)
