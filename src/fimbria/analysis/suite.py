"""Tests of policies as files: which manifests, which flows, and what must become of them.

    apiVersion: fimbria.io/v1
    kind: PolicyTest
    metadata: {name: shop}
    spec:
      resources: [shop.yaml]
      cases:
        - name: the shop asks its database
          allow: {from: shop/web, to: shop/db, ports: 5432}

`*.test.yaml` files hold them. Other documents of such a file (pods, namespaces, policies) belong to
the world of its tests. docs/reference/policy-test.schema.json is the contract, made from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.analysis.results import Outcome

if TYPE_CHECKING:
    from fimbria.analysis.flows import Flow
    from fimbria.sources.files import Manifest

KIND, GROUP = "PolicyTest", "fimbria.io"

WORDS = {"allow": Outcome.ALLOWED, "deny": Outcome.DENIED, "redirect": Outcome.REDIRECTED}
NOT_ASKED = ("-", None)
"""Cells of a table that say nothing."""

Ports = int | str | list[int | str]
Names = str | list[str]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What all parts of a test share: an unknown field is an error."""


class Flows(_Part, frozen=True):
    """Every pair of `from` and `to` at every port.

    Ends are written as flows write them; a name without namespace is in the test's own. A port is
    5432, "53/UDP", "8/ICMP" (the type); TCP if nothing is said.
    """

    to: Names
    ports: Ports
    source: Names = msgspec.field(name="from")


class Case(_Part, frozen=True):
    """What must become of flows: exactly one of `allow`, `deny` and `redirect`.

    `rule` must be among the rules that decide: "[KIND ][NAMESPACE/]NAME[ PATH]", where PATH is a
    field of the policy (`spec.ingress[0]`) or the start of one.
    """

    name: str = ""
    allow: Flows | None = None
    deny: Flows | None = None
    redirect: Flows | None = None
    rule: str = ""


class Table(_Part, frozen=True):
    """Cases as a table: `to` heads the columns, `from` has a row of cells for each source.

    A cell is allow, deny, redirect, or "-" for a pair that is not asked about; all `ports` are
    asked at each.
    """

    to: list[str]
    ports: Ports
    source: dict[str, list[str | None]] = msgspec.field(name="from")
    name: str = ""


class Options(_Part, frozen=True):
    """The agent's options that a verdict depends on, by their own names."""

    enable_policy: str = "default"
    policy_cidr_match_mode: list[str] = msgspec.field(default_factory=list[str])
    cluster_name: str = "default"
    labels: str = ""
    enable_host_firewall: bool = False
    enable_node_selector_labels: bool = False


class Body(_Part, frozen=True):
    """`resources` are files and folders, relative to the test's; without any, its own folder."""

    cases: list[Case] = msgspec.field(default_factory=list[Case])
    tables: list[Table] = msgspec.field(default_factory=list[Table])
    resources: list[str] = msgspec.field(default_factory=lambda: ["."])
    options: Options = Options()


class Meta(msgspec.Struct, frozen=True):
    """Names without namespace are in `namespace`."""

    name: str
    namespace: str = "default"


class PolicyTest(_Part, frozen=True, rename="camel"):
    """A test of policies: a world made of manifests, and what must become of flows in it."""

    api_version: str
    kind: str
    metadata: Meta
    spec: Body


@dataclass(frozen=True, slots=True)
class RuleWanted:
    """A rule that must decide; "" for parts that were left out."""

    text: str
    kind: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """A case: flows that must all become `outcome`. `line` is where it was written."""

    name: str
    line: int
    outcome: Outcome
    flows: tuple[Flow, ...]
    rule: RuleWanted | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """A PolicyTest as read. `paths` are its resources, `inline` the other documents of its file."""

    name: str
    file: str
    options: Options
    paths: tuple[str, ...]
    inline: tuple[Manifest, ...]
    cases: tuple[Expected, ...]


def schema() -> dict[str, Any]:
    """Return the JSON schema of a PolicyTest, for editors and docs/reference."""
    found = msgspec.json.schema(PolicyTest, ref_template="#/$defs/{name}")
    for part in found["$defs"].values():
        part["description"] = " ".join(part["description"].split())
    found["$defs"]["PolicyTest"]["properties"]["kind"] = {"const": KIND}
    found["$defs"]["PolicyTest"]["properties"]["apiVersion"] = {"const": f"{GROUP}/v1"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": KIND, **found}
