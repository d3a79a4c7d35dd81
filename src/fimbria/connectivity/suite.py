"""All scenarios, in the order they run, and how `--test` picks some."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fimbria.connectivity.suite_basic import BASIC
from fimbria.connectivity.suite_peers import ENTITIES, PEERS
from fimbria.connectivity.suite_ports import DENIALS, PORTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fimbria.connectivity.model import Scenario

SUITE: tuple[Scenario, ...] = (*BASIC, *PEERS, *ENTITIES, *PORTS, *DENIALS)


def select(patterns: Sequence[str]) -> tuple[Scenario, ...]:
    """Return the scenarios whose name matches any of the expressions; all without expressions.

    A pattern that begins with `!` takes away instead. Raises re.error for a bad expression.
    """
    wanted = [re.compile(one) for one in patterns if not one.startswith("!")]
    unwanted = [re.compile(one[1:]) for one in patterns if one.startswith("!")]
    return tuple(
        scenario
        for scenario in SUITE
        if (not wanted or any(one.search(scenario.name) for one in wanted))
        and not any(one.search(scenario.name) for one in unwanted)
    )
