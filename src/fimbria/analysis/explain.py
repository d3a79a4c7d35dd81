"""From a rule id, as the kernel reports it, to the object, the field and the text that made it.

event.rule ──► RuleIds ──► (policy, path) ──► the object's text below that path
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fimbria.datapath.abi import PolicyEntryFlags, PolicyShape, RuleIds
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.compile.ids import Ids
    from fimbria.compile.state import ClusterState
    from fimbria.datapath.abi import PolicyEntry, PolicyKey
    from fimbria.datapath.lookup import Hit
    from fimbria.model.policy import Policy

BUILT_IN: Mapping[int, str] = {
    RuleIds.NONE: "no rule decided: nothing is enforced, or nothing allows it",
    RuleIds.ALLOW_LOCALHOST: "the node may reach its pods",
    RuleIds.ALLOW_ALL: "no policy that selects the endpoint denies by default",
}
"""What the rule ids say that no object made."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Explanation:
    """A rule id, explained. The object's fields are empty for the built-in ones."""

    rule_id: int
    text: str
    """YAML of the field, or a sentence for a built-in rule."""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as the agent's API gives it."""
        return {
            "rule": self.rule_id,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "path": self.path,
            "text": self.text,
        }


def explain_rule(rule_id: int, ids: Ids, state: ClusterState) -> Explanation | None:
    """Return what a rule id stands for; None if nothing has it."""
    if rule_id in BUILT_IN:
        return Explanation(rule_id, BUILT_IN[rule_id])
    rule = ids.rules.rule(rule_id)
    if rule is None:
        return None
    key, path = rule
    policy = state.policies.get(key)
    text = "" if policy is None else policy_text(policy, path)
    return Explanation(rule_id, text, key.kind, key.namespace, key.name, path)


def policy_text(policy: Policy, path: str) -> str:
    """Return the YAML of one field of a policy, "" if it has no such field."""
    value = policy_value(policy, path)
    if value is None or isinstance(value, str):
        return value or ""
    import yaml  # only here, because it takes as long to load as the rest of this package

    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False)


def policy_value(policy: Policy, path: str) -> Any:
    """Return one field of a policy, None if it has no such field."""
    value: Any = policy.document
    for name, index in _STEP.findall(path):
        if name and isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(name)
        elif index and isinstance(value, list) and int(index) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(index)]
        else:
            return None
    return value


def entry_text(key: PolicyKey, entry: PolicyEntry) -> str:
    """Return a policy map's entry as one line: `ingress identity 5 TCP 80/16 -> allow, rule 17`."""
    direction = "egress" if key.shape & PolicyShape.EGRESS else "ingress"
    peer = f"identity {key.identity}" if key.identity else "any identity"
    return f"{direction} {peer} {ports_text(key)} -> {action_text(entry)}, rule {entry.rule_id}"


def action_text(entry: PolicyEntry) -> str:
    """Return what an entry does: `allow`, `deny`, `pass`, `redirect to port 10080`."""
    if entry.flags & PolicyEntryFlags.DENY:
        return "deny"
    if entry.flags & PolicyEntryFlags.PASS:
        return "pass"
    return f"redirect to port {entry.proxy_port}" if entry.proxy_port else "allow"


def ports_text(key: PolicyKey) -> str:
    """Return protocol and ports of a key: `ANY`, `TCP`, `TCP 80`, `TCP 80-87`, `ICMP type 8`."""
    shape = key.shape & ~PolicyShape.EGRESS
    if shape == PolicyShape.ANY:
        return "ANY"
    try:
        protocol = Protocol(key.protocol).name
    except ValueError:
        protocol = str(key.protocol)
    if shape == PolicyShape.PROTO:
        return protocol
    last = key.dport + (1 << (PolicyShape.PORT - shape)) - 1
    word = "type " if protocol.startswith("ICMP") else ""
    return f"{protocol} {word}{key.dport}" + (f"-{last}" if last != key.dport else "")


def hit_text(hit: Hit) -> str:
    """Return what a lookup found as one line."""
    if not hit.enforced:
        return "nothing is enforced in this direction"
    if hit.key is None or hit.entry is None:
        return "no entry decides, and nothing denies" if hit.allowed else "no entry matches"
    return entry_text(hit.key, hit.entry)
