"""Every noun: its columns are those that operators grep for."""

from __future__ import annotations

import json
import re

import pytest

ENDPOINT = {
    "id": 92,
    "state": "ready",
    "identity": {"id": 53731, "labels": ["k8s:io.kubernetes.pod.namespace=default", "k8s:name=t"]},
    "networking": {"addressing": [{"ipv4": "10.0.0.210", "ipv6": "fd00::d2"}]},
    "policy": {"ingress": {"enforcing": True}, "egress": {"enforcing": False}},
}
STATUS = {
    "lines": [
        {"name": "Kubernetes", "state": "ok", "text": "Ok"},
        {
            "name": "Routing",
            "state": "ok",
            "text": "Network: Tunnel [vxlan]   Host: BPF",
            "requested": "BPF",
        },
    ]
}


def columns(line: str) -> list[str]:
    return re.split(r"\s{3,}", line.strip())


def test_status(ask, agent) -> None:
    """A line per subsystem; requested stands beside effective."""
    agent.give("/v1/healthz", STATUS)
    result = ask("status")
    assert result.exit_code == 0
    assert re.search(r"^Kubernetes: +Ok$", result.output, re.M)
    assert re.search(
        r"^Routing: +Network: Tunnel \[vxlan\]   Host: BPF   \(requested: BPF\)$",
        result.output,
        re.M,
    )


def test_status_brief(ask, agent) -> None:
    """--brief is OK and 0, or what fails and 1."""
    agent.give("/v1/healthz", STATUS)
    assert ask("status", "--brief").output == "OK\n"
    bad = {"lines": [{"name": "Kubernetes", "state": "failure", "text": "no answer"}]}
    agent.give("/v1/healthz", bad)
    result = ask("status", "--brief")
    assert (result.exit_code, result.output) == (1, "Kubernetes: no answer\n")


def test_endpoint_list(ask, agent) -> None:
    """Enforcement by direction, one label per line."""
    agent.give("/v1/endpoint", [ENDPOINT])
    lines = ask("endpoint", "list").output.splitlines()
    assert columns(lines[0]) == [
        "ENDPOINT",
        "POLICY (ingress)",
        "POLICY (egress)",
        "IDENTITY",
        "LABELS (source:key[=value])",
        "IPv6",
        "IPv4",
        "STATUS",
    ]
    assert columns(lines[1]) == ["ENFORCEMENT", "ENFORCEMENT"]
    assert columns(lines[2]) == [
        "92",
        "Enabled",
        "Disabled",
        "53731",
        "k8s:io.kubernetes.pod.namespace=default",
        "fd00::d2",
        "10.0.0.210",
        "ready",
    ]
    assert lines[3].strip() == "k8s:name=t"


def test_endpoint_get_quotes(ask, agent) -> None:
    """An endpoint may be named by pod; what comes is the whole document."""
    agent.give("/v1/endpoint/pod-name:default%2Ft", ENDPOINT)
    result = ask("endpoint", "get", "pod-name:default/t", "-o", "json")
    assert json.loads(result.output) == ENDPOINT


@pytest.mark.parametrize("document", [{}, [1], [{}], "text", [{"id": None}], {"lines": [{}]}])
@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("endpoint", "list"), "/v1/endpoint"),
        (("identity", "list"), "/v1/identity"),
        (("ip", "list", "-n"), "/v1/ip"),
        (("node", "list"), "/v1/cluster/nodes"),
        (("map", "list"), "/v1/map"),
        (("policy", "list"), "/v1/policy"),
        (("policy", "selectors"), "/v1/policy/selectors"),
        (("config", "get"), "/v1/config"),
        (("status",), "/v1/healthz"),
    ],
)
def test_answer_of_another_form(ask, agent, words, path, document) -> None:
    """A document of another form is a message, never a traceback; -o json still shows it."""
    agent.give(path, document)
    result = ask(*words)
    assert isinstance(result.exception, (SystemExit, type(None))), result.exception
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) < 4


def test_endpoint_unknown(ask) -> None:
    """What the agent does not know is its own message, exit code 1."""
    result = ask("endpoint", "get", "7")
    assert (result.exit_code, result.output) == (1, "Error: no such thing\n")


