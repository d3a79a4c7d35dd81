"""Reading layer 7 rules: HTTP, Kafka, DNS, and key-value rules of a named protocol.

Source of the rules: Cilium's policy language. Nothing is kept but which parser reads them: a proxy
takes them from the object itself.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from fimbria.model.fields import Fields, texts, word
from fimbria.model.fqdn import fqdn
from fimbria.model.kafka import kafka_rule
from fimbria.model.policy import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable

MISMATCHES = ("LOG", "ADD", "DELETE", "REPLACE")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_POSIX_CLASS = re.compile(r"\[:[a-z]+:\]")
_FLAGS = re.compile(r"\(\?[imsU-]+\)")
_NOT_REGULAR = re.compile(r"\(\?(?:[=!>(]|<[=!]|P=)|[*+?}]\+")


class Layer7(NamedTuple):
    """Which parser reads the rules, and the field that they stand in."""

    parser: str
    field: str


def layer7(fields: Fields) -> Layer7 | None:
    """Read `rules` of a port; None if they are empty. Raises PolicyError."""
    found = [Layer7(name, name) for name, read in _READERS.items() if fields.filled(name, read)]
    pairs = fields.filled("l7", _pairs)
    protocol = fields.text("l7proto")
    if protocol:
        found.append(Layer7(protocol, "l7proto"))
    elif pairs:
        raise PolicyError(fields.at("l7"), "takes l7proto beside it")
    fields.done()
    if len(found) > 1:
        both = " and ".join(one.field for one in found)
        raise PolicyError(fields.path, f"rules of one protocol only; it has {both}")
    return found[0] if found else None


def secret(value: Any, path: str) -> None:
    """Check a reference to a Secret. Raises PolicyError."""
    fields = Fields(value, path)
    fields.name("name")
    fields.text("namespace")
    fields.done()


def regular_expression(text: str, path: str) -> None:
    """Check an extended regular expression (POSIX, RE2). Raises PolicyError."""
    plain = _POSIX_CLASS.sub("_", text)
    backward = any(one in "123456789" for one in _ESCAPED.findall(plain))
    if backward or _NOT_REGULAR.search(_without_sets(_ESCAPED.sub("_", plain))):
        raise PolicyError(path, f"{text!r} goes beyond extended regular expressions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sets in sets, which POSIX does not have
            re.compile(_FLAGS.sub("", plain))
    except (re.error, OverflowError, RecursionError) as error:
        raise PolicyError(path, f"{text!r} is no regular expression: {error}") from error


def _without_sets(text: str) -> str:
    """Return an expression with a character for each [set], up to one that has no end."""
    found: list[str] = []
    at = 0
    while (begin := text.find("[", at)) >= 0:
        first = begin + 1 + text.startswith("^", begin + 1)
        end = text.find("]", first + 1)  # a bracket that comes first is a member
        if end < 0:
            break
        found += text[at:begin], "_"
        at = end + 1
    return "".join(found) + text[at:]


def _http(value: Any, path: str) -> None:
    fields = Fields(value, path)
    for name in ("path", "method", "host"):
        regular_expression(fields.text(name), fields.at(name))
    fields.each("headers", _header)
    fields.each("headerMatches", _header_match)
    fields.done()


def _header(value: Any, path: str) -> None:
    if not word(value, path).partition(":")[0].strip():
        raise PolicyError(path, "expected the name of a header")


def _header_match(value: Any, path: str) -> None:
    fields = Fields(value, path)
    fields.name("name")
    fields.text("value")
    mismatch = fields.text("mismatch")
    if mismatch and mismatch not in MISMATCHES:
        raise PolicyError(fields.at("mismatch"), f"{mismatch!r} is none of {', '.join(MISMATCHES)}")
    if fields.has("secret"):
        secret(fields.any("secret"), fields.at("secret"))
    fields.done()


def _dns(value: Any, path: str) -> None:
    fqdn(value, path)


def _pairs(value: Any, path: str) -> None:
    if "" in texts(value, path):
        raise PolicyError(path, "expected names of fields that are not empty")


_READERS: dict[str, Callable[[Any, str], None]] = {
    "http": _http, "kafka": kafka_rule, "dns": _dns,
}  # fmt: skip
