"""Finds what is likely to be a mistake in policies that are valid.

    manifests ─► World ─► Linted ─► checks (lintpeers, lintrules) ─► Finding, less what is ignored

A comment `# fimbria:ignore CODE` on a finding's line, or on the line above, takes it away, and so
does the annotation `fimbria.io/lint-ignore` on the object. Checks that compare with pods are left
out where the manifests have none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fimbria.analysis.collect import Collector
from fimbria.analysis.engine import Engine
from fimbria.analysis.objects import group_of
from fimbria.model.fields import mapping
from fimbria.model.labels import LabelSet
from fimbria.model.peers import host_prefix, prefix
from fimbria.sources.files import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fimbria.analysis.world import World
    from fimbria.model.peers import Prefix
    from fimbria.model.policy import Policy, Rule, Spec
    from fimbria.model.selector import Selector
    from fimbria.sources.files import Manifest

IGNORE_ANNOTATION = "fimbria.io/lint-ignore"
_IGNORE = re.compile(r"#\s*fimbria:ignore\s+([\w-]+(?:\s*,\s*[\w-]+)*)")


class Severity(StrEnum):
    """How bad a finding is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Code(NamedTuple):
    """A kind of finding: how bad it is, and what it means."""

    severity: Severity
    meaning: str


_ERROR, _WARNING, _INFO = Severity

CODES: Mapping[str, Code] = {
    "unreadable": Code(_ERROR, "A document could not be read, so nothing is known about it."),
    "refused-policy": Code(
        _ERROR, "The policy cannot be enforced; what it selects is closed instead."
    ),
    "needs-proxy": Code(
        _WARNING, "What is written at layer 7 or for DNS names is denied while no proxy listens."
    ),
    "subject-selects-nothing": Code(
        _WARNING, "The policy is about no pod, or node, of the manifests."
    ),
    "peer-selects-nothing": Code(
        _WARNING, "A peer of a rule is no pod, Service or CIDR group of the manifests."
    ),
    "unknown-namespace": Code(_WARNING, "A selector names a namespace that is not there."),
    "unknown-port-name": Code(_WARNING, "No pod that could receive names this port."),
    "cluster-cidr": Code(
        _WARNING,
        "The CIDR has addresses of the cluster only, which CIDRs do not match by default.",
    ),
    "empty-cidr": Code(_WARNING, "The exceptions cover all of the CIDR."),
    "nobody": Code(_WARNING, "The rule has no peers, so it is about nobody."),
    "shadowed-rule": Code(_WARNING, "The rule never decides: others always come before it."),
    "duplicate-rule": Code(_WARNING, "Another rule says the same about the same pods."),
    "redundant-rule": Code(_INFO, "Another rule says all of this already."),
    "no-effect": Code(_WARNING, "The policy, or one of its specs, changes nothing."),
    "open-to-all": Code(_WARNING, "Everybody, or the whole world, is allowed at every port."),
    "whole-namespace": Code(
        _INFO, "All pods of a namespace, or of more, are allowed at every port."
    ),
}


class Finding(msgspec.Struct, frozen=True, order=True):
    """What was found, where, and what to do. `policy` and `path` are "" for files."""

    file: str
    line: int
    code: str
    severity: Severity
    policy: str
    path: str
    message: str
    fix: str


@dataclass(frozen=True)
class Linted:
    """A world with what checks need to know about it.

    `namespaces` are those that have an object; `pod_cidrs` are the cluster's beyond its nodes'.
    """

    world: World
    engine: Engine
    namespaces: frozenset[str]
    pod_cidrs: tuple[Prefix, ...]

    @cached_property
    def labels(self) -> dict[int, LabelSet]:
        """Labels of every identity, reserved ones included."""
        return {number: LabelSet(labels) for number, labels in self.world.identities.items()}

    @cached_property
    def known_namespaces(self) -> frozenset[str]:
        """Namespaces that have an object, or pods."""
        return self.namespaces | {pod.namespace for pod in self.world.pods.values()}

    @cached_property
    def cluster(self) -> tuple[Prefix, ...]:
        """Prefixes in which all addresses are the cluster's."""
        world = self.world
        nodes = [prefix(text) for node in world.nodes.values() for text in node.pod_cidrs]
        known = [host_prefix(ip) for ip in (*world.by_address, *world.node_of)]
        return (*self.pod_cidrs, *nodes, *known)

    @property
    def policies(self) -> list[Policy]:
        """The policies in force, in object order."""
        found = [one for one in self.world.policies.values() if one.refusal is None]
        return sorted(found, key=lambda one: one.key)

    def rules(self) -> Iterator[tuple[Policy, Spec, Rule]]:
        """Yield the rules of policies in force, in object order."""
        for policy in self.policies:
            for spec in policy.specs:
                for rule in spec.rules:
                    yield policy, spec, rule

    def chosen(self, selector: Selector) -> frozenset[int]:
        """Return the identities that a selector selects, reserved ones included."""
        found = self._chosen.get(selector)
        if found is None:
            found = frozenset(n for n, own in self.labels.items() if selector.matches(own))
            self._chosen[selector] = found
        return found

    def units(self, spec: Spec) -> frozenset[int]:
        """Return the endpoint ids that a spec is about; none for one about nodes."""
        if spec.host:
            return frozenset()
        chosen = self.chosen(spec.subject)
        return frozenset(n for unit, n in self.world.units.items() if unit.identity in chosen)

    @cached_property
    def _chosen(self) -> dict[Selector, frozenset[int]]:
        return {}

    def finding(self, code: str, policy: Policy, path: str, message: str, fix: str) -> Finding:
        """Return a finding about a field of a policy."""
        manifest = self.world.manifests.get(policy.key)
        file, line = ("", 1) if manifest is None else (manifest.file, manifest.line(path))
        severity = CODES[code].severity
        return Finding(file, line, code, severity, str(policy.key), path, message, fix)


