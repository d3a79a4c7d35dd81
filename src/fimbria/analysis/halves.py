"""What a judge found about one direction, in the words of results: reason, policy, field, line.

Verdict (rules) ─┐
Hit (maps, C) ───┴─► Half, with the object and the file that the rule is from
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.analysis.explain import hit_text
from fimbria.analysis.results import Because, Half, Outcome, policy_name
from fimbria.datapath.abi import DropReason, RuleIds
from fimbria.model.policy import Tier
from fimbria.model.semantics import Reason

if TYPE_CHECKING:
    from fimbria.analysis.world import World
    from fimbria.compile.node import Compiler
    from fimbria.datapath.abi import Direction
    from fimbria.datapath.lookup import Hit
    from fimbria.model.policy import PolicyKey, Spec
    from fimbria.model.semantics import Verdict

_REASONS = {
    Reason.ALLOW_RULE: Because.ALLOW_RULE,
    Reason.REDIRECT: Because.REDIRECT,
    Reason.LOCALHOST: Because.LOCAL_NODE,
    Reason.NO_DEFAULT_DENY: Because.NO_DEFAULT_DENY,
    Reason.DENY_RULE: Because.DENY_RULE,
    Reason.DEFAULT_DENY: Because.DEFAULT_DENY,
    Reason.REFUSED: Because.REFUSED,
}


class Halves:
    """Names what decides in one compiled world. Units are endpoint ids of its state.

    `policed`: there are policies, and they are enforced.
    """

    def __init__(self, world: World, compiler: Compiler, *, policed: bool) -> None:
        self._world = world
        self._compiler = compiler
        reason = Because.NOT_SELECTED if policed else Because.NO_POLICY
        self.unpoliced = Half(Outcome.ALLOWED, reason, None, None, None)
        """The half of an end that no policy is about."""

    def of_verdict(self, unit: int, direction: Direction, judged: Verdict) -> Half:
        """Return the half that the rules' verdict about a unit means."""
        if judged.reason is Reason.NO_POLICY:
            return self.unpoliced
        outcome = Outcome.ALLOWED if judged.allowed else Outcome.DENIED
        if judged.reason is Reason.REDIRECT:
            outcome = Outcome.REDIRECTED
        reason = _REASONS[judged.reason]
        if reason in (Because.DEFAULT_DENY, Because.REFUSED):
            return self.closed(unit, direction, None)
        rule = (judged.rules[0].policy, judged.rules[0].path) if judged.rules else None
        return self.half(outcome, reason, rule, None)

    def of_hit(self, unit: int, direction: Direction, hit: Hit) -> Half:
        """Return the half that a lookup in a unit's maps means."""
        if not hit.enforced:
            return self.unpoliced
        if hit.verdict == -DropReason.POLICY:
            return self.closed(unit, direction, hit_text(hit))
        rule = self._compiler.ids.rules.rule(hit.rule_id)
        if hit.verdict < 0:
            return self.half(Outcome.DENIED, Because.DENY_RULE, rule, hit_text(hit))
        if hit.proxy_port:
            return self.half(Outcome.REDIRECTED, Because.REDIRECT, rule, hit_text(hit))
        reason = {
            RuleIds.ALLOW_LOCALHOST: Because.LOCAL_NODE,
            RuleIds.ALLOW_ALL: Because.NO_DEFAULT_DENY,
        }.get(RuleIds(hit.rule_id) if hit.rule_id < RuleIds.FIRST else RuleIds.FIRST)
        return self.half(Outcome.ALLOWED, reason or Because.ALLOW_RULE, rule, hit_text(hit))

    def closed(self, unit: int, direction: Direction, entry: str | None) -> Half:
        """Return the half of a unit whose policies deny what no rule allows."""
        specs = self.selecting(unit)
        for key, spec in specs:
            refusal = self._world.policies[key].refusal
            if refusal is not None and spec.default_deny(direction) is not None:
                rule = (key, refusal[0] or spec.path)
                return self.half(Outcome.DENIED, Because.REFUSED, rule, entry)
        for key, spec in specs:
            if spec.default_deny(direction):
                return self.half(Outcome.DENIED, Because.DEFAULT_DENY, (key, spec.path), entry)
        return self.half(Outcome.DENIED, Because.DEFAULT_DENY, None, entry)

    def selecting(self, unit: int) -> list[tuple[PolicyKey, Spec]]:
        """Return the ordinary specs that select a unit and are in force, in object order."""
        return [
            (key, spec)
            for key, path in self._compiler.policies.selecting(unit)
            for spec in self._world.policies[key].specs
            if spec.path == path
            and self._world.policies[key].tier is Tier.NORMAL
            and not self._world.policies[key].audit
        ]

    def half(
        self,
        outcome: Outcome,
        reason: Because,
        rule: tuple[PolicyKey, str] | None,
        entry: str | None,
    ) -> Half:
        """Return a half that a rule decided, with the place where the rule was read."""
        if rule is None:
            return Half(outcome, reason, None, None, entry)
        key, path = rule
        manifest = self._world.manifests.get(key)
        file, line = None, None
        if manifest is not None and manifest.node is not None:
            file, line = manifest.file, manifest.line(path)
        return Half(outcome, reason, policy_name(key), path, entry, file, line)
