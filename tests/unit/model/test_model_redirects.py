"""One port of one peer, and several proxies that want it: a mistake within a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fimbria.model.policy_parse import parse_policy

if TYPE_CHECKING:
    from fimbria.model.policy import Policy


Rule = dict[str, Any]


def cnp_rules(*rules: Any) -> Policy:
    """A policy with these egress rules."""
    spec: Rule = {"endpointSelector": {}, "egress": list(rules)}
    return parse_policy({"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})


WEB: Rule = {"toEndpoints": [{"matchLabels": {"app": "web"}}]}
DB: Rule = {"toEndpoints": [{"matchLabels": {"app": "db"}}]}
EIGHTY: list[Rule] = [{"port": "80", "protocol": "TCP"}]
TO_HTTP: Rule = {"ports": EIGHTY, "rules": {"http": [{}]}}
TO_KAFKA: Rule = {"ports": EIGHTY, "rules": {"kafka": [{"topic": "t"}]}}
NAMES: Rule = {"ports": EIGHTY, "serverNames": ["a"]}


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        (({**WEB, "toPorts": [TO_HTTP]}, {**WEB, "toPorts": [TO_KAFKA]}), "[1].toPorts[0]"),
        (({**WEB, "toPorts": [TO_HTTP, TO_KAFKA]},), "[0].toPorts[1]"),
        (({"toPorts": [TO_HTTP]}, {**WEB, "toPorts": [TO_KAFKA]}), "[1].toPorts[0]"),
        (({"toPorts": [NAMES]},
          {"toPorts": [{"ports": [{"port": "80"}], "rules": {"dns": [{"matchName": "a"}]}}]}),
         "[1].toPorts[0]"),
    ],
)  # fmt: skip
def test_parsers_conflict(rules: Any, place: str) -> None:
    """One peer's port cannot go to two proxies within one policy."""
    refusal = cnp_rules(*rules).refusal
    assert refusal is not None
    assert refusal[0] == f"spec.egress{place}.ports[0]"
    assert refusal[1].startswith("cannot merge conflicting L7 parsers (")
    assert refusal[1].endswith("see spec.egress[0].toPorts[0].ports[0]")


@pytest.mark.parametrize(
    "rules",
    [
        ({**WEB, "toPorts": [TO_HTTP]}, {**DB, "toPorts": [TO_KAFKA]}),
        ({**WEB, "toPorts": [TO_HTTP]}, {**WEB, "toPorts": [NAMES]}),
        ({**WEB, "toPorts": [TO_HTTP]}, {**WEB, "toPorts": [{"ports": EIGHTY}]}),
        ({**WEB, "toPorts": [TO_HTTP]},
         {**WEB, "toPorts": [{**TO_KAFKA, "ports": [{"port": "81", "protocol": "TCP"}]}]}),
        ({"toEndpoints": [], "toPorts": [TO_HTTP]}, {"toPorts": [TO_KAFKA]}),
    ],
)  # fmt: skip
def test_parsers_agree(rules: Any) -> None:
    """Other peers, other ports, no parser, names in TLS beside another, or nobody at all."""
    assert cnp_rules(*rules).refusal is None
