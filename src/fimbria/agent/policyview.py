"""What the policy part of the API shows: objects, selectors, rules, and why a packet was judged."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from fimbria.agent.objects import Enforcement
from fimbria.analysis.explain import explain_rule
from fimbria.compile.ids import BUILT_IN
from fimbria.datapath.abi import Event, Identity, PolicyFlags, PolicyInfo

if TYPE_CHECKING:
    from fimbria.agent.apply import Applier
    from fimbria.agent.cluster import Cluster
    from fimbria.agent.endpoints import Endpoints
    from fimbria.compile.state import Node
    from fimbria.model.policy import Policy

Document = dict[str, Any]

LOCAL, CUSTOM = "local", "custom-resource"


class PolicyView:
    """Read-only access to policies and to what was compiled from them."""

    def __init__(self, cluster: Cluster, applier: Applier, endpoints: Endpoints) -> None:
        self._cluster = cluster
        self._applier = applier
        self._endpoints = endpoints
        self._told: dict[int, Enforcement] = {}

    def enforcement(self, endpoint: int) -> Enforcement:
        """Return which directions are enforced for an endpoint, as compiled."""
        compiler = self._applier.compiler
        if compiler is None:
            return Enforcement(True, True)
        number = compiler.policies.policy_id(endpoint)
        policy = BUILT_IN.get(number) or compiler.desired().policies.get(number)
        flags = PolicyInfo.unpack(policy.info).flags if policy else 0
        return Enforcement(
            bool(flags & PolicyFlags.INGRESS),
            bool(flags & PolicyFlags.EGRESS),
        )

    def take_changes(self) -> list[int]:
        """Return endpoints whose enforcement changed since the last call."""
        now = {endpoint.id: self.enforcement(endpoint.id) for endpoint in self._endpoints}
        changed = [number for number, value in now.items() if self._told.get(number) != value]
        self._told = now
        return changed

    def policies(self) -> list[Document]:
        """Return all policies, with status and the reason why one is refused."""
        problems = self._applier.compiler.problems if self._applier.compiler else []
        found = [_policy(policy) for _, policy in sorted(self._cluster.state.policies.items())]
        for problem in problems:
            for one in self._selecting(problem.endpoints):
                for document in found:
                    if _key(document) == one and document["status"] == "enforced":
                        document["status"], document["reason"] = "not applied", problem.reason
        return found

    def _selecting(self, endpoints: tuple[int, ...]) -> set[tuple[str, str, str]]:
        compiler = self._applier.compiler
        assert compiler is not None
        return {
            (key.kind, key.namespace, key.name)
            for number in endpoints
            for key, _ in compiler.policies.selecting(number)
        }

    def selectors(self) -> list[Document]:
        """Return the selectors in use, how many use each, and whom they select."""
        compiler = self._applier.compiler
        if compiler is None:
            return []
        return [
            {"selector": str(selector), "labels": [], "users": users, "identities": sorted(numbers)}
            for selector, users, numbers in compiler.policies.selectors.lines()
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
            for ip in node.addresses:
                number = Identity.HOST if own else Identity.REMOTE_NODE
                found.append(_address(ip, int(number), LOCAL if own else CUSTOM))
        for ip, row in state.remote.items():
            one = _address(ip, row.identity, CUSTOM)
            if row.node_ip:
                one["tunnel-endpoint"] = str(ip_address(row.node_ip))
            namespace, _, pod = self._cluster.pod_names(ip).partition("/")
            found.append(one | {"namespace": namespace, "pod": pod})
        return found

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


def _key(document: Document) -> tuple[str, str, str]:
    return document["kind"], document["namespace"], document["name"]


def _policy(policy: Policy) -> Document:
    reason = ": ".join(policy.refusal) if policy.refusal else ""
    return {
        "kind": policy.key.kind,
        "namespace": policy.key.namespace,
        "name": policy.key.name,
        "rules": policy.rules,
        "status": "refused" if reason else "enforced",
        "reason": reason,
        "spec": policy.document.get("specs") or policy.document.get("spec"),
    }
