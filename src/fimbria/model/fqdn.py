"""Reading names of the DNS and patterns over them, of toFQDNs and of rules for the DNS proxy.

Names are case-insensitive and end with a dot, so they are kept in lower case with one. In a pattern
`*` is any part of one label, `*` alone any name, and `**.` at the beginning one label or more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fimbria.model.fields import Fields
from fimbria.model.peers import Fqdn
from fimbria.model.policy import PolicyError

if TYPE_CHECKING:
    from re import Pattern

MAX_LENGTH = 255
_NAME = re.compile(r"[-a-z0-9_]+(\.[-a-z0-9_]+)*\.?")
_DOMAIN = re.compile(r"([a-z0-9]([-a-z0-9_]*[a-z0-9])?\.)+[a-z0-9]([-a-z0-9_]*[a-z0-9])?\.?")
_PATTERN = re.compile(r"[-a-z0-9_*]+(\.[-a-z0-9_*]+)*\.?")


def fqdn(value: Any, path: str) -> Fqdn:
    """Read {matchName} or {matchPattern}. Raises PolicyError."""
    fields = Fields(value, path)
    given = fields.only_one("matchName", "matchPattern")
    text, at = fields.name(given), fields.at(given)
    fields.done()
    if given == "matchName":
        if "*" in text:
            raise PolicyError(at, f"{text!r} is a pattern: it takes matchPattern")
        return Fqdn(_dotted(text, at, _NAME, "a name of the DNS"))
    return Fqdn("", text if text == "*" else _dotted(text, at, _PATTERN, "a pattern of names"))


def domain(text: str, path: str) -> Fqdn:
    """Read a domain name of a ClusterNetworkPolicy; `*.` before it: all below. PolicyError."""
    below = text.startswith("*.")
    found = _dotted(text.removeprefix("*."), path, _DOMAIN, "a domain name")
    return Fqdn("", f"**.{found}") if below else Fqdn(found)


def _dotted(text: str, path: str, allowed: Pattern[str], wanted: str) -> str:
    lower = text.lower()
    # Some letters beyond ASCII have a lower case within it.
    if len(lower) > MAX_LENGTH or not text.isascii() or not allowed.fullmatch(lower):
        raise PolicyError(path, f"{text!r} is not {wanted}")
    return lower if lower.endswith(".") else f"{lower}."
