"""A policy object of the API, and how it is dealt with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from fimbria.agent.objects import Judgement

if TYPE_CHECKING:
    from fimbria.model.policy import Policy, PolicyKey
    from fimbria.sources.resources import Document, Resource


class Standing(StrEnum):
    """How an object is dealt with."""

    ENFORCED = "enforced"
    PENDING = "pending"
    """Enforced, but for parts that nothing can do yet: their traffic is denied."""
    AUDITED = "audited"
    """Judged and reported, not enforced."""
    REFUSED = "refused"
    """Cannot be enforced: what it selects is closed."""
    NOT_APPLIED = "not applied"
    """Not taken up by this node: what was in force before, or nothing, stays."""


@dataclass(slots=True)
class Held:
    """An object of the API. `policy` None: it cannot even be named; `error` says why.

    `withheld`: why this version is not in force, "" if it is.
    """

    key: PolicyKey
    resource: Resource[Document]
    document: Document
    policy: Policy | None = None
    error: str = ""
    withheld: str = ""
    told: Judgement | None = None
    """What was last told of it."""

    @property
    def refusal(self) -> str:
        """Return field and reason if the object cannot be enforced, "" otherwise."""
        if self.policy is None or self.policy.refusal is None:
            return self.error
        return ": ".join(part for part in self.policy.refusal if part)

    @property
    def pending(self) -> tuple[str, ...]:
        """Return "field: reason" of each part that is denied until something can do it."""
        return tuple(f"{path}: {why}" for path, why in self.policy.pending) if self.policy else ()

    @property
    def standing(self) -> Standing:
        """Return how it is dealt with."""
        if self.withheld:
            return Standing.NOT_APPLIED
        if self.refusal:
            return Standing.REFUSED
        if self.policy is not None and self.policy.audit:
            return Standing.AUDITED
        return Standing.PENDING if self.pending else Standing.ENFORCED

    @property
    def reason(self) -> str:
        """Return why it is not simply enforced."""
        return self.withheld or self.refusal or "; ".join(self.pending)

    def judgement(self) -> Judgement:
        """Return what its status should say."""
        return Judgement(self.refusal, self.pending, self.withheld)

    @property
    def age(self) -> tuple[str, PolicyKey]:
        """Return what sorts objects from the oldest to the youngest."""
        return str(self.document["metadata"].get("creationTimestamp", "")), self.key
