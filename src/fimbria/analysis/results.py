"""Verdicts as values, and as the JSON that `fimbria policy eval` prints.

A flow has two halves: what the source's egress policies say, and what the destination's ingress
policies say. docs/reference/policy-eval.schema.json is the contract.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from fimbria.model.policy import PolicyKey


class Outcome(StrEnum):
    """What becomes of a packet. REDIRECTED: it goes to a proxy for its layer 7 rules."""

    ALLOWED = "ALLOWED"
    DENIED = "DENIED"
    REDIRECTED = "REDIRECTED"


class Because(StrEnum):
    """Why a half is what it is.

    "not selected": there are policies, but none is about this end in this direction (none ever is
    about addresses outside and entities). "no policy": there is not one in the world, or
    enable-policy is "never". "no default deny": policies select it, no rule matches, and none of
    them denies by default. "default deny": a policy that selects it denies what no rule allows.
    "refused policy": one that selects it cannot be enforced and closes it. "local node": a node may
    reach the pods that run on it. "reply": its connection was allowed to open.
    """

    ALLOW_RULE = "allow rule"
    DENY_RULE = "deny rule"
    DEFAULT_DENY = "default deny"
    NOT_SELECTED = "not selected"
    NO_POLICY = "no policy"
    REPLY = "reply"
    REDIRECT = "L7 redirect"
    NO_DEFAULT_DENY = "no default deny"
    LOCAL_NODE = "local node"
    REFUSED = "refused policy"


class PolicyName(msgspec.Struct, frozen=True):
    """A policy object; `namespace` is "" for a clusterwide one."""

    kind: str
    namespace: str
    name: str


class Half(msgspec.Struct, frozen=True, omit_defaults=True):
    """One direction's verdict.

    `policy` and `rule` (the path of the field in it) decided: the first of those that decide alike,
    for a default deny the first policy that denies by default. `entry` is the map entry that
    decided, in the words of `fimbria bpf policy get`; only of judges that look at maps. `file` and
    `line` are where the rule was read.
    """

    verdict: Outcome
    reason: Because
    policy: PolicyName | None
    rule: str | None
    entry: str | None
    file: str | None = None
    line: int | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to one flow. `backend` is the pod or address that a Service stood for.

    Where several stand behind it, it is the first one with the worst verdict.
    """

    source: str
    destination: str
    protocol: str
    port: int
    verdict: Outcome
    egress: Half
    ingress: Half
    backend: str | None = None

    @property
    def allowed(self) -> bool:
        """Return whether the packet passes (a redirect does, as far as L3/L4 policy goes)."""
        return self.verdict is not Outcome.DENIED


def together(egress: Half, ingress: Half) -> Outcome:
    """Return the verdict of a flow from its halves'."""
    halves = (egress.verdict, ingress.verdict)
    for one in (Outcome.DENIED, Outcome.REDIRECTED):
        if one in halves:
            return one
    return Outcome.ALLOWED


def policy_name(key: PolicyKey) -> PolicyName:
    """Return a policy's key as results name it."""
    return PolicyName(*key)
