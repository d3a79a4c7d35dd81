"""Label selectors: Kubernetes' four operators over labels with a source.

A key is `source:key`; source `any` matches the key in every source. A selector is a canonical
value: the same demands written differently are equal, so that they are worked out once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.model.labels import LabelSet


class Operator(StrEnum):
    """Operators of matchExpressions."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One demand on a set of labels. `values` is sorted; empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def met(self, labels: LabelSet) -> bool:
        """Return whether `labels` meet it. NotIn is met where the key is absent (Kubernetes)."""
        have = labels.values.get(self.key)
        if self.operator is Operator.EXISTS:
            return have is not None
        if self.operator is Operator.DOES_NOT_EXIST:
            return have is None
        found = have is not None and any(value in self.values for value in have)
        return found if self.operator is Operator.IN else not found


@dataclass(frozen=True, slots=True)
class Selector:
    """All of `requirements` (sorted, without duplicates) must be met; none selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: LabelSet) -> bool:
        """Return whether `labels` are selected."""
        return all([requirement.met(labels) for requirement in self.requirements])

    def names(self, *keys: str) -> bool:
        """Return whether any requirement is about one of `keys`, or about a key below `key.`."""
        return any(
            requirement.key == key or requirement.key.startswith(f"{key}.")
            for requirement in self.requirements
            for key in keys
        )

    def has_source(self, source: str) -> bool:
        """Return whether any requirement is about a label of this source."""
        return any(requirement.key.startswith(f"{source}:") for requirement in self.requirements)

    def also(self, *requirements: Requirement) -> Selector:
        """Return a selector that demands `requirements` too."""
        return selector((*self.requirements, *requirements))

    def __str__(self) -> str:
        """Return it as JSON: {"matchLabels": …, "matchExpressions": …}."""
        labels: dict[str, str] = {}
        expressions: list[dict[str, object]] = []
        for row in self.requirements:
            if row.operator is Operator.IN and len(row.values) == 1 and row.key not in labels:
                labels[row.key] = row.values[0]
            else:
                values = {"values": list(row.values)} if row.values else {}
                expressions.append({"key": row.key, "operator": str(row.operator), **values})
        document: dict[str, object] = {}
        if labels:
            document["matchLabels"] = labels
        if expressions:
            document["matchExpressions"] = expressions
        return json.dumps(document, separators=(",", ":"))


def selector(requirements: Iterable[Requirement]) -> Selector:
    """Return the canonical selector of these requirements."""
    return Selector(tuple(sorted(set(requirements))))


def equals(key: str, value: str) -> Requirement:
    """Return the requirement of one matchLabels entry."""
    return Requirement(key, Operator.IN, (value,))


def exists(key: str) -> Requirement:
    """Return the requirement that a label of this key is there."""
    return Requirement(key, Operator.EXISTS)


EVERYTHING = Selector()
