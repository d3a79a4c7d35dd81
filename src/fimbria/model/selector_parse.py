"""Label selectors of both APIs, and the namespace each of them means.

    NetworkPolicy   podSelector: keys are pod labels; namespaceSelector: keys are labels of the
                    namespace; neither leaves the policy's namespace unless it says so
    CNP             the policy's namespace, unless the selector names a namespace or a
                    reserved label
    CCNP            all namespaces; an empty selector means every pod, not the world or hosts

(Kubernetes NetworkPolicy v1; Cilium: EndpointSelector and namespace scope of CNP and CCNP.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.model.labels import NAMESPACE_PREFIX, POD_NAMESPACE
from fimbria.model.policy import PolicyError
from fimbria.model.selector import Operator, Requirement, Selector

if TYPE_CHECKING:
    from fimbria.model.fields import Fields

SOURCES = ("any", "k8s", "reserved", "cidr", "cidrgroup", "fqdn", "node", "container", "unspec")
NAMESPACE_KEY = f"k8s:{POD_NAMESPACE}"


def sourced(key: str) -> str:
    """A Cilium selector key with its source: `app` -> `any:app`."""
    source, colon, _ = key.partition(":")
    return key if colon and source in SOURCES else f"any:{key}"


def requirements(fields: Fields, prefix: str = "") -> list[Requirement]:
    """A LabelSelector's requirements; `prefix` goes before every key (`k8s:`), without one the
    keys carry Cilium's sources. Raises PolicyError."""
    fields.only(("matchLabels", "matchExpressions"))
    labels = fields.fields("matchLabels")
    found = [
        Requirement(_key(name, labels.at(name), prefix), Operator.IN, (labels.text(name),))
        for name in labels
    ]
    for expression in fields.list_of("matchExpressions") or []:
        expression.only(("key", "operator", "values"))
        key = _key(expression.text("key"), expression.at("key"), prefix)
        text = expression.text("operator")
        if text not in tuple(Operator):
            raise PolicyError(
                expression.at("operator"),
                f"{text or 'missing'}; must be one of {', '.join(Operator)}",
            )
        values: list[str] = []
        for value, path in expression.items("values") or []:
            if not isinstance(value, str):
                raise PolicyError(path, "must be text")
            values.append(value)
        needs = text in (Operator.IN, Operator.NOT_IN)
        if needs != bool(values):
            reason = f"{text} needs at least one value" if needs else f"{text} takes no values"
            raise PolicyError(expression.at("values"), reason)
        found.append(Requirement(key, Operator(text), tuple(sorted(set(values)))))
    return found


def _key(name: str, path: str, prefix: str) -> str:
    if not name:
        raise PolicyError(path, "a label key may not be empty")
    return prefix + name if prefix else sourced(name)


def endpoint_selector(fields: Fields, namespace: str, *, init: bool = False) -> Selector:
    """A Cilium EndpointSelector in a policy of `namespace` (empty: cluster-wide).

    `init`: the policy is for pods without labels yet, and its selectors keep their scope."""
    found = requirements(fields)
    names = {requirement.key.partition(":")[2] for requirement in found}
    scoped = any(name == POD_NAMESPACE or name.startswith(NAMESPACE_PREFIX) for name in names)
    reserved = any(requirement.key.startswith("reserved:") for requirement in found)
    if scoped or reserved or init:
        return Selector.of(found)
    if namespace:
        found.append(Requirement(NAMESPACE_KEY, Operator.IN, (namespace,)))
    elif not found:
        found.append(Requirement(NAMESPACE_KEY, Operator.EXISTS))
    return Selector.of(found)


def pod_selector(pods: Fields | None, namespaces: Fields | None, namespace: str) -> Selector:
    """A NetworkPolicy's pod and namespace selectors together."""
    found = requirements(pods, "k8s:") if pods is not None else []
    if namespaces is None:
        found.append(Requirement(NAMESPACE_KEY, Operator.IN, (namespace,)))
    else:
        found += requirements(namespaces, f"k8s:{NAMESPACE_PREFIX}")
        found.append(Requirement(NAMESPACE_KEY, Operator.EXISTS))
    return Selector.of(found)
