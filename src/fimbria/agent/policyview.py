"""What the policy part of the API shows: objects, selectors, rules, and why a packet was judged."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from fimbria.agent.held import Standing
from fimbria.agent.objects import Enforcement
from fimbria.agent.shadows import Shadows
from fimbria.analysis.explain import explain_rule
from fimbria.analysis.peertext import whom_text
from fimbria.compile.delta import IPCACHE
from fimbria.compile.ids import BUILT_IN
from fimbria.compile.ipcache import key as ipcache_key
from fimbria.datapath.abi import (
    Event,
    EventType,
    Identity,
    IpcacheInfo,
    PolicyFlags,
    PolicyInfo,
)
from fimbria.datapath.lookup import ipcache_lookup
from fimbria.model.peers import host_prefix
from fimbria.model.policy import Tier

if TYPE_CHECKING:
    from fimbria.agent.apply import Applier
    from fimbria.agent.cluster import Cluster
    from fimbria.agent.endpoints import Endpoints
    from fimbria.agent.held import Held
    from fimbria.compile.state import Node
    from fimbria.model.labels import Labels
    from fimbria.model.policy import Policy, PolicyKey

Document = dict[str, Any]

LOCAL, CUSTOM, GENERATED, SERVER = "local", "custom-resource", "generated", "kube-apiserver"


class PolicyView:
    """Read-only access to policies and to what was compiled from them."""

    def __init__(self, cluster: Cluster, applier: Applier, endpoints: Endpoints) -> None:
        self._cluster = cluster
        self._applier = applier
        self._endpoints = endpoints
        self.shadows = Shadows(self._rule_policy, self.audited)
        self._told: dict[int, Enforcement] = {}

    def enforcement(self, endpoint: int) -> Enforcement:
        """Return which directions are enforced for an endpoint, as compiled."""
        compiler = self._applier.compiler
        if compiler is None:
            return Enforcement(True, True)
        held = compiler.desired().policies
        flags, number = 0, compiler.policies.policy_id(endpoint)
        for _ in Tier:
            policy = BUILT_IN.get(number) or held.get(number)
            info = PolicyInfo.unpack(policy.info) if policy else PolicyInfo()
            flags, number = flags | info.flags, info.next_id
        row = self._cluster.state.local.get(endpoint)
        return Enforcement(
            bool(flags & PolicyFlags.INGRESS),
            bool(flags & PolicyFlags.EGRESS),
            self._cluster.state.config.audit or (row is not None and row.audit),
        )

    def take_changes(self) -> list[int]:
        """Return endpoints whose enforcement changed since the last call."""
        now = {endpoint.id: self.enforcement(endpoint.id) for endpoint in self._endpoints}
        changed = [number for number, value in now.items() if self._told.get(number) != value]
        self._told = now
        return changed

    def policies(self) -> list[Document]:
        """Return all policies, with status and the reason why one is not simply enforced."""
        return [self._policy(held) for held in self._cluster.policies]

    def _policy(self, held: Held) -> Document:
        policy, standing, reason = held.policy, held.standing, held.reason
        compiler = self._applier.compiler
        closed = compiler.policies.refused.get(held.key) if compiler else None
        failed = self._problem(held.key)
        if closed is not None and not held.withheld:
            standing, reason = Standing.REFUSED, closed
        elif failed and standing in (Standing.ENFORCED, Standing.PENDING):
            standing, reason = Standing.NOT_APPLIED, failed
        elif standing is Standing.ENFORCED and self._idle(policy):
            standing, reason = Standing.NOT_APPLIED, "about nodes, and enable-host-firewall is off"
        spec = held.document.get("specs") or held.document.get("spec")
        found: Document = {
            "kind": held.key.kind,
            "namespace": held.key.namespace,
            "name": held.key.name,
            "tier": policy.tier.name.capitalize() if policy else None,
            "priority": policy.priority if policy and policy.tier is not Tier.NORMAL else None,
            "rules": policy.rules if policy else 0,
            "status": str(standing),
            "reason": reason,
            "pending": list(held.pending),
            "in-force": self._in_force(held),
            "spec": spec,
        }
        if policy is not None and policy.audit:
            found["shadow"] = self.shadows.document(held.key)
        return found

    def _in_force(self, held: Held) -> str:
        """Return which version of an object is in force: this, previous or none."""
        absent = held.key not in self._cluster.state.policies
        if held.policy is None or absent or self._idle(held.policy):
            return "none"
        return "previous" if held.withheld else "this"

    def _idle(self, policy: Policy | None) -> bool:
        """Return whether a policy is about nodes only, on a node that is no endpoint."""
        specs = () if policy is None else policy.specs
        firewall = self._cluster.state.config.host_firewall
        return not firewall and bool(specs) and all(spec.host for spec in specs)

    def _problem(self, key: PolicyKey) -> str:
        """Return why endpoints that a policy selects could not be given their policy."""
        problems = self._applier.compiler.problems if self._applier.compiler else []
        return next((p.reason for p in problems if key in dict(p.policies)), "")

    def audited(self, endpoint: int) -> list[PolicyKey]:
        """Return the policies in audit mode that select an endpoint."""
        compiler, rows = self._applier.compiler, self._cluster.state.policies
        if compiler is None:
            return []
        keys = {key for key, _ in compiler.policies.selecting(endpoint)}
        return sorted(key for key in keys if key in rows and rows[key].audit)

    def _rule_policy(self, number: int) -> PolicyKey | None:
        rule = self._applier.ids.rules.rule(number)
        return rule[0] if rule else None

    def selectors(self) -> list[Document]:
        """Return the selectors in use, how many use each, and whom they select."""
        compiler = self._applier.compiler
        if compiler is None:
            return []
        return [
            {
                "selector": whom_text(whom),
                "labels": [],
                "users": users,
                "identities": sorted(numbers),
            }
            for whom, users, numbers in compiler.policies.selectors.lines()
        ]

    def rule(self, number: int) -> Document | None:
        """Return what a rule id stands for; None if it is none."""
        found = explain_rule(number, self._applier.ids, self._cluster.state)
        return found.document() if found else None

    def explain(self, event: Event) -> Document:
        """Return the rule that decided an event, or the policies whose default it was."""
        found = self.rule(event.rule) if event.rule else None
        if found is not None:
            return found
        if event.type == EventType.POLICY_VERDICT and event.verdict >= 0:
            return {"rule": 0, "kind": "", "namespace": "", "name": "", "path": "",
                    "text": "nothing is enforced"}  # fmt: skip
        compiler = self._applier.compiler
        selecting = compiler.policies.selecting(event.source) if compiler else []
        names = ", ".join(f"{key} ({path})" for key, path in selecting)
        text = f"no rule allows it; selected by {names}" if names else "no rule allows it"
        return {"rule": 0, "kind": "default deny", "namespace": "", "name": "", "path": "",
                "text": text}  # fmt: skip

    # -- addresses and nodes

    def pod_of(self, address: bytes) -> str:
        """Return namespace/name of this node's pod that has an address, "" if none has."""
        text = str(ip_address(address))
        for endpoint in self._endpoints:
            if text in (endpoint.file.ipv4, endpoint.file.ipv6):
                return endpoint.name
        return self._cluster.pod_names(address)

    def addresses(self) -> list[Document]:
        """Return every address in the ipcache with identity, source and tunnel endpoint."""
        state, found = self._cluster.state, list[Document]()
        for endpoint in self._endpoints:
            file = endpoint.file
            for ip in filter(None, (file.ipv4, file.ipv6)):
                found.append(_address(ip_address(ip).packed, file.identity, LOCAL)
                             | {"namespace": file.namespace, "pod": file.pod})  # fmt: skip
        for name, node in state.nodes.items():
            own = name == state.self_name
            default = Identity.HOST if own else Identity.REMOTE_NODE
            for ip in node.addresses:
                number = self.identity_of(ip) or int(default)
                source = LOCAL if own else SERVER if self._serves(ip) else CUSTOM
                found.append(_address(ip, number, source))
        for ip, row in state.remote.items():
            one = _address(ip, row.identity, CUSTOM)
            if row.node_ip:
                one["tunnel-endpoint"] = str(ip_address(row.node_ip))
            namespace, _, pod = self._cluster.pod_names(ip).partition("/")
            found.append(one | {"namespace": namespace, "pod": pod})
        return [*found, *self._prefixes()]

    def _prefixes(self) -> list[Document]:
        """Return the prefixes in use that are in the ipcache."""
        compiler = self._applier.compiler
        if compiler is None:
            return []
        ipcache = compiler.desired().maps[IPCACHE]
        found: list[Document] = []
        for one in compiler.policies.selectors.cidrs.local():
            value = ipcache.get(ipcache_key(one.prefix.ip, one.prefix.bits))
            if value is not None and IpcacheInfo.unpack(value).sec_identity == one.number:
                whole = one.prefix == host_prefix(one.prefix.ip)
                source = SERVER if whole and self._serves(one.prefix.ip) else GENERATED
                row = _address(one.prefix.ip, one.number, source)
                found.append({**row, "cidr": str(one.prefix)})
        return found

    def _serves(self, ip: bytes) -> bool:
        """Return whether an address is the API server's."""
        return ip in self._cluster.state.config.kube_apiserver

    def identity_of(self, ip: bytes) -> int:
        """Return the identity that the datapath sees in an address; 0 if it knows none."""
        compiler = self._applier.compiler
        found = ipcache_lookup(compiler.desired().maps[IPCACHE], ip) if compiler else None
        return found.sec_identity if found else 0

    def local_identities(self) -> dict[int, Labels]:
        """Return the identities that only this node has: of prefixes, and of nodes by labels."""
        compiler = self._applier.compiler
        if compiler is None:
            return {}
        cidrs = compiler.policies.selectors.cidrs.local()
        return {one.number: one.labels for one in cidrs} | dict(compiler.node_ids.local())

    def nodes(self) -> list[tuple[Node, bool]]:
        """Return the cluster's nodes, each with whether it is this one."""
        state = self._cluster.state
        return [(node, name == state.self_name) for name, node in sorted(state.nodes.items())]


def _address(ip: bytes, identity: int, source: str) -> Document:
    return {
        "cidr": f"{ip_address(ip)}/{len(ip) * 8}",
        "identity": identity,
        "source": source,
        "tunnel-endpoint": None,
        "namespace": "",
        "pod": "",
    }
