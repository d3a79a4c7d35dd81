"""Scenario files: manifests in, the node's maps out, and the way back to empty.

A file has a comment, then sections `-- name --`: `manifests.yaml` (Namespace, Pod, policies; a pod
runs on this node if its spec.nodeName is `here`), and `maps`, what must come of them. Numbers that
allocators choose are replaced by what they stand for, so that expectations do not churn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fimbria.analysis.explain import ports_text
from fimbria.compile.delta import IPCACHE, LXC, POLICY_REF
from fimbria.compile.ids import BUILT_IN, Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, RemoteEndpoint
from fimbria.datapath.abi import (
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyInfo,
    PolicyKey,
    PolicyRef,
    PolicyShape,
    RuleIds,
)
from fimbria.model.identity import RESERVED, candidate
from fimbria.model.labels import pod_labels
from fimbria.model.policy import Protocol
from fimbria.model.policy_parse import KINDS, parse_policy
from tests.property.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = sorted(Path(__file__).parent.glob("*.txtar"))
NODES = {"here": 1, "there": 2}


def sections(text: str) -> tuple[str, dict[str, str]]:
    """The comment, and the sections by name."""
    head, *rest = re.split(r"^-- (.+) --$", text, flags=re.M)
    return head, {rest[i]: rest[i + 1].lstrip("\n") for i in range(0, len(rest), 2)}


class World:
    """A node and one other; manifests are applied to it one by one."""

    def __init__(self) -> None:
        self.state = ClusterState("here")
        self.namespaces: dict[str, dict[str, str]] = {}
        self.pods: dict[int, str] = {}
        self.names: dict[int, str] = {n: labels[0] for n, labels in RESERVED.items()}
        self.refused: list[str] = []
        for name, number in NODES.items():
            ip = bytes([172, 18, 0, number])
            routers = (bytes([10, 0, number, 1]),)
            self.state.nodes.put(name, Node(name, (ip,), (), (f"10.0.{number}.0/24",), ip, routers))

    def apply(self, document: dict[str, Any]) -> None:
        """Take up one manifest."""
        meta = document["metadata"]
        if document["kind"] == "Namespace":
            self.namespaces[meta["name"]] = meta.get("labels", {})
        elif document["kind"] == "Pod":
            self._pod(document, meta)
        else:
            assert document["kind"] in KINDS
            policy = parse_policy(document)
            self.state.policies.put(policy.key, policy)
            if policy.refusal is not None:
                self.refused.append(f"{policy.key}: {policy.refusal[0]}: {policy.refusal[1]}")

    def _pod(self, document: dict[str, Any], meta: dict[str, Any]) -> None:
        namespace = meta.get("namespace", "default")
        labels = pod_labels(
            meta.get("labels", {}), namespace, self.namespaces.get(namespace, {}), "", "default"
        )
        identity = candidate(labels)
        self.state.identities.put(identity, labels)
        number = len(self.pods) + 1
        name = f"{namespace}/{meta['name']}"
        self.pods[number] = name
        have = self.names.get(identity)
        self.names[identity] = f"{have},{name}" if have else name
        named = tuple(
            (port["name"], int(Protocol[port.get("protocol", "TCP")]), port["containerPort"])
            for container in document["spec"].get("containers", [])
            for port in container.get("ports", [])
        )
        node = NODES[document["spec"]["nodeName"]]
        ip = bytes([10, 0, node, 10 + number])
        if node == NODES["here"]:
            mac = bytes([2, 0, 0, 0, 0, number])
            row = LocalEndpoint(number, 100 + number, mac, mac, ip, None, identity, named)
            self.state.local.put(number, row)
        else:
            other = bytes([172, 18, 0, node])
            self.state.remote.put(ip, RemoteEndpoint(ip, identity, other, named))

    def clear(self, *, policies_only: bool) -> None:
        """Take everything back."""
        self.state.policies.replace({})
        if not policies_only:
            for table in self.state.tables():
                table.replace({})


def dump(world: World, compiler: Compiler) -> Iterator[str]:
    """The maps as text, with names in place of numbers."""
    desired = compiler.desired()
    yield from (f"refused {line}" for line in sorted(world.refused))
    for key, value in sorted(desired.maps[POLICY_REF].items()):
        endpoint = int.from_bytes(key, "little")
        number = PolicyRef.unpack(value).policy_id
        policy = BUILT_IN.get(number) or desired.policies[number]
        flags = PolicyInfo.unpack(policy.info).flags
        enforced = "+".join(w for w, bit in (("ingress", 1), ("egress", 2)) if flags & bit)
        twins = sorted(
            world.pods[int.from_bytes(k, "little")]
            for k, v in desired.maps[POLICY_REF].items()
            if v == value and k < key and number not in BUILT_IN
        )
        like = f", shares the map of {twins[0]}" if twins else ""
        yield f"endpoint {world.pods[endpoint]}: {enforced or 'nothing'} enforced{like}"
        if not twins:
            yield from sorted(_entry(world, compiler, k, v) for k, v in policy.entries.items())
    for key, value in sorted(desired.maps[IPCACHE].items()):
        where, info = IpcacheKey.unpack(key), IpcacheInfo.unpack(value)
        ip = ".".join(map(str, where.ip[:4]))
        tunnel = ".".join(map(str, info.tunnel_endpoint.to_bytes(4, "big")))
        name = world.names.get(info.sec_identity, str(info.sec_identity))
        via = f" via {tunnel}" if info.tunnel_endpoint else ""
        yield f"ipcache {ip}/{where.prefixlen - 32} {name}{via}"


def _entry(world: World, compiler: Compiler, key: bytes, value: bytes) -> str:
    where, entry = PolicyKey.unpack(key), PolicyEntry.unpack(value)
    way = "egress to" if where.shape & PolicyShape.EGRESS else "ingress from"
    peer = world.names.get(where.identity, "anyone")
    action = "deny" if entry.flags & PolicyEntryFlags.DENY else "allow"
    rule = compiler.ids.rules.rule(entry.rule_id)
    name = RuleIds(entry.rule_id).name.lower() if rule is None else f"{rule[0]} {rule[1]}"
    return f"  {way} {peer} {ports_text(where)}: {action} by {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """The manifests give these maps, and taking them back leaves nothing."""
    head, parts = sections(path.read_text())
    world = World()
    compiler = Compiler(world.state, Ids())
    for document in yaml.safe_load_all(parts["manifests.yaml"]):
        world.apply(document)
        compiler.update()
    got = "\n".join(dump(world, compiler)) + "\n"
    if request.config.getoption("--accept", default=False):
        text = f"{head}-- manifests.yaml --\n{parts['manifests.yaml']}-- maps --\n{got}"
        path.write_text(text)
    else:
        assert got == parts["maps"]
    world.clear(policies_only=True)
    compiler.update()
    assert not compiler.desired().policies
    world.clear(policies_only=False)
    compiler.update()
    desired = compiler.desired()
    assert not desired.maps[LXC]
    assert not any(desired.maps.values())
    assert not desired.routes
    assert Machine().actual().policies == desired.policies
