"""What names, labels and label selectors may be (Kubernetes, "Labels and Selectors").

All checks append field errors to the list that they are given; the messages are Kubernetes' own.
"""

from __future__ import annotations

import re
from typing import Any

from fimbria.apiserver.errors import cause
from fimbria.apiserver.notation import LABEL_VALUE

Causes = list[dict[str, str]]

LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
"""An RFC 1123 label, its length aside."""
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(?:\.{LABEL.pattern})*")
"""An RFC 1123 subdomain, its length aside."""
_WORD = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_CHARACTERS = (
    "alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
)


def show(value: Any) -> str:
    """Return a value as messages show it."""
    if isinstance(value, dict | list):
        return "object" if isinstance(value, dict) else "array"
    return f'"{value}"' if isinstance(value, str) else str(value)


def invalid(path: str, value: Any, rule: str, causes: Causes) -> None:
    """Note a value that breaks a rule."""
    causes.append(cause("FieldValueInvalid", path, f"Invalid value: {show(value)}: {rule}"))


def labels(values: dict[str, str], path: str, causes: Causes) -> None:
    """Check a map of labels."""
    for key, text in values.items():
        qualified(key, path, causes)
        value(text, path, causes)


def value(text: str, path: str, causes: Causes) -> None:
    """Check the value of a label."""
    if len(text) > LABEL_VALUE.most:
        invalid(path, text, f"must be no more than {LABEL_VALUE.most} bytes", causes)
    if not LABEL_VALUE.fits(text):
        rule = f"a valid label must be an empty string or consist of {_CHARACTERS}"
        invalid(path, text, f"{rule} '{LABEL_VALUE.pattern}')", causes)


def qualified(key: str, path: str, causes: Causes) -> None:
    """Check the key of a label or an annotation: [prefix/]name."""
    prefix, slash, name = key.rpartition("/")
    if slash and not (SUBDOMAIN.fullmatch(prefix.lower()) and len(prefix) <= 253):
        invalid(path, key, "the prefix must be a DNS subdomain", causes)
    elif not (_WORD.fullmatch(name) and len(name) <= 63):
        rule = "name part must consist of at most 63 alphanumeric characters, '-', '_' or '.', "
        invalid(path, key, rule + "and must start and end with an alphanumeric character", causes)


def selector(found: dict[str, Any], path: str, causes: Causes) -> None:
    """Check a label selector of the right shape."""
    labels(found.get("matchLabels") or {}, f"{path}.matchLabels", causes)
    for index, one in enumerate(found.get("matchExpressions") or []):
        where = f"{path}.matchExpressions[{index}]"
        values: list[str] = one.get("values") or []
        if one["operator"] in ("In", "NotIn"):
            if not values:
                text = "Required value: must be specified when `operator` is 'In' or 'NotIn'"
                causes.append(cause("FieldValueRequired", f"{where}.values", text))
        elif values:
            text = "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            causes.append(cause("FieldValueForbidden", f"{where}.values", text))
        qualified(one["key"], f"{where}.key", causes)
        for number, text in enumerate(values):
            value(text, f"{where}.values[{number}]", causes)
