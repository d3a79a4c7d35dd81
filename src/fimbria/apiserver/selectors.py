"""Label and field selectors: text from the query string to a predicate over entries.

Label selectors are the grammar of `k8s.io/apimachinery/pkg/labels` (`a=b, c!=d, e in (f,g), h notin
(i), j, !k, n>1`); field selectors are `path=value` and `path!=value` over the paths that the
kind's row allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from fimbria.apiserver.errors import bad_request

if TYPE_CHECKING:
    from fimbria.apiserver.entry import Entry
    from fimbria.apiserver.resources import Resource

Matcher = Callable[["Entry"], bool]

_KEY = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"[-A-Za-z0-9_.]*"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!\s*{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s*(?P<op>==|=|!=|>|<)\s*(?P<value>{_VALUE})"
    rf"|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)"
)


def matcher(resource: Resource, labels: str, fields: str) -> Matcher | None:
    """A predicate for both selectors, or None if they select everything. Raises 400."""
    tests = _label_tests(labels) + _field_tests(resource, fields)
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    return lambda entry: all(test(entry) for test in tests)


def _label_tests(text: str) -> list[Matcher]:
    tests: list[Matcher] = []
    position = 0
    while position < len(text.rstrip()):
        found = _REQUIREMENT.match(text, position)
        if not found or found.end() == position:
            raise bad_request(f"unable to parse label selector {text!r} at {text[position:]!r}")
        position = found.end()
        if absent := found["absent"]:
            tests.append(_absent(absent.removeprefix("!").strip()))
        elif found["set"]:
            values = frozenset(value.strip() for value in found["values"].split(","))
            tests.append(_within(found["key"], values, found["set"] == "in"))
        elif found["op"]:
            tests.append(_compare(found["key"], found["op"], found["value"]))
        else:
            tests.append(_present(found["key"]))
    return tests


def _absent(key: str) -> Matcher:
    return lambda entry: key not in entry.labels


def _present(key: str) -> Matcher:
    return lambda entry: key in entry.labels


def _within(key: str, values: frozenset[str], wanted: bool) -> Matcher:
    if wanted:
        return lambda entry: entry.labels.get(key) in values
    return lambda entry: entry.labels.get(key) not in values


def _compare(key: str, op: str, value: str) -> Matcher:
    if op in ("=", "=="):
        return lambda entry: entry.labels.get(key) == value
    if op == "!=":
        return lambda entry: entry.labels.get(key) != value
    try:
        bound = int(value)
    except ValueError:
        raise bad_request(f"label selector {key}{op}{value}: the value is not a number") from None

    def ordered(entry: Entry) -> bool:
        text = entry.labels.get(key, "")
        if not text.removeprefix("-").isdecimal():
            return False
        return int(text) > bound if op == ">" else int(text) < bound

    return ordered


def _field_tests(resource: Resource, text: str) -> list[Matcher]:
    tests: list[Matcher] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        path, op, value = re.split(r"(!=|==|=)", part, maxsplit=1) if "=" in part else ("", "", "")
        if not path:
            raise bad_request(f"invalid field selector {part!r}: expected path=value")
        tests.append(_field_test(resource, path, value, op != "!="))
    return tests


def _field_test(resource: Resource, path: str, value: str, wanted: bool) -> Matcher:
    if path == "metadata.name":
        return lambda entry: (entry.name == value) is wanted
    if path == "metadata.namespace":
        return lambda entry: (entry.namespace == value) is wanted
    if path in resource.select:
        return lambda entry: (entry.fields.get(path, "") == value) is wanted
    known = ", ".join(("metadata.name", "metadata.namespace", *resource.select))
    raise bad_request(
        f'field label not supported: "{path}" is not selectable for {resource.kind}; known: {known}'
    )
