"""Monitor: the lines that operators know, the explanation, the filters."""

from __future__ import annotations

import json

import pytest

from fimbria.cli import monitortext

DROP = {
    "time": "2026-01-02T03:04:05.000006Z",
    "type": "drop",
    "reason_number": 133,
    "reason": "Policy denied",
    "source": 7,
    "dst_id": 7,
    "direction": "ingress",
    "saddr": "10.0.0.1",
    "daddr": "10.0.0.2",
    "sport": 40000,
    "dport": 80,
    "protocol": 6,
    "tcp_flags": "SYN",
    "src_label": 300,
    "dst_label": 301,
    "ifindex": 12,
    "file": 11,
    "line": 99,
    "rule": 0,
    "policy_id": 3,
    "src_pod": "default/xwing",
    "src_labels": ["k8s:org=alliance"],
    "explanation": {"text": "no rule of default/rule1 allows it"},
}
VERDICT = {**DROP, "type": "policy-verdict", "action": "deny", "match": "none"}
TRACE = {
    **DROP,
    "type": "trace",
    "point": "to-endpoint",
    "ct_state": "established",
    "interface": "lxc1234",
    "source": 9,
    "direction": "egress",
}


def test_drop_line() -> None:
    """`xx drop (reason) flow … to endpoint N, ifindex N, file F:L, , identity A->B: packet`."""
    line = monitortext.event_line(DROP)
    assert line == (
        f"xx drop (Policy denied) flow {monitortext.flow_hash(DROP):#010x} to endpoint 7, "
        "ifindex 12, file from_container.bpf.c:99, , identity 300->301: "
        "10.0.0.1:40000 -> 10.0.0.2:80 tcp SYN"
    )


def test_verdict_line() -> None:
    """The policy verdict names endpoint, remote identity, direction, action and match."""
    line = monitortext.event_line(VERDICT)
    assert line.startswith("Policy verdict log: flow 0x")
    assert (
        "local EP ID 7, remote ID 300, proto 6, ingress, action deny, auth: disabled, match none, "
        "10.0.0.1:40000 -> 10.0.0.2:80 tcp SYN"
    ) in line


def test_verdict_of_a_shadow_policy() -> None:
    """What a policy in audit mode would have done is told apart from what was done."""
    line = monitortext.event_line({**VERDICT, "shadow": True})
    assert "action none (audit mode: deny), auth" in line


def test_redirect_names_the_proxys_port() -> None:
    """A redirect says where it goes, also in audit mode."""
    event = {**VERDICT, "action": "redirect", "verdict": 10080, "proxy_port": 10080}
    assert "action redirect to port 10080, auth" in monitortext.event_line(event)
    assert "(audit mode: redirect to port 10080)" in monitortext.event_line(
        {**event, "shadow": True}
    )


def test_policy_drop_is_a_verdict() -> None:
    """A drop by policy is also the verdict that denied; other drops are not."""
    assert "action deny" in monitortext.event_line(monitortext.as_verdict(DROP))
    other = {**DROP, "reason_number": 134}
    assert monitortext.as_verdict(other) is other


def test_trace_line() -> None:
    """`-> endpoint N flow … , identity A->B state S ifindex DEV orig-ip A: packet`."""
    line = monitortext.event_line(TRACE)
    assert line.startswith("-> endpoint 7 flow 0x")
    assert (
        ", identity 300->301 state established ifindex lxc1234 orig-ip 10.0.0.1: "
        "10.0.0.1:40000 -> 10.0.0.2:80 tcp SYN"
    ) in line


def test_icmp_has_type_and_code() -> None:
    """ICMP has no ports but type and code, which stand in dport's bytes."""
    event = {**DROP, "protocol": 1, "dport": 8 << 8, "tcp_flags": ""}
    assert monitortext.packet(event) == "10.0.0.1 -> 10.0.0.2 icmp type 8 code 0"


def test_both_directions_share_the_flow() -> None:
    """A connection's two directions have the same flow number."""
    answer = {
        **DROP,
        "saddr": DROP["daddr"],
        "daddr": DROP["saddr"],
        "sport": DROP["dport"],
        "dport": DROP["sport"],
    }
    assert monitortext.flow_hash(DROP) == monitortext.flow_hash(answer)


def test_verbose_explains() -> None:
    """-v says who the ends are and what decided."""
    lines = monitortext.detail_lines(DROP)
    assert lines[0] == "    from default/xwing identity 300 [k8s:org=alliance]"
    assert lines[2] == "    by   no rule of default/rule1 allows it (rule 0, policy map 3)"


def test_explanation_of_a_rule() -> None:
    """A rule is named by kind, object and path."""
    rule = {
        "kind": "CiliumNetworkPolicy",
        "namespace": "default",
        "name": "rule1",
        "path": "spec.ingressDeny[0]",
        "text": "",
    }
    text = monitortext.explanation({**DROP, "rule": 16, "explanation": rule})
    assert text == ("CiliumNetworkPolicy default/rule1 spec.ingressDeny[0] (rule 16, policy map 3)")


@pytest.mark.parametrize(
    ("words", "types"),
    [
        ((), ["drop", "policy-verdict", "trace"]),
        (("-t", "policy-verdict"), ["policy-verdict", "policy-verdict"]),
        (("-t", "policy-verdict", "-t", "drop"), ["drop", "policy-verdict"]),
        (("--type", "drop"), ["drop"]),
        (("-t", "drop", "-t", "trace"), ["drop", "trace"]),
        (("--from", "9"), ["trace"]),
        (("--to", "7", "-t", "drop"), ["drop"]),
        (("--from", "7"), []),
        (("--related-to", "9"), ["trace"]),
        (("--related-to", "8"), []),
    ],
)
def test_filters(ask, agent, words, types) -> None:
    """Filters by type and endpoint; --last counts what passes them."""
    stream = "\n".join(json.dumps(one) for one in (DROP, VERDICT, TRACE))
    agent.answers["/v1/monitor?last=4096&follow=0"] = (200, stream.encode())
    result = ask("monitor", "--last", "5", "-o", "json", *words)
    assert [json.loads(line)["type"] for line in result.output.splitlines()] == types


def test_lost_events_are_always_told(ask, agent) -> None:
    """A gap in the stream is shown whatever the filter."""
    stream = json.dumps({"type": "lost", "count": 3}).encode()
    agent.answers["/v1/monitor?last=0&follow=1"] = (200, stream)
    assert "?? 3 events lost" in ask("monitor", "-v", "--type", "drop", "--from", "3").output


def test_last(ask, agent) -> None:
    """--last N prints the last N and ends."""
    stream = "\n".join(json.dumps({**DROP, "line": n}) for n in range(5))
    agent.answers["/v1/monitor?last=4096&follow=0"] = (200, stream.encode())
    result = ask("monitor", "--last", "2", "-v")
    assert [".c:3" in result.output, ".c:4" in result.output, ".c:2" in result.output] == [
        *(True, True, False),
    ]


def test_follow(ask, agent) -> None:
    """Without --last it follows from now on, until the agent ends."""
    stream = json.dumps(DROP).encode()
    agent.answers["/v1/monitor?last=0&follow=1"] = (200, stream)
    result = ask("monitor")
    assert "xx drop" in result.output
