"""Whatever an object contains, reading it ends in a policy, a refusal or a PolicyError."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimbria.model.policy import PolicyError, Tier
from fimbria.model.policy_parse import KINDS, parse_policy
from tests.fuzz.policy_language import objects
from tests.property.strategies import policy

WORDS = (
    "spec", "specs", "endpointSelector", "podSelector", "ingress", "egressDeny", "egress", "from",
    "fromEndpoints", "toEntities", "toPorts", "ports", "port", "endPort", "protocol", "icmps",
    "fields", "type", "family", "matchLabels", "matchExpressions", "key", "operator", "values",
    "enableDefaultDeny", "policyTypes", "namespaceSelector", "nodeSelector", "TCP", "80", "all",
    "toCIDR", "fromCIDRSet", "cidr", "except", "cidrGroupRef", "cidrGroupSelector", "ipBlock",
    "fromNodes", "toServices", "k8sService", "serviceName", "k8sServiceSelector", "toFQDNs",
    "matchName", "matchPattern", "rules", "http", "kafka", "dns", "l7proto", "l7", "path",
    "headerMatches", "terminatingTLS", "serverNames", "listener", "authentication", "mode", "log",
    "tier", "Admin", "priority", "subject", "namespaces", "pods", "action", "Accept", "to",
    "networks", "domainNames", "nodes", "protocols", "tcp", "destinationPort", "number", "range",
    "start", "end", "10.0.0.0/8", "::/0", "0.0.0.0/0", "disabled",
)  # fmt: skip
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 70000), st.floats(), st.text(max_size=4),
    st.sampled_from(WORDS), st.sampled_from([
        "\u0663", "-1", "1e3", ":", "k8s:", "reserved:init", "10.0.0.0/\u0668", "\u212a", "(", "*",
    ]),
)  # fmt: skip
junk = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), inner, max_size=4),
    ),
    max_leaves=12,
)
quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def read(document: dict[str, Any]) -> None:
    """Read an object; a policy that comes of it is a value that can be hashed and compared."""
    with contextlib.suppress(PolicyError):
        found = parse_policy(document, node_labels=True)
        assert found == parse_policy(document, node_labels=True)
        hash(found.specs)
        if found.refusal is not None:
            assert found.refusal[1]
            assert found.rules == 0
            assert found.pending == ()
            assert found.tier is Tier.NORMAL


@quick
@given(st.sampled_from(KINDS), junk, junk)
def test_any_object(kind: str, spec: Any, specs: Any) -> None:
    """Junk under spec and specs."""
    meta = {"name": "x", "namespace": "y"}
    read({"kind": kind, "metadata": meta, "spec": spec, "specs": specs})


@quick
@given(st.one_of(policy(), objects()), st.data())
def test_damaged_objects(document: dict[str, Any], data: st.DataObject) -> None:
    """Good policies with one part replaced by junk."""
    document = copy.deepcopy(document)  # its parts may be values that a strategy gives again
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            places.append((value, key))
            if isinstance(inner, (dict, list)):
                collect(inner)

    collect(document)
    owner, key = data.draw(st.sampled_from(places))
    owner[key] = data.draw(junk)
    read(document)
