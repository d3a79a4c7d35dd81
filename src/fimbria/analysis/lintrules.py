"""Checks of rules against each other: what never decides, what is said twice, what does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.lintdecides import Deciding
from fimbria.model.peers import Cidr
from fimbria.model.policy import DIRECTIONS, Action, Tier
from fimbria.model.selector import Selector
from fimbria.model.semantics import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fimbria.analysis.lint import Finding, Linted
    from fimbria.analysis.lintdecides import Name
    from fimbria.datapath.abi import Direction
    from fimbria.model.peers import Whom
    from fimbria.model.policy import Policy, PortSpec, Rule, Spec


class _Said(NamedTuple):
    """A rule of an ordinary policy, and the endpoints that it is about."""

    policy: Policy
    spec: Spec
    rule: Rule
    units: frozenset[int]


def useless(linted: Linted) -> Iterator[Finding]:
    """Rules that others say already, and rules that never decide because others come first."""
    known = repeated(linted)
    for said, other in known.values():
        alike = _covers(said, other)
        code = "duplicate-rule" if alike else "redundant-rule"
        where = _place(linted, (other.policy.key, other.rule.path))
        message = f"{'the same as' if alike else 'all of it is said by'} {where}"
        yield linted.finding(code, said.policy, said.rule.path, message, "remove one of them")
    for policy, rule, part, other in _silent(linted, known):
        where = _place(linted, other)
        if _same_kind(linted, policy, rule, part, other):
            message = f"with these pods, all of it is said by {where}"
            fix = "remove one of them"
            yield linted.finding("redundant-rule", policy, part.path, message, fix)
            continue
        message = f"never decides: its packets are decided by {where}"
        fix = "remove it, or narrow what comes before it"
        yield linted.finding("shadowed-rule", policy, part.path, message, fix)


def repeated(linted: Linted) -> dict[Name, tuple[_Said, _Said]]:
    """Return the rules that another covers, by name; of two that are alike the later one."""
    groups: dict[object, list[_Said]] = {}
    for policy, spec, rule in linted.rules():
        if policy.tier is Tier.NORMAL and not policy.audit and rule.peers:
            one = _Said(policy, spec, rule, linted.units(spec))
            if one.units or not linted.world.pods:
                groups.setdefault((rule.direction, rule.action, spec.host), []).append(one)
    found: dict[Name, tuple[_Said, _Said]] = {}
    for group in groups.values():
        for place, one in enumerate(group):
            for index, other in enumerate(group):
                if index == place or not _covers(other, one):
                    continue
                if index > place and _covers(one, other):
                    continue  # alike: the later one is told
                found[one.policy.key, one.rule.path] = one, other
                break
    return found


def _covers(wide: _Said, narrow: _Said) -> bool:
    """Return whether a rule says all that another one says."""
    same = wide.spec.subject == narrow.spec.subject
    if not (same or (narrow.units and narrow.units <= wide.units)):
        return False
    return all(
        any(_whom_covers(peer.whom, one.whom) for peer in wide.rule.peers)
        for one in narrow.rule.peers
    ) and all(any(_port_covers(part, one) for part in wide.rule.parts) for one in narrow.rule.parts)


def _whom_covers(wide: Whom | None, narrow: Whom | None) -> bool:
    if wide is None or wide == narrow:
        return True
    if isinstance(wide, Cidr) and isinstance(narrow, Cidr):
        free = all(any(mine.covers(out) for mine in narrow.excepts) for out in wide.excepts)
        return wide.net.covers(narrow.net) and free
    if isinstance(wide, Selector) and isinstance(narrow, Selector):
        return set(wide.requirements) <= set(narrow.requirements)
    return False


def _port_covers(wide: PortSpec, narrow: PortSpec) -> bool:
    if wide.parser != narrow.parser or wide.parser:
        return False  # what a proxy does with it is not compared
    if not wide.protocols:
        return True
    if not narrow.protocols or not set(narrow.protocols) <= set(wide.protocols):
        return False
    if wide.name or narrow.name:
        return wide.name == narrow.name or (not wide.name and wide.ports is None)
    if wide.ports is None:
        return True
    if narrow.ports is None:
        return False
    return wide.ports[0] <= narrow.ports[0] and narrow.ports[1] <= wide.ports[1]


def _silent(
    linted: Linted, known: Mapping[Name, object]
) -> Iterator[tuple[Policy, Rule, PortSpec, Name]]:
    """Yield the parts of rules that never decide, with what decides instead, but for `known`."""
    if not linted.world.pods:
        return
    deciding = Deciding(linted)
    for policy, spec, rule in linted.rules():
        if policy.audit or spec.host or (policy.key, rule.path) in known:
            continue
        for part in rule.parts:
            if (policy.key, part.path) not in deciding.rules:
                other = deciding.beaten_by(spec, rule, part)
                if other is not None and other != (policy.key, part.path):
                    yield policy, rule, part, other


def _same_kind(linted: Linted, policy: Policy, rule: Rule, part: PortSpec, name: Name) -> bool:
    """Return whether the part called `name` does the same as another, in the same tier."""
    key, path = name
    other = linted.world.policies[key]
    return other.tier is policy.tier and any(
        one.path == path and (its.action, one.parser) == (rule.action, part.parser)
        for spec in other.specs
        for its in spec.rules
        for one in its.parts
    )


def idle(linted: Linted) -> Iterator[Finding]:
    """Specs that neither allow nor deny anything."""
    for policy in linted.policies:
        for spec in policy.specs:
            if any(spec.default_deny(direction) for direction in DIRECTIONS):
                continue
            if not any(rule.peers for rule in spec.rules):
                message = "it has no rule that is about anybody, and denies nothing by default"
                yield linted.finding("no-effect", policy, spec.path, message, "remove it")
            elif linted.units(spec) and _opens_what_is_open(linted, policy, spec):
                message = "it only allows, and nothing closes the pods that it is about"
                fix = "let it deny by default, or remove it"
                yield linted.finding("no-effect", policy, spec.path, message, fix)


def _opens_what_is_open(linted: Linted, policy: Policy, spec: Spec) -> bool:
    """Return whether a spec has allow rules only, and no other one closes what they open."""
    if policy.tier is not Tier.NORMAL or policy.audit or linted.engine.mode is Mode.ALWAYS:
        return False
    if any(rule.deny or part.parser for rule in spec.rules for part in rule.parts):
        return False
    units, directions = linted.units(spec), {rule.direction for rule in spec.rules}
    return not any(
        _closes(policy, other, direction)
        for policy in linted.world.policies.values()
        if not policy.audit
        for other in policy.specs
        if not other.host and not units.isdisjoint(linted.units(other))
        for direction in directions
    )


def _closes(policy: Policy, spec: Spec, direction: Direction) -> bool:
    """Return whether an allow rule of the ordinary tier can make a difference to a spec."""
    if policy.tier is Tier.NORMAL:
        return bool(spec.default_deny(direction))
    baseline = (rule for rule in spec.rules if policy.tier is Tier.BASELINE)
    return any(rule.action is not Action.ALLOW for rule in baseline if rule.direction is direction)


def _place(linted: Linted, name: Name) -> str:
    key, path = name
    manifest = linted.world.manifests.get(key)
    at = f" ({manifest.file}:{manifest.line(path)})" if manifest is not None else ""
    return f"{key} {path}{at}"


RULE_CHECKS = (useless, idle)