@pytest.mark.parametrize(
    ("words", "path", "document", "head", "row"),
    [
        (
            ("identity", "list"),
            "/v1/identity",
            [{"id": 1, "labels": ["reserved:host"], "refcount": 1}],
            ["ID", "LABELS", "REFCOUNT"],
            ["1", "reserved:host", "1"],
        ),
        (
            ("ip", "list", "-n"),
            "/v1/ip",
            [{"cidr": "10.0.0.9/32", "identity": 1, "source": "local"}],
            ["IP", "IDENTITY", "SOURCE"],
            ["10.0.0.9/32", "1", "local"],
        ),
        (
            ("node", "list"),
            "/v1/cluster/nodes",
            [
                {
                    "name": "node1",
                    "ipv4": {"address": "172.18.0.2", "cidr": "10.0.0.0/24"},
                    "ipv6": {"address": "fd00::2", "cidr": "fd00:1::/120"},
                    "source": "local",
                }
            ],
            [
                "Name",
                "IPv4 Address",
                "Endpoint CIDR",
                "IPv6 Address",
                "Endpoint CIDR",
                "Source",
            ],
            ["node1", "172.18.0.2", "10.0.0.0/24", "fd00::2", "fd00:1::/120", "local"],
        ),
        (
            ("map", "list"),
            "/v1/map",
            [{"name": "cilium_lxc", "entries": 3, "errors": 0}],
            ["Name", "Num entries", "Num errors", "Cache enabled"],
            ["cilium_lxc", "3", "0", "true"],
        ),
        (
            ("policy", "selectors"),
            "/v1/policy/selectors",
            [{"selector": "&{any.kind=echo}", "users": 2, "identities": [300]}],
            ["SELECTOR", "LABELS", "USERS", "IDENTITIES"],
            ["&{any.kind=echo}", "2", "300"],
        ),
        (
            ("config", "get"),
            "/v1/config",
            {"mtu": {"requested": 0, "effective": 1450, "source": "default"}},
            ["KEY", "REQUESTED", "EFFECTIVE", "SOURCE"],
            ["mtu", "0", "1450", "default"],
        ),
    ],
)
def test_tables(ask, agent, words, path, document, head, row) -> None:
    """The columns of each list, and a row; -o json gives the document as it came."""
    agent.give(path, document)
    lines = ask(*words).output.splitlines()
    assert columns(lines[0]) == head
    assert columns(lines[1]) == row
    assert json.loads(ask(*words, "-o", "json").output) == document


def test_ip_list_is_in_numeric_order(ask, agent) -> None:
    """Addresses are in the order of their numbers, IPv4 first; reserved identities have names."""
    agent.give("/v1/identity", [{"id": 1, "labels": ["reserved:host"]}])
    listed = ["10.0.0.10/32", "fd00::1/128", "10.0.0.9/32"]
    agent.give("/v1/ip", [{"cidr": one, "identity": 1, "source": "x"} for one in listed])
    lines = ask("ip", "list").output.splitlines()[1:]
    assert [columns(line)[:2] for line in lines] == [
        ["10.0.0.9/32", "reserved:host"],
        ["10.0.0.10/32", "reserved:host"],
        ["fd00::1/128", "reserved:host"],
    ]


def test_config_unknown_key(ask, agent) -> None:
    """An unknown key is answered with the nearest."""
    agent.give("/v1/config", {"routing-mode": {"requested": "a", "effective": "a"}})
    result = ask("config", "get", "routing-mod")
    assert result.exit_code == 1
    assert "did you mean 'routing-mode'?" in result.output


