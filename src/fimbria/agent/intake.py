"""The policy objects of the API, and which version of each is in force.

    watch ─► parse ─► guards ─► state.policies ─► compile ─► does it fit? ─┬─ yes: in force
               │         └─ no: the version before stays                   └─ no: put back, and why
               └─ cannot be enforced: what it selects is closed (model.policy_parse)

What does not fit is put back within the same step, so that the maps do not change at all; it is
tried again when any policy changes, and from time to time. The version that stays is remembered
over the agent's death. Which of several policies that together do not fit is left out depends on
the objects alone: the youngest, by creationTimestamp and name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fimbria.agent.held import Held
from fimbria.model.policy import PolicyError, PolicyKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fimbria.compile.delta import Problem
    from fimbria.compile.state import ClusterState
    from fimbria.model.policy import Policy
    from fimbria.sources.reflector import Change
    from fimbria.sources.resources import Document, Resource

log = logging.getLogger(__name__)


class Intake:
    """Takes up policy objects. `parse` raises PolicyError for what cannot be named.

    `guards` give a reason not to take up a policy, "" for none; `judged` is told of each object
    once what was decided about it is in force; `remember` is given all documents that are in force
    in place of newer ones, whenever they change.
    """

    def __init__(self, state: ClusterState, parse: Callable[[Document, str], Policy]) -> None:
        self.guards: list[Callable[[Policy], str]] = []
        self.judged: Callable[[Held], None] = lambda held: None
        self.remember: Callable[[list[Document]], None] = lambda documents: None
        self._state = state
        self._parse = parse
        self._held: dict[PolicyKey, Held] = {}
        self._trying: dict[PolicyKey, Policy | None] = {}
        """What is being compiled, with the version that was in force before."""
        self._unfit: set[PolicyKey] = set()
        self._unreported: set[PolicyKey] = set()
        self._kept: dict[PolicyKey, tuple[Document, Policy]] = {}
        """What was remembered, until the API has told of the object."""
        self._remembered: list[Document] = []

    def restore(self, documents: Sequence[Document]) -> None:
        """Take up what was remembered: it is in force until something newer can be."""
        self._remembered = list(documents)
        for document in documents:
            try:
                policy = self._parse(document, str(document.get("kind")))
            except PolicyError as error:
                log.warning("a remembered policy left out: %s", error)
                continue
            self._kept[policy.key] = document, policy

    def __iter__(self) -> Iterator[Held]:
        return iter([self._held[key] for key in sorted(self._held)])

    def get(self, key: PolicyKey) -> Held | None:
        """Return an object by its key."""
        return self._held.get(key)

    def age(self, key: PolicyKey) -> tuple[str, PolicyKey]:
        """Return what sorts objects from the oldest to the youngest."""
        return self._held[key].age

    @property
    def waiting(self) -> int:
        """Return how many objects are left out because they did not fit."""
        return len(self._unfit)

    def take(self, resource: Resource[Document], changes: Sequence[Change[Document]]) -> bool:
        """Take up changed objects of a kind; return whether the state changed."""
        changed = False
        for change in changes:
            if change.new is None:
                changed |= self._drop(PolicyKey(resource.kind, *change.key))
            else:
                changed |= self._one(resource, change.key, change.new)
        if changed:
            self.retry()
        return changed

    def _one(self, resource: Resource[Document], name: tuple[str, str], document: Document) -> bool:
        key = PolicyKey(resource.kind, *name)
        try:
            policy = self._parse(document, resource.kind)
        except PolicyError as error:
            log.warning("%s left out: %s", key, error)
            changed = self._drop(key)
            held = self._held[key] = Held(key, resource, document, error=str(error))
            self._tell(held)
            return changed
        self._begin(key, document)
        old = self._held.get(key)
        if old is not None and old.policy == policy:
            # Only its status, or something else that says nothing, has changed.
            again = _generation(old.document) != _generation(document)
            old.document = document
            if again and old.told is not None:
                self.judged(old)
            return False
        held = self._held[key] = Held(key, resource, document, policy)
        self._unfit.discard(key)
        if held.refusal:
            log.warning("%s refused: %s; what it selects is closed", key, held.refusal)
        held.withheld = self._guarded(policy)
        if held.withheld:
            log.warning("%s not applied: %s", key, held.withheld)
            self._tell(held)
            return False
        self._try(key, policy)
        return True

    def _begin(self, key: PolicyKey, document: Document) -> None:
        """Put the remembered version of an object in force, if it is still the same object."""
        kept, policy = self._kept.pop(key, (None, None))
        if kept is not None and policy is not None and _uid(kept) == _uid(document):
            self._state.policies.put(key, policy)

    def ask_again(self) -> bool:
        """Ask the guards about what they kept out: what they look at has changed."""
        changed = False
        for key, held in sorted(self._held.items()):
            if held.policy is None or not held.withheld or key in self._unfit:
                continue
            reason = self._guarded(held.policy)
            if not reason:
                held.withheld = ""
                self._try(key, held.policy)
                changed = True
            elif reason != held.withheld:
                held.withheld = reason
                self._tell(held)
        return changed

    def withdraw(self, key: PolicyKey, reason: str) -> None:
        """Take a policy out that a guard would not let in any more."""
        held = self._held[key]
        log.warning("%s no longer applied: %s", key, reason)
        self._state.policies.delete(key)
        self._trying.pop(key, None)
        self._unfit.discard(key)
        self._unreported.discard(key)
        held.withheld = reason
        self._tell(held)

    def _guarded(self, policy: Policy) -> str:
        """Return the first reason of a guard not to take a policy up, "" for none."""
        return next(filter(None, (guard(policy) for guard in self.guards)), "")

    def _drop(self, key: PolicyKey) -> bool:
        self._held.pop(key, None)
        self._trying.pop(key, None)
        self._unfit.discard(key)
        self._unreported.discard(key)
        return self._state.policies.delete(key)

    def _try(self, key: PolicyKey, policy: Policy) -> None:
        before = self._state.policies.get(key)
        if self._state.policies.put(key, policy):
            self._trying.setdefault(key, before)
        self._unreported.add(key)

    # -- whether it fits

    def admit(self, problems: Sequence[Problem]) -> bool:
        """Put one policy back that made one of `problems`; False if none of them is a policy's.

        Called after each compilation, until it returns False.
        """
        for problem in problems:
            known = [
                self._held[key]
                for key, _ in problem.policies
                if key in self._trying and key in self._held
            ]
            if known:
                self._put_back(max(known, key=lambda held: held.age), problem)
                return True
        self._trying.clear()
        return False

    def _put_back(self, held: Held, problem: Problem) -> None:
        before = self._trying.pop(held.key)
        if before is None:
            self._state.policies.delete(held.key)
        else:
            self._state.policies.put(held.key, before)
        asks = dict(problem.policies).get(held.key, 0)
        stays = "nothing of it is in force" if before is None else "the version before stays"
        held.withheld = f"{problem.reason}, of which it asks for {asks}; {stays}"
        if held.key not in self._unfit:
            log.warning("%s not applied: %s", held.key, held.withheld)
        self._unfit.add(held.key)

    def retry(self) -> bool:
        """Try again what did not fit; return whether there was anything to try."""
        for key in sorted(self._unfit - self._trying.keys()):
            policy = self._held[key].policy
            assert policy is not None
            self._try(key, policy)
        return bool(self._unfit)

    def settled(self) -> None:
        """What was admitted is in force: tell of each object that was decided about."""
        for key in sorted(self._unreported - self._trying.keys()):
            self._unreported.discard(key)
            held = self._held[key]
            if key in self._unfit and self._state.policies.get(key) == held.policy:
                self._unfit.discard(key)
                held.withheld = ""
                log.info("%s fits now", key)
            self._tell(held)
        self._remember()

    def _remember(self) -> None:
        rows = self._state.policies
        kept = [
            dict(rows[key].document)
            for key, held in sorted(self._held.items())
            if held.withheld and key in rows
        ]
        if kept != self._remembered:
            self._remembered = kept
            self.remember(kept)

    def _tell(self, held: Held) -> None:
        if held.told != held.judgement():
            held.told = held.judgement()
            self.judged(held)


def _uid(document: Document) -> object:
    return document["metadata"].get("uid")


def _generation(document: Document) -> object:
    return document["metadata"].get("generation")