def lint(
    documents: Iterable[Manifest | ManifestError],
    *,
    enable_policy: str = "default",
    cidr_match: Iterable[str] = (),
    pod_cidrs: Iterable[str] = (),
    ignore: Iterable[str] = (),
    node_labels: bool = False,
    cluster: str = "default",
    labels: str = "",
) -> list[Finding]:
    """Return what is found in manifests, by file and line.

    `pod_cidrs` are the cluster's, beyond those of Node objects; `ignore` are codes; the
    rest are the agent's options. Raises ValueError for a `pod_cidrs` that is no prefix.
    """
    from fimbria.analysis.lintpeers import PEER_CHECKS
    from fimbria.analysis.lintrules import RULE_CHECKS

    collector = Collector(cluster=cluster, labels=labels, node_labels=node_labels)
    namespaces: set[str] = set()
    for one in documents:
        collector.take(one)
        if not isinstance(one, ManifestError) and (group_of(one), one.kind) == ("", "Namespace"):
            namespaces.add(one.name)
    world = collector.world()
    engine = Engine(world, enable_policy, cidr_match)
    known = tuple(prefix(text) for text in pod_cidrs)
    linted = Linted(world, engine, frozenset(namespaces), known)
    found = {one for check in (_files, _pending, *PEER_CHECKS, *RULE_CHECKS)
             for one in check(linted)}  # fmt: skip
    ignored = _Ignored(world, frozenset(ignore))
    return sorted(one for one in found if not ignored.covers(one))


def _files(linted: Linted) -> Iterator[Finding]:
    world = linted.world
    for code, errors in (("unreadable", world.errors), ("refused-policy", world.warnings)):
        severity = CODES[code].severity
        for one in errors:
            message, fix = one.reason, "see `fimbria policy validate`"
            yield Finding(one.file, one.line, code, severity, "", one.field, message, fix)


def _pending(linted: Linted) -> Iterator[Finding]:
    for policy in linted.policies:
        for path, reason in policy.pending:
            fix = "allow the port without it until a proxy listens"
            yield linted.finding("needs-proxy", policy, path, reason, fix)


class _Ignored:
    """What authors do not want to hear: by comment, by annotation, by option."""

    def __init__(self, world: World, codes: frozenset[str]) -> None:
        self._codes = codes
        self._lines: dict[str, list[str]] = {}
        self._objects: dict[str, set[str]] = {}
        for key, policy in world.policies.items():
            annotations = mapping(mapping(policy.document.get("metadata")).get("annotations"))
            text = annotations.get(IGNORE_ANNOTATION)
            if isinstance(text, str):
                self._objects[str(key)] = set(re.split(r"[\s,]+", text.strip()))

    def covers(self, one: Finding) -> bool:
        """Return whether a finding is ignored."""
        if one.code in self._codes or one.code in self._objects.get(one.policy, ()):
            return True
        lines = self._text(one.file)
        near = lines[max(one.line - 2, 0) : one.line]
        alone = [text for text in near[:-1] if text.lstrip().startswith("#")]
        return any(one.code in _named(text) for text in (*alone, *near[-1:]))

    def _text(self, file: str) -> list[str]:
        found = self._lines.get(file)
        if found is None:
            try:
                found = Path(file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                found = []
            self._lines[file] = found
        return found


def _named(line: str) -> list[str]:
    """Return the codes that a line's comment names."""
    match = _IGNORE.search(line)
    return re.split(r"\s*,\s*", match[1]) if match is not None else []
