"""Scenario files: manifests in, the node's maps out, and the way back to empty.

A file has a comment, then sections `-- name --`: `options` (of NodeConfig, if any),
`manifests.yaml` (Namespace, Pod, Service, EndpointSlice, CiliumCIDRGroup, policies; a pod runs on
this node if its spec.nodeName is `here`), and `maps`, what must come of them. Numbers that
allocators choose are replaced by what they stand for, so that expectations do not churn.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fimbria.analysis.explain import ports_text
from fimbria.compile.delta import CIDR, IPCACHE, LXC, POLICY_REF
from fimbria.compile.ids import BUILT_IN, Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import (
    CidrInfo,
    EndpointIds,
    Family,
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyFlags,
    PolicyInfo,
    PolicyKey,
    PolicyRef,
    PolicyShape,
    RuleIds,
)
from fimbria.model.groups import read_group
from fimbria.model.identity import RESERVED, candidate
from fimbria.model.labels import pod_labels
from fimbria.model.policy import Protocol
from fimbria.model.policy_parse import KINDS, parse_policy
from fimbria.model.services import read_service, service_of
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

    def __init__(self, options: dict[str, Any]) -> None:
        if "cidr_match" in options:
            options["cidr_match"] = frozenset(options["cidr_match"])
        self.state = ClusterState("here", NodeConfig(**options))
        self.services: dict[object, dict[str, Any]] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.pods: dict[int, str] = {}
        self.names: dict[int, str] = {n: labels[0] for n, labels in RESERVED.items()}
        self.refused: list[str] = []
        for name, number in NODES.items():
            ip = bytes([172, 18, 0, number])
            routers = (bytes([10, 0, number, 1]),)
            cidrs, labels = (f"10.0.{number}.0/24",), (f"node:place={name}",)
            self.state.nodes.put(name, Node(name, (ip,), (), cidrs, ip, routers, labels))

    def apply(self, document: dict[str, Any]) -> None:
        """Take up one manifest."""
        meta = document["metadata"]
        if document["kind"] == "Namespace":
            self.namespaces[meta["name"]] = meta.get("labels", {})
        elif document["kind"] == "Pod":
            self._pod(document, meta)
        elif document["kind"] == "CiliumCIDRGroup":
            group = read_group(document)
            self.state.groups.put(group.name, group)
        elif document["kind"] in ("Service", "EndpointSlice"):
            self._service(document)
        else:
            assert document["kind"] in KINDS
            policy = parse_policy(document, node_labels=self.state.config.node_labels)
            self.state.policies.put(policy.key, policy)
            if policy.refusal is not None:
                self.refused.append(f"{policy.key}: {policy.refusal[0]}: {policy.refusal[1]}")

    def _service(self, document: dict[str, Any]) -> None:
        """A Service comes first, its EndpointSlice may follow."""
        if document["kind"] == "Service":
            service = read_service(document)
            self.services[service.namespace, service.name] = document
        else:
            service = read_service(self.services[service_of(document)], [document])
        self.state.services.put((service.namespace, service.name), service)

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


class Dump:
    """The maps as text, with names in place of numbers."""

    def __init__(self, world: World, compiler: Compiler) -> None:
        self.world = world
        self.compiler = compiler
        self.desired = compiler.desired()
        self.pods = {**world.pods, int(EndpointIds.HOST): "the node"}

    def lines(self) -> Iterator[str]:
        """All of it."""
        yield from (f"refused {line}" for line in sorted(self.world.refused))
        yield from self._endpoints()
        for key, value in sorted(self.desired.maps[IPCACHE].items()):
            info = IpcacheInfo.unpack(value)
            tunnel = ip_address(info.tunnel_endpoint)
            via = f" via {tunnel}" if info.tunnel_endpoint else ""
            yield f"ipcache {_prefix(key)} {self._name(info.sec_identity)}{via}"
        for key, value in sorted(self.desired.maps[CIDR].items()):
            yield f"cidr {_prefix(key)} {self._name(CidrInfo.unpack(value).identity)}"

    def _endpoints(self) -> Iterator[str]:
        refs = self.desired.maps[POLICY_REF]
        for key, value in sorted(refs.items()):
            name, ref = self.pods[int.from_bytes(key, "little")], PolicyRef.unpack(value)
            twins = sorted(
                self.pods[int.from_bytes(k, "little")]
                for k, v in refs.items()
                if v == value and k < key and ref.policy_id not in BUILT_IN
            )
            if twins:
                yield f"endpoint {name}: {self._flags(ref.policy_id)}, as {twins[0]}"
                continue
            yield f"endpoint {name}: {self._flags(ref.policy_id)}"
            yield from self._policy(ref.policy_id)
            if ref.shadow_id:
                yield f"  beside it, in audit: {self._flags(ref.shadow_id)}"
                yield from (f"  {line}" for line in self._policy(ref.shadow_id))

    def _flags(self, number: int) -> str:
        policy = BUILT_IN.get(number) or self.desired.policies[number]
        flags = PolicyInfo.unpack(policy.info).flags
        found = [
            f"{way.lower()} {'open' if flags & PolicyFlags[f'{way}_OPEN'] else 'enforced'}"
            for way in ("INGRESS", "EGRESS")
            if flags & PolicyFlags[way]
        ]
        return ", ".join(found) or "nothing enforced"

    def _policy(self, number: int) -> Iterator[str]:
        while number not in BUILT_IN:
            policy = self.desired.policies[number]
            yield from sorted(self._entry(key, value) for key, value in policy.entries.items())
            number = policy.next_id
            if number:
                yield f"  then: {self._flags(number)}"

    def _entry(self, key: bytes, value: bytes) -> str:
        where, entry = PolicyKey.unpack(key), PolicyEntry.unpack(value)
        way = "egress to" if where.shape & PolicyShape.EGRESS else "ingress from"
        peer = self._name(where.identity) if where.identity else "anyone"
        action = "redirect" if entry.proxy_port else "allow"
        action = PolicyEntryFlags(entry.flags).name or action if entry.flags else action
        rule = self.compiler.ids.rules.rule(entry.rule_id)
        name = RuleIds(entry.rule_id).name.lower() if rule is None else f"{rule[0]} {rule[1]}"
        what = f"{action.lower()} ({entry.precedence})"
        return f"  {way} {peer} {ports_text(where)}: {what} by {name}"

    def _name(self, identity: int) -> str:
        if identity in self.world.names:
            return self.world.names[identity]
        selectors = self.compiler.policies.selectors
        for row in selectors.cidrs.local():
            if row.number == identity:
                return f"{row.prefix}{' in the cluster' if row.match else ''}"
        labels = selectors.labels(identity)
        assert labels is not None
        return ",".join(text for text in labels.labels if text.startswith("node:"))


def _prefix(key: bytes) -> str:
    where = IpcacheKey.unpack(key)
    ip = where.ip[:4] if where.family == Family.IPV4 else where.ip
    return f"{ip_address(ip)}/{where.prefixlen - 32}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """The manifests give these maps, and taking them back leaves nothing."""
    head, parts = sections(path.read_text())
    world = World(yaml.safe_load(parts.get("options", "{}")))
    compiler = Compiler(world.state, Ids())
    for document in yaml.safe_load_all(parts["manifests.yaml"]):
        world.apply(document)
        compiler.update()
    got = "\n".join(Dump(world, compiler).lines()) + "\n"
    if request.config.getoption("--accept", default=False):
        parts["maps"] = got
        path.write_text(head + "".join(f"-- {name} --\n{text}" for name, text in parts.items()))
    else:
        assert got == parts["maps"]
    world.clear(policies_only=True)
    compiler.update()
    assert not compiler.desired().policies
    world.clear(policies_only=False)
    compiler.update()
    desired = compiler.desired()
    assert not desired.maps[LXC]
    assert not any(rows for name, rows in desired.maps.items() if name != POLICY_REF)
    assert not any(map(any, desired.maps[POLICY_REF].values()))
    assert not desired.routes
    assert Machine().actual().policies == desired.policies
