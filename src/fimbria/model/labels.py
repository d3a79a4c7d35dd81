"""Labels: what identities are made of, and the filter that decides which labels count.

A label is the text `source:key=value` ("k8s:app=web", "reserved:host"), and a set of labels is a
sorted tuple of such texts: it is hashable, compact, and reads the same in an API object, a file and
a test. `LabelSet` is the same set prepared for matching.

Source of the rules: Cilium's identity-relevant labels (docs/reference of this project, labels).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Labels = tuple[str, ...]
"""Labels as `source:key=value`, sorted."""

NAMESPACE = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels"
SERVICE_ACCOUNT = "io.cilium.k8s.policy.serviceaccount"
CLUSTER = "io.cilium.k8s.policy.cluster"
_GIVEN = (NAMESPACE, NAMESPACE_LABELS, SERVICE_ACCOUNT, CLUSTER)
"""How keys begin that say where a pod runs: whoever writes the pod cannot choose them."""

DEFAULT_RULES = (
    r"reserved:.* io\.kubernetes\.pod\.namespace io\.cilium\.k8s\.namespace\.labels "
    r"app\.kubernetes\.io io\.cilium\.k8s\.policy\.cluster !io\.kubernetes !kubernetes\.io "
    r"!statefulset\.kubernetes\.io/pod-name !apps\.kubernetes\.io/pod-index "
    r"!batch\.kubernetes\.io/job-completion-index !batch\.kubernetes\.io/controller-uid "
    r"!.*beta\.kubernetes\.io !k8s\.io !pod-template-generation !pod-template-hash "
    r"!controller-revision-hash !annotation.* !controller-uid !etcd_node"
)
"""What is filtered where nothing else is configured; configured rules come on top of it."""


class LabelError(ValueError):
    """A label or a filter rule that cannot be read; the message names it."""


class Label(NamedTuple):
    """One label in its parts."""

    source: str
    key: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.key}" + (f"={self.value}" if self.value else "")


def parse(text: str) -> Label:
    """Return the parts of `[source:]key[=value]`; without a source it is "unspec".

    Raises LabelError for an empty key.
    """
    name, _, value = text.partition("=")
    source, colon, key = name.partition(":")
    if not colon:
        source, key = "unspec", name
    if not key or not source:
        raise LabelError(f"label {text!r} has no key")
    return Label(source, key, value)


def canonical(texts: Iterable[str]) -> Labels:
    """Return labels in the one form that is compared: formatted alike, sorted, no duplicates."""
    return tuple(sorted({str(parse(text)) for text in texts}))


class LabelSet:
    """Labels prepared for matching: every value of `source:key` and of `any:key` at hand."""

    __slots__ = ("labels", "values")

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels: Labels = tuple(labels)
        self.values: dict[str, tuple[str, ...]] = {}
        for text in self.labels:
            source, key, value = parse(text)
            for name in (f"{source}:{key}", f"any:{key}"):
                have = self.values.get(name, ())
                self.values[name] = have if value in have else (*have, value)


@dataclass(frozen=True, slots=True)
class _Rule:
    source: str
    pattern: re.Pattern[str]
    exclude: bool

    def length(self, label: Label) -> int:
        """Return how much of the key's start matches, -1 for nothing."""
        if self.source and self.source != label.source:
            return -1
        found = self.pattern.match(label.key)
        return found.end() if found else -1


def _rule(text: str) -> _Rule:
    exclude = text.startswith("!")
    source, colon, pattern = text.lstrip("!").partition(":")
    if not colon:
        source, pattern = "", source
    try:
        return _Rule(source, re.compile(pattern), exclude)
    except re.error as error:
        raise LabelError(f"label rule {text!r}: {error}") from error


class LabelFilter:
    """Decides which labels are part of an identity.

    `text` are rules, separated by spaces: `[!][source:]regex`, matched at the start of a key. The
    longest match wins, an inclusion at equal length. As soon as one of them includes, labels that
    no rule includes are dropped. Raises LabelError for a rule that is no regular expression.
    """

    def __init__(self, text: str = "") -> None:
        own = [_rule(word) for word in text.split()]
        self._rules = [_rule(word) for word in DEFAULT_RULES.split()] + own
        self._only_included = any(not rule.exclude for rule in own)

    def keeps(self, label: Label) -> bool:
        """Return whether a label is part of the identity."""
        included = excluded = -1
        for rule in self._rules:
            length = rule.length(label)
            if rule.exclude:
                excluded = max(excluded, length)
            else:
                included = max(included, length)
        if self._only_included:
            return included >= 0 and included >= excluded
        return included >= excluded

    def pod_labels(
        self,
        labels: Mapping[str, str],
        namespace: str,
        namespace_labels: Mapping[str, str],
        service_account: str,
        cluster: str,
    ) -> Labels:
        """Return a pod's identity labels, from its own labels and where it runs.

        What a pod says itself about where it runs does not count.
        """
        found = [
            Label("k8s", key, value) for key, value in labels.items() if not key.startswith(_GIVEN)
        ]
        found += [
            Label("k8s", f"{NAMESPACE_LABELS}.{key}", value)
            for key, value in namespace_labels.items()
        ]
        found += [Label("k8s", NAMESPACE, namespace), Label("k8s", CLUSTER, cluster)]
        found.append(Label("k8s", SERVICE_ACCOUNT, service_account or "default"))
        kept = {label[:2]: str(label) for label in found if self.keeps(label)}
        return tuple(sorted(kept.values()))


@lru_cache(maxsize=8)
def label_filter(text: str) -> LabelFilter:
    """Return the filter of a `labels` configuration value, made once. Raises LabelError."""
    return LabelFilter(text)


def pod_labels(
    labels: Mapping[str, str],
    namespace: str,
    namespace_labels: Mapping[str, str],
    service_account: str,
    cluster: str,
    option: str = "",
) -> Labels:
    """Return a pod's identity labels; `option` is the `labels` configuration value."""
    return label_filter(option).pod_labels(
        labels, namespace, namespace_labels, service_account, cluster
    )
