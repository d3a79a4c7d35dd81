"""What the readers of policies hand to each other besides the document.

`Reading` is one object being read, `Place` the section of it that a rule stands in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from fimbria.datapath.abi import Direction

NO_PROXY = "no proxy is running: its traffic is denied"


@dataclass(frozen=True, slots=True)
class Reading:
    """One object.

    `namespace`: the object's, "" for a clusterwide one. `cluster`: the cluster's name.
    `node_labels`: enable-node-selector-labels. `init`: what is read is about pods without identity
    (`reserved:init`). `pending` collects what becomes `Policy.pending`.
    """

    namespace: str
    cluster: str = "default"
    node_labels: bool = False
    init: bool = False
    pending: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def needs_proxy(self, path: str) -> None:
        """Note that the field at `path` takes effect only with a proxy."""
        self.pending.append((path, NO_PROXY))


class Place(NamedTuple):
    """Where a rule stands: its direction, in a section of denials, in a policy about nodes."""

    direction: Direction
    deny: bool = False
    host: bool = False

    @property
    def end(self) -> str:
        """Return how names of peer fields begin."""
        return "from" if self.direction is Direction.INGRESS else "to"
