"""What a change of policies would have done to traffic that was seen, without doing it.

recorded connections ─► flows ─► judged with the policies as they are ─┐
                             └─► judged with them changed ────────────┴─► groups that differ
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.analysis.engine import Engine
from fimbria.analysis.flows import FlowError
from fimbria.analysis.matrix_html import half_text
from fimbria.analysis.whatif_world import Cast, changed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.analysis.results import Half, Result
    from fimbria.analysis.whatif_flows import Seen
    from fimbria.analysis.world import World
    from fimbria.model.policy import PolicyKey


@dataclass
class Group:
    """Connections between the same kinds of ends to the same port whose verdict is another one.

    `before` and `after` are of the first of them.
    """

    before: Result
    after: Result
    sources: set[str] = field(default_factory=set[str])
    destinations: set[str] = field(default_factory=set[str])
    count: int = 0

    @property
    def direction(self) -> str:
        """Return the direction in which the verdict is another one."""
        same = self.before.egress.verdict is self.after.egress.verdict
        return "ingress" if same else "egress"

    @property
    def because(self) -> Half:
        """Return the half that decides afterwards."""
        return self.after.ingress if self.direction == "ingress" else self.after.egress


@dataclass(frozen=True)
class Whatif:
    """The groups that differ, most connections first.

    `flows` is how many connections were judged; `otherwise` how many of them were recorded with
    another verdict than the policies give now; `errors` are those that could not be judged.
    """

    groups: tuple[Group, ...]
    flows: int
    otherwise: int
    errors: tuple[str, ...]

    @property
    def denied(self) -> int:
        """Return how many connections pass now and would be denied."""
        return sum(one.count for one in self.groups if not one.after.allowed)

    @property
    def allowed(self) -> int:
        """Return how many connections are denied now and would pass."""
        return sum(one.count for one in self.groups if one.after.allowed)


def whatif(
    world: World,
    change: World,
    deleted: Iterable[PolicyKey],
    seen: Sequence[Seen],
    enable_policy: str = "default",
    cidr_match: Iterable[str] = (),
    *,
    host_firewall: bool = False,
) -> Whatif:
    """Return what the policies of `change`, less those deleted, would do to recorded traffic."""
    cast = Cast(world, seen)
    modes = frozenset(cidr_match)
    old, new = (
        Engine(one, enable_policy, modes, host_firewall=host_firewall)
        for one in (cast.world, changed(cast.world, change, deleted))
    )
    groups: dict[tuple[object, ...], Group] = {}
    errors: list[str] = []
    otherwise = 0
    pairs = zip(seen, cast.flows, old.eval_many(cast.flows), new.eval_many(cast.flows), strict=True)
    for one, flow, before, after in pairs:
        if isinstance(before, FlowError) or isinstance(after, FlowError):
            errors.append(str(before if isinstance(before, FlowError) else after))
            continue
        otherwise += one.denied is not None and one.denied is before.allowed
        if before.allowed is after.allowed:
            continue
        ends = (old.place(flow.source), old.place(flow.destination))
        kinds = [place.unit or place.name for place in ends]
        group = groups.setdefault((*kinds, flow.protocol, flow.port), Group(before, after))
        group.sources.add(flow.source)
        group.destinations.add(flow.destination)
        group.count += 1
    ordered = sorted(groups.values(), key=lambda one: (one.after.allowed, -one.count))
    return Whatif(tuple(ordered), len(seen), otherwise, tuple(dict.fromkeys(errors)))


def names(ends: Iterable[str]) -> str:
    """Return the first of some ends, and how many more there are."""
    first, *more = sorted(ends)
    return f"{first} (+{len(more)})" if more else first


def summary(found: Whatif) -> str:
    """Return what would happen in one sentence."""
    of = f"of {found.flows} connections"
    if not found.groups:
        return f"Nothing would change: all {found.flows} connections keep their verdict."
    parts = [f"{found.denied} {of} would be denied" if found.denied else "",
             f"{found.allowed} {of if not found.denied else ''} would pass"
             if found.allowed else ""]  # fmt: skip
    return " and ".join(" ".join(part.split()) for part in parts if part) + "."


def why(group: Group) -> str:
    """Return which rule decides afterwards, in one line."""
    return f"{group.direction}, {half_text(group.because)}".replace("\n", " ")


def document(found: Whatif) -> dict[str, Any]:
    """Return it as `fimbria policy whatif -o json` prints it."""
    return {
        "connections": found.flows,
        "denied": found.denied,
        "allowed": found.allowed,
        "recordedOtherwise": found.otherwise,
        "groups": [
            {
                "connections": one.count,
                "sources": sorted(one.sources),
                "destinations": sorted(one.destinations),
                "protocol": one.after.protocol,
                "port": one.after.port,
                "direction": one.direction,
                "before": msgspec.to_builtins(one.before),
                "after": msgspec.to_builtins(one.after),
            }
            for one in found.groups
        ],
        "errors": list(found.errors),
    }
