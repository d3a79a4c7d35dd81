"""Reading label selectors, and the namespace rules that hold for whom a policy names.

Source of the rules: Cilium's EndpointSelector (control-plane reference, selectors).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fimbria.model.fields import Fields, word
from fimbria.model.identity import RESERVED
from fimbria.model.labels import NAMESPACE, NAMESPACE_LABELS
from fimbria.model.policy import Peer, PolicyError
from fimbria.model.selector import Operator, Requirement, Selector, equals, exists, selector

if TYPE_CHECKING:
    from collections.abc import Callable

K8S_NAMESPACE = f"k8s:{NAMESPACE}"
_NAMES = (K8S_NAMESPACE, f"any:{NAMESPACE}")
_NAMESPACES_BY_LABEL = (f"k8s:{NAMESPACE_LABELS}", f"any:{NAMESPACE_LABELS}")
_OPERATORS = {str(operator): operator for operator in Operator}
_WITH_VALUES = (Operator.IN, Operator.NOT_IN)
_POSITIVE = (Operator.IN, Operator.EXISTS)
_INIT = "reserved:init"
_RESERVED = {label for labels in RESERVED.values() for label in labels}

_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_KEY = re.compile(rf"(?=[^/]{{1,253}}(/|$))({_DOMAIN}(\.{_DOMAIN})*/)?(?=[^/]{{1,63}}$){_PART}")
_VALUE = re.compile(rf"(?=.{{0,63}}$)({_PART})?")


def label_selector(value: Any, path: str, prefix: Callable[[str], str]) -> Selector:
    """Read matchLabels and matchExpressions; `prefix` makes `source:key` of a key as written.

    Raises PolicyError.
    """
    fields = Fields(value, path)
    at = fields.at("matchLabels")
    found = [equals(_key(key, at, prefix), _value(text, f"{at}.{key}"))
             for key, text in fields.texts("matchLabels").items()]  # fmt: skip
    found += fields.each("matchExpressions", lambda v, p: _expression(v, p, prefix)) or ()
    fields.done()
    return selector(found)


def cilium_key(key: str) -> str:
    """Return a key of a Cilium policy with its source; `any` where none is written.

    `reserved.host` is another way to write `reserved:host` (Cilium's label parser).
    """
    if ":" in key:
        return key
    reserved = key.replace(".", ":", 1)
    return reserved if reserved in _RESERVED else f"any:{key}"


def kubernetes_key(key: str) -> str:
    """Return a key of a NetworkPolicy's pod selector."""
    return f"k8s:{key}"


def namespace_key(key: str) -> str:
    """Return a key of a NetworkPolicy's namespace selector, as pods carry it."""
    return f"k8s:{NAMESPACE_LABELS}.{key}"


def group_key(key: str) -> str:
    """Return a key of a selector over CiliumCIDRGroups."""
    return key if ":" in key else f"cidrgroup:{key}"


def node_key(key: str) -> str:
    """Return a key of a selector over Kubernetes Nodes, as the node's identity carries it."""
    source, colon, name = key.partition(":")
    if not colon:
        return f"node:{key}"
    return f"node:{name}" if source in ("any", "k8s") else key


def node_selector(value: Any, path: str) -> Selector:
    """Read a nodeSelector. Raises PolicyError, also for labels that no Node can have."""
    chosen = label_selector(value, path, node_key)
    for row in chosen.requirements:
        if not row.key.startswith("node:"):
            raise PolicyError(path, f"nodes have no label {row.key}")
    return chosen


def node_peers(chosen: Selector, path: str) -> tuple[Peer, ...]:
    """Return the nodes that are selected, this one and the others, as peers of a rule."""
    return tuple(Peer(path, chosen.also(exists(f"reserved:{label}")))
                 for label in ("host", "remote-node"))  # fmt: skip


def is_init(chosen: Selector) -> bool:
    """Return whether a selector demands `reserved:init`."""
    return any(row.key == _INIT and row.operator in _POSITIVE for row in chosen.requirements)


def subject(chosen: Selector, namespace: str, path: str) -> Selector:
    """Return an endpointSelector with the namespace rule applied.

    A namespaced policy is about pods of its own namespace, a clusterwide one about pods of any;
    pods that have no identity yet have no namespace, and who demands `reserved:init` selects
    nobody else. Raises PolicyError for a namespaced policy that names another namespace.
    """
    if is_init(chosen):
        return chosen
    if not namespace:
        return chosen.also(exists(K8S_NAMESPACE))
    for row in chosen.requirements:
        named = row.key in _NAMES and row.operator is Operator.IN
        if named and row.values != (namespace,):
            raise PolicyError(path, f"selects pods of another namespace than its own, {namespace}")
    return chosen.also(equals(K8S_NAMESPACE, namespace))


def of_any_namespace(chosen: Selector) -> Selector:
    """Return a selector without its demands on what a pod's namespace is called."""
    return selector(row for row in chosen.requirements if row.key not in _NAMES)


def peer(chosen: Selector, namespace: str, *, init: bool = False) -> Selector:
    """Return a peer's selector with the namespace rule applied: own namespace unless one is named.

    Labels of source `reserved` stand for themselves. In a clusterwide policy a peer is any pod;
    naming namespaces by their labels, also by those that they lack, does not change that. With
    `init` it is about pods that have no identity yet, and a peer is any end, namespace or not.
    """
    if chosen.has_source("reserved") or any(row.key in _NAMES for row in chosen.requirements):
        return chosen
    if not namespace:
        return chosen if init else chosen.also(exists(K8S_NAMESPACE))
    if chosen.names(*_NAMESPACES_BY_LABEL):
        return chosen
    return chosen.also(equals(K8S_NAMESPACE, namespace))


def _expression(value: Any, path: str, prefix: Callable[[str], str]) -> Requirement:
    fields = Fields(value, path)
    key = _key(fields.text("key"), fields.at("key"), prefix)
    text = fields.text("operator")
    operator = _OPERATORS.get(text)
    if operator is None:
        raise PolicyError(fields.at("operator"), f"{text!r} is none of {', '.join(_OPERATORS)}")
    values = fields.each("values", lambda v, p: _value(word(v, p), p)) or ()
    fields.done()
    if bool(values) != (operator in _WITH_VALUES):
        wanted = "at least one value" if operator in _WITH_VALUES else "no values"
        raise PolicyError(fields.at("values"), f"{operator} takes {wanted}")
    return Requirement(key, operator, tuple(sorted(set(values))))


def _key(key: str, path: str, prefix: Callable[[str], str]) -> str:
    """Return `source:key`. A key that no label can have would be a demand that nobody meets."""
    full = prefix(key)
    source, _, name = full.partition(":")
    if not source or not _KEY.fullmatch(name.removeprefix(f"{NAMESPACE_LABELS}.")):
        raise PolicyError(path, f"{key!r} is no label key")
    return full


def _value(text: str, path: str) -> str:
    if not _VALUE.fullmatch(text):
        raise PolicyError(path, f"{text!r} is no value of a label")
    return text
