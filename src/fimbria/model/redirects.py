"""Which proxy gets a packet that several rules send to one.

Within one spec, two rules that send the same port of the same peer to different proxies are a
mistake, and `check_parsers` says so. Different objects know nothing of each other, so there an
order decides: the rule that names the port more closely, then the one that names the peer (by
identity before by CIDR before anyone), then the first in object order. This is how the datapath
looks policy up (docs/DESIGN.md, "Precedence"); `closeness` says the same of rules.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from fimbria.model.policy import DIRECTIONS, PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.model.policy import PortSpec, Rule

ANYONE, BY_CIDR, BY_IDENTITY = range(3)
"""How a rule names a peer, the loosest first."""

TLS, DNS = "tls", "dns"
_PORTS = 0x10000


def check_parsers(rules: Iterable[Rule]) -> None:
    """Raise PolicyError if two rules of a spec want different proxies for one peer and port."""
    rules = tuple(rules)
    for way in DIRECTIONS:
        parts = [
            (frozenset(peer.whom for peer in rule.peers), part)
            for rule in rules
            if rule.direction is way and not rule.deny
            for part in rule.ports
            if part.parser
        ]
        for (ours, one), (theirs, other) in combinations(parts, 2):
            if _differ(one.parser, other.parser) and _same_port(one, other):
                anyone = None in ours or None in theirs
                if (anyone and ours and theirs) or ours & theirs:
                    both = f"{one.parser}/{other.parser}"
                    raise PolicyError(
                        other.path, f"cannot merge conflicting L7 parsers ({both}): see {one.path}"
                    )


def _differ(one: str, other: str) -> bool:
    """Return whether two parsers exclude each other; whoever reads names in TLS reads on."""
    return one != other and (TLS not in (one, other) or DNS in (one, other))


def _same_port(one: PortSpec, other: PortSpec) -> bool:
    protocols = not one.protocols or not other.protocols or {*one.protocols} & {*other.protocols}
    return bool(protocols) and (one.name, one.ports) == (other.name, other.ports)


def closeness(part: PortSpec, port: int, names: int) -> tuple[int, int]:
    """Return how closely a part of a rule that matches `port` names port and peer; higher wins.

    `names` is ANYONE, BY_CIDR or BY_IDENTITY. A range counts as the largest block of ports around
    `port` in it whose size is a power of two and whose first port is a multiple of that.
    """
    if part.name:
        return 17, names
    if not part.protocols:
        return 0, names
    first, last = part.ports or (0, _PORTS - 1)
    size = 1
    while size < _PORTS:
        start = port // (2 * size) * 2 * size
        if start < first or start + 2 * size - 1 > last:
            break
        size *= 2
    return 18 - size.bit_length(), names
