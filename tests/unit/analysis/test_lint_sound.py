"""What lint calls useless is useless: without it, no verdict is another one.

`policy diff` is complete, so it is asked about random worlds with and without each rule, or part of
a rule, that was found to be shadowed, said twice or redundant, and without each spec that was found
to have no effect.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, event, given, settings

from fimbria.analysis import World, from_documents
from fimbria.analysis.diff import diff
from fimbria.analysis.lint import lint
from fimbria.sources.files import ManifestError, checked
from tests.unit.analysis.test_analysis_judges import Case, cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.lint import Finding
    from fimbria.model.policy import Policy, Rule
    from fimbria.sources.files import Manifest

USELESS = {"shadowed-rule", "duplicate-rule", "redundant-rule", "no-effect"}

sized = settings(
    max_examples=max(20, int(os.environ.get("FIMBRIA_CASES", "5000")) // 100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


def manifests(case: Case) -> Iterator[Manifest | ManifestError]:
    for document in case.documents:
        try:
            yield checked(document, "")
        except ManifestError as error:
            yield error


def shorter(rule: Rule, path: str) -> Iterator[Rule]:
    """The rule without the part at a path, if there is anything left of it."""
    left = tuple(part for part in rule.ports if part.path != path)
    if rule.path != path and (left or not rule.ports):
        yield replace(rule, ports=left)


def without(world: World, finding: Finding) -> World:
    """The world without what a finding is about."""

    def cut(policy: Policy) -> Policy:
        specs = tuple(
            replace(
                spec, rules=tuple(r for rule in spec.rules for r in shorter(rule, finding.path))
            )
            for spec in policy.specs
            if (finding.code, finding.path) != ("no-effect", spec.path)
        )
        return replace(policy, specs=specs)

    return world.replace_policies(
        cut(policy) if str(policy.key) == finding.policy else policy
        for policy in world.policies.values()
    )


@sized
@given(cases())
def test_what_is_found_useless_changes_no_verdict(case: Case) -> None:
    """Taking one such rule away is a change of no verdict at all."""
    world = from_documents(case.documents)
    found = lint(manifests(case), enable_policy=case.mode, cidr_match=case.match)
    for one in found:
        if one.code in USELESS:
            event(one.code)
            changed = diff(world, without(world, one), case.mode, case.match)
            assert not changed, (one, changed.changes)