def test_policy_get(ask, agent) -> None:
    """JSON of the policies, then the revision."""
    policies = [{"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "rule1"}]
    agent.give("/v1/policy", {"revision": 7, "policies": policies})
    text, _, revision = ask("policy", "get").output.rpartition("\nRevision: ")
    assert (json.loads(text), revision) == (policies, "7\n")
    assert ask("policy", "get", "default/rule2").exit_code == 1


def test_policy_wait(ask, agent) -> None:
    """Without a number: the newest revision."""
    agent.give("/v1/policy", {"revision": 7, "policies": []})
    agent.give("/v1/policy/wait?revision=7", {"revision": 7})
    assert ask("policy", "wait").output == "Revision 7 is enforced on every endpoint\n"


def test_policy_trace(ask, agent) -> None:
    """The ends and the port go out as the agent's request; its text is printed."""
    agent.give("/v1/policy/resolve", {"text": "Final verdict: DENIED\n", "verdict": "denied"})
    words = ("--src-k8s-pod", "default:xwing", "-d", "k8s:org=empire, any:class=deathstar")
    result = ask("policy", "trace", *words, "--dport", "80/tcp")
    assert result.output == "Final verdict: DENIED\n"
    assert agent.requests[-1] == (
        "POST /v1/policy/resolve",
        {
            "src": {"pod": "default/xwing"},
            "dst": {"labels": ["k8s:org=empire", "any:class=deathstar"]},
            "dport": "80/TCP",
        },
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--src-identity", "5"), "--dst-k8s-pod"),
        (("--src-identity", "5", "-s", "a", "--dst-identity", "6"), "only one of --src-k8s-pod"),
        (("--src-k8s-pod", "xwing", "--dst-identity", "6"), "--src-k8s-pod 'xwing'"),
        (("--src-identity", "5", "--dst-identity", "6", "--dport", "http"), "--dport 'http'"),
        (("--src-identity", "5", "--dst-identity", "6", "--dport", "70000"), "--dport '70000'"),
        (("--src-identity", "5", "--dst-identity", "6", "--dport", "1/XYZ"), "no protocol XYZ"),
    ],
)
def test_policy_trace_bad_arguments(ask, words, named) -> None:
    """What is wrong is named, exit code 2, and the agent is not asked."""
    result = ask("policy", "trace", *words)
    assert result.exit_code == 2
    assert named in result.output


def test_policy_trace_by_address(ask, agent) -> None:
    """An end may be an address; what is none is told before the agent is asked."""
    agent.give("/v1/policy/resolve", {"text": "Final verdict: DENIED\n", "verdict": "denied"})
    ask("policy", "trace", "--src-k8s-pod", "a:b", "--dst-ip", "2001:DB8::1")
    assert agent.requests[-1][1] == {"src": {"pod": "a/b"}, "dst": {"ip": "2001:db8::1"}}
    result = ask("policy", "trace", "--src-ip", "10.0.0", "--dst-ip", "10.0.0.1")
    assert (result.exit_code, len(agent.requests)) == (2, 1)
    assert "--src-ip '10.0.0': no IP address" in result.output


def test_policy_list(ask, agent) -> None:
    """Tier and priority, what is not simply in force, and what an audited policy would do."""
    policies = [
        {"kind": "ClusterNetworkPolicy", "name": "a", "tier": "Admin", "priority": 3, "rules": 1,
         "status": "audited", "reason": "", "shadow": {"denied": 4, "allowed": 0}},
        {"kind": "CiliumNetworkPolicy", "namespace": "x", "name": "b", "tier": "Normal", "rules": 1,
         "status": "not applied", "reason": "too large"},
    ]  # fmt: skip
    agent.give("/v1/policy", {"revision": 7, "policies": policies})
    head, first, second = ask("policy", "list", "-o", "table").output.splitlines()
    assert columns(head)[2:5] == ["NAME", "TIER", "PRIORITY"]
    assert columns(first)[-5:] == ["Admin", "3", "1", "audited", "4 denied, 0 allowed"]
    assert columns(second)[-2:] == ["not applied", "too large"]


def test_endpoint_config(ask, agent) -> None:
    """Options are shown, and set by NAME=VALUE."""
    path = "/v1/endpoint/7/config"
    agent.give(path, {"id": 7, "options": {"PolicyAuditMode": "Enabled"}})
    shown = ask("endpoint", "config", "7", "-o", "table").output.splitlines()
    assert columns(shown[1]) == ["PolicyAuditMode", "Enabled"]
    ask("endpoint", "config", "7", "PolicyAuditMode=Enabled")
    assert agent.requests[-1] == (f"PATCH {path}", {"options": {"PolicyAuditMode": "Enabled"}})
    assert ask("endpoint", "config", "7", "PolicyAuditMode").exit_code == 2
