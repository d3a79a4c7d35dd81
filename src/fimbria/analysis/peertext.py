"""Whom a rule names, in one line, as `policy selectors` lists it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.model.peers import Cidr, CidrGroups, Fqdn, Services
from fimbria.model.selector import Selector

if TYPE_CHECKING:
    from fimbria.model.peers import Prefix, Whom


def whom_text(whom: Whom) -> str:
    """Return a peer as text: `cidr 10.0.0.0/8 except 10.1.0.0/16`, `service default/web`."""
    match whom:
        case Selector():
            return str(whom)
        case Cidr():
            return f"cidr {whom.net}{_excepts(whom.excepts)}"
        case CidrGroups():
            return f"cidrgroups {whom.selector}{_excepts(whom.excepts)}"
        case Services():
            if whom.selector is None:
                return f"service {whom.namespace or '*'}/{whom.name}"
            return f"services {whom.selector} in {whom.namespace or '*'}"
        case Fqdn():
            return f"name {whom.name}" if whom.name else f"names {whom.pattern}"


def _excepts(prefixes: tuple[Prefix, ...]) -> str:
    return f" except {', '.join(map(str, prefixes))}" if prefixes else ""
