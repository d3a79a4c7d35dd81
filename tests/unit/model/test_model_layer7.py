"""Layer 7 rules, TLS, server names, listeners: checked in full, and redirected to a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fimbria.model.layer7 import regular_expression
from fimbria.model.policy import PolicyError
from fimbria.model.policy_parse import parse_policy

if TYPE_CHECKING:
    from fimbria.model.policy import Policy

TCP = {"port": "80", "protocol": "TCP"}
CONTEXT = {"secret": {"name": "s", "namespace": "n"}, "trustedCA": "ca.crt"}
LISTENER = {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "c"}, "name": "l", "priority": 1}


def cnp(port_rule: Any, section: str = "egress") -> Policy:
    document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"},
                "spec": {"endpointSelector": {}, section: [{"toPorts": [port_rule]}]}}  # fmt: skip
    return parse_policy(document)


def with_rules(rules: Any, ports: Any = None, section: str = "egress") -> Policy:
    return cnp({"ports": ports or [TCP], "rules": rules}, section)


HTTP = {
    "path": "/v1/[^/]+", "method": "GET|HEAD", "host": "[[:alnum:].]+",
    "headers": ["X-A", "X-B: c"],
    "headerMatches": [
        {"name": "a", "value": "b", "mismatch": "LOG"}, {"name": "c", "secret": {"name": "s"}},
    ],
}  # fmt: skip
KAFKA = {"role": "Produce", "topic": "a.b_c-1", "clientID": "x", "apiVersion": "3"}


@pytest.mark.parametrize(
    ("rule", "parser", "field"),
    [
        ({"rules": {"http": [{}]}}, "http", "rules.http"),
        ({"rules": {"http": [HTTP, {}]}}, "http", "rules.http"),
        ({"rules": {"kafka": [KAFKA, {"apiKey": "Fetch"}]}}, "kafka", "rules.kafka"),
        ({"rules": {"l7proto": "memcache", "l7": [{"opCode": "get"}]}}, "memcache",
         "rules.l7proto"),
        ({"rules": {"l7proto": "test.headerparser"}}, "test.headerparser", "rules.l7proto"),
        ({"serverNames": ["a.example.com", "*.b"]}, "tls", "serverNames"),
        ({"terminatingTLS": CONTEXT}, "tls", "terminatingTLS"),
        ({"originatingTLS": CONTEXT, "serverNames": ["a"]}, "tls", "originatingTLS"),
        ({"terminatingTLS": CONTEXT, "serverNames": ["a"], "rules": {"http": [{}]}}, "http",
         "rules.http"),
        ({"listener": LISTENER}, "listener:c/l", "listener"),
    ],
)  # fmt: skip
def test_redirects(rule: Any, parser: str, field: str) -> None:
    """Each port names the parser; what waits for a proxy is named once, with its field."""
    policy = cnp({"ports": [TCP, {"port": "http", "protocol": "TCP"}], **rule})
    assert policy.refusal is None
    (one,) = policy.specs[0].rules
    assert [port.parser for port in one.ports] == [parser, parser]
    assert policy.pending == (
        (f"spec.egress[0].toPorts[0].{field}", "no proxy is running: its traffic is denied"),
    )


@pytest.mark.parametrize("rule", [{}, {"rules": {}}, {"rules": None}])
def test_no_rules_no_proxy(rule: Any) -> None:
    """Without rules a port is open for anything."""
    policy = cnp({"ports": [TCP], **rule})
    assert policy.refusal is None
    assert policy.pending == ()
    assert [port.parser for port in policy.specs[0].rules[0].ports] == [""]


def test_dns() -> None:
    """Over UDP and TCP, on egress, for single ports."""
    rules = {"dns": [{"matchName": "a.b"}, {"matchPattern": "*.c"}]}
    for protocol in ("UDP", "TCP", "ANY", ""):
        policy = with_rules(rules, [{"port": "53", "protocol": protocol, "endPort": 53}])
        assert policy.refusal is None
        assert policy.specs[0].rules[0].ports[0].parser == "dns"


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"http": []}, "http"),
        ({"http": {}}, "http"),
        ({"http": [{}], "dns": [{"matchName": "a"}]}, ""),
        ({"http": [{}], "l7proto": "x"}, ""),
        ({"l7": [{"a": "b"}]}, "l7"),
        ({"l7proto": "x", "l7": [{"a": 1}]}, "l7[0].a"),
        ({"l7proto": "x", "l7": ["a"]}, "l7[0]"),
        ({"l7proto": "x", "l7": [{"": "a"}]}, "l7[0]"),
        ({"l7proto": 1}, "l7proto"),
        ({"grpc": [{}]}, "grpc"),
        ({"http": [{"url": "/"}]}, "http[0].url"),
        ({"http": [{"path": "("}]}, "http[0].path"),
        ({"http": [{"method": 1}]}, "http[0].method"),
        ({"http": [{}, {"host": "(?=a)"}]}, "http[1].host"),
        ({"http": [{"headers": [""]}]}, "http[0].headers[0]"),
        ({"http": [{"headers": ["a", ":b"]}]}, "http[0].headers[1]"),
        ({"http": [{"headerMatches": [{}]}]}, "http[0].headerMatches[0].name"),
        ({"http": [{"headerMatches": [{"name": "a", "mismatch": "x"}]}]},
         "http[0].headerMatches[0].mismatch"),
        ({"http": [{"headerMatches": [{"name": "a", "secret": {}}]}]},
         "http[0].headerMatches[0].secret.name"),
        ({"kafka": [{"role": "produce", "apiKey": "fetch"}]}, "kafka[0].apiKey"),
        ({"kafka": [{"role": "admin"}]}, "kafka[0].role"),
        ({"kafka": [{"apiKey": "steal"}]}, "kafka[0].apiKey"),
        ({"kafka": [{"apiVersion": "32768"}]}, "kafka[0].apiVersion"),
        ({"kafka": [{"apiVersion": "-1"}]}, "kafka[0].apiVersion"),
        ({"kafka": [{"topic": "a/b"}]}, "kafka[0].topic"),
        ({"kafka": [{"topic": "a" * 256}]}, "kafka[0].topic"),
        ({"kafka": [{"key": "a"}]}, "kafka[0].key"),
        ({"dns": [{}]}, "dns[0]"),
        ({"dns": [{"matchName": "a b"}]}, "dns[0].matchName"),
    ],
)  # fmt: skip
def test_rules_that_are_refused(rules: Any, field: str) -> None:
    """Every field is checked; the path leads to it."""
    refusal = with_rules(rules).refusal
    assert refusal is not None
    assert refusal[0] == "spec.egress[0].toPorts[0].rules" + (f".{field}" if field else "")


DNS = {"dns": [{"matchName": "a"}]}


@pytest.mark.parametrize(
    ("rules", "port", "field"),
    [
        ({"http": [{}]}, {"port": "80"}, "protocol"),
        ({"http": [{}]}, {"port": "80", "protocol": "UDP"}, "protocol"),
        ({"http": [{}]}, {"port": "0", "protocol": "TCP"}, "port"),
        ({"kafka": [{}]}, {"protocol": "TCP"}, "port"),
        (DNS, {"port": "0", "protocol": "UDP"}, "port"),
        (DNS, {"port": "53", "protocol": "SCTP"}, "protocol"),
        (DNS, {"port": "53", "protocol": "UDP", "endPort": 54}, "endPort"),
    ],
)
def test_ports_that_rules_cannot_have(rules: Any, port: Any, field: str) -> None:
    """Layer 7 is read over TCP, DNS over UDP too; never for all ports."""
    refusal = with_rules(rules, [{"port": "53", "protocol": "TCP"}, port]).refusal
    assert refusal is not None
    assert refusal[0] == f"spec.egress[0].toPorts[0].ports[1].{field}"


@pytest.mark.parametrize(
    ("rule", "section", "field"),
    [
        ({"rules": DNS}, "ingress", "rules.dns"),
        ({"rules": {"http": [{}]}}, "ingressDeny", "rules"),
        ({"serverNames": ["a"]}, "egressDeny", "serverNames"),
        ({"listener": LISTENER}, "egressDeny", "listener"),
        ({"listener": LISTENER}, "ingress", "listener"),
        ({"listener": LISTENER, "rules": {"http": [{}]}}, "egress", "listener"),
        ({"listener": {**LISTENER, "priority": 101}}, "egress", "listener.priority"),
        ({"listener": {**LISTENER, "name": ""}}, "egress", "listener.name"),
        ({"listener": {"name": "l"}}, "egress", "listener.envoyConfig"),
        ({"listener": {**LISTENER, "envoyConfig": {"kind": "X", "name": "c"}}}, "egress",
         "listener.envoyConfig.kind"),
        ({"listener": {**LISTENER, "envoyConfig": {}}}, "egress", "listener.envoyConfig.name"),
        ({"serverNames": ["a"], "rules": {"http": [{}]}}, "egress", "serverNames"),
        ({"serverNames": []}, "egress", "serverNames"),
        ({"serverNames": ["a", ""]}, "egress", "serverNames[1]"),
        ({"terminatingTLS": {}}, "ingress", "terminatingTLS.secret"),
        ({"terminatingTLS": {"secret": {}}}, "ingress", "terminatingTLS.secret.name"),
        ({"originatingTLS": {**CONTEXT, "key": "x"}}, "egress", "originatingTLS.key"),
    ],
)  # fmt: skip
def test_places_and_company(rule: Any, section: str, field: str) -> None:
    """What goes with what, and where."""
    refusal = cnp({"ports": [TCP], **rule}, section).refusal
    assert refusal is not None
    assert refusal[0] == f"spec.{section}[0].toPorts[0].{field}"


@pytest.mark.parametrize(
    "text",
    ["", "/a/.*", "a|b", "[[:alpha:]_-]+", "[^[:space:]]", "[a*+]b", "(?i)get", "x(?i)y",
     r"/\d+\.html", "a{2,3}", r"[\]]+", "[^]*+]", r"\(?=", "[]a]+", "(a(b)?)*?", "[[a]"],
)  # fmt: skip
def test_regular_expressions(text: str) -> None:
    """POSIX's, and what RE2 has beside them."""
    regular_expression(text, "path")


@pytest.mark.parametrize(
    "text",
    ["(", "[", "*", "a**", "a++", "a{3,2}", "a|*", "(?=a)", "(?!a)", "(?<=a)b", "(?>a)", r"(a)\1",
     "(?P<n>a)(?P=n)", "(?(1)a)", "\\", "(" * 10_000, "[a" * 10_000, "[]", "[^]", "a{99999999999}"],
)  # fmt: skip
def test_what_is_no_regular_expression(text: str) -> None:
    """Errors, and what looks around or back."""
    with pytest.raises(PolicyError) as raised:
        regular_expression(text, "path")
    assert raised.value.path == "path"


def test_reasons_fit_into_a_status() -> None:
    """However much the field that it quotes holds."""
    refusal = with_rules({"http": [{"path": "(" * 100_000}]}).refusal
    assert refusal is not None
    assert len(refusal[1]) == 300
    assert refusal[1].endswith("…")
