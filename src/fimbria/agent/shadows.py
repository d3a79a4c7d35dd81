"""What policies in audit mode would have done otherwise, counted by policy.

The datapath reports each new flow on which the shadow policy and the real one differ
(EVENT_F_SHADOW). Such an event names the rule that decides in the shadow policy; where no rule
allows a flow, it is the audited policies of that endpoint that would deny it. Events that were lost
are not counted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fimbria.datapath.abi import EventFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from fimbria.model.policy import PolicyKey

DENIED, ALLOWED = "denied", "allowed"


class Shadows:
    """Counts of flows that would have been denied, or allowed, by policy.

    `named` gives the policy of a rule id, None for the built-in ones; `audited` the policies in
    audit mode that select an endpoint.
    """

    def __init__(
        self,
        named: Callable[[int], PolicyKey | None],
        audited: Callable[[int], Iterable[PolicyKey]],
    ) -> None:
        self._named = named
        self._audited = audited
        self._counts: Counter[tuple[PolicyKey, str]] = Counter()

    def take(self, batch: NDArray[np.void]) -> None:
        """Count the events of a batch; those without the flag cost nothing each."""
        shadows = batch[(batch["flags"] & int(EventFlags.SHADOW)) != 0]
        for event in shadows[["rule", "source", "verdict"]].tolist():
            rule, source, verdict = event
            what = DENIED if verdict < 0 else ALLOWED
            key = self._named(rule)
            for one in (key,) if key is not None else self._audited(source):
                self._counts[one, what] += 1

    def document(self, key: PolicyKey) -> dict[str, int]:
        """Return a policy's counts."""
        return {what: self._counts[key, what] for what in (DENIED, ALLOWED)}
