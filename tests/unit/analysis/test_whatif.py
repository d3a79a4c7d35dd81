"""What a change would do to recorded traffic: events, the world that they are in, and groups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fimbria.analysis import from_documents
from fimbria.analysis.whatif import summary, whatif
from fimbria.analysis.whatif_flows import Recording
from fimbria.analysis.whatif_world import key_of, of_node, unresolved
from fimbria.cli.main import root
from fimbria.model.policy import PolicyKey

if TYPE_CHECKING:
    from pathlib import Path

Document = dict[str, Any]


def labels(app: str) -> list[str]:
    return [f"k8s:app={app}", "k8s:io.kubernetes.pod.namespace=default"]


IDS = {"a": 1001, "b": 1002, "server": 1003}
IPS = {"a": "10.0.0.1", "b": "10.0.0.2", "server": "10.0.1.1"}


def event(source: str, sport: int, dport: int, **more: Any) -> Document:
    """A verdict about a new connection to the server."""
    return {
        "type": "policy-verdict", "action": "allow", "ct_state": "new", "protocol": 6,
        "saddr": IPS.get(source, source), "daddr": IPS["server"], "sport": sport, "dport": dport,
        "src_pod": f"default/{source}" if source in IPS else "",
        "dst_pod": "default/server", "src_label": IDS.get(source, 9), "dst_label": IDS["server"],
        "src_labels": labels(source) if source in IPS else ["reserved:world-ipv4"],
        "dst_labels": labels("server"), **more,
    }  # fmt: skip


def turned(one: Document, **more: Any) -> Document:
    """The same connection's answer."""
    found = dict(one)
    for left, right in (("saddr", "daddr"), ("sport", "dport"), ("src_pod", "dst_pod"),
                        ("src_label", "dst_label"), ("src_labels", "dst_labels")):  # fmt: skip
        found[left], found[right] = one[right], one[left]
    return found | {"type": "trace", "ct_state": "reply"} | more


POLICY: Document = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "only-a"},
    "spec": {
        "endpointSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "a"}}]}],
    },
}


def recorded(*events: Document) -> Recording:
    found = Recording()
    found.events(events)
    assert not found.errors
    return found


def test_a_connection_counts_once() -> None:
    """Both ends tell of it, its trace and its answers too; another port is another one."""
    first = event("a", 4000, 80)
    found = recorded(first, first | {"type": "trace"}, turned(first), event("a", 4001, 80))
    assert [(one.source.name, one.port) for one in found.seen.values()] == [("default/a", 80)] * 2


def test_what_says_nothing() -> None:
    """Shadow verdicts, drops that are no policy's, and what has no ports are left out."""
    spoofed = event("a", 1, 2, type="drop", reason="Invalid source ip")
    portless = {key: value for key, value in event("a", 1, 2).items() if key != "dport"}
    related = event("a", 1, 2, ct_state="related")
    assert not recorded(event("a", 1, 2, shadow=True), spoofed, portless, related).seen


def test_a_drop_is_a_denied_connection() -> None:
    """What policy dropped was denied; an ICMP type is what stands for the port."""
    drop = event("b", 4000, 80, type="drop", explanation={})
    ping = event("b", 7, 8 << 8, protocol=1)
    denied, echo = recorded(drop, ping).seen.values()
    assert denied.denied is True
    assert (echo.protocol, echo.port, echo.denied) == ("ICMP", 8, False)


def test_the_change_is_told_in_groups() -> None:
    """Who is new to the world joins it by its labels; what differs is grouped and counted."""
    events = [event("a", port, 80) for port in range(5)]
    events += [event("b", port, 80) for port in range(3)] + [event("192.0.2.1", 9, 443)]
    world, change = from_documents([]), from_documents([POLICY])
    found = whatif(world, change, [], list(recorded(*events).seen.values()))
    assert (found.denied, found.allowed, found.flows, found.otherwise) == (4, 0, 9, 0)
    assert [(one.count, sorted(one.sources), one.after.port) for one in found.groups] == [
        (3, ["default/b"], 80),
        (1, ["192.0.2.1"], 443),
    ]
    assert found.groups[0].because.policy is not None
    assert found.groups[0].direction == "ingress"
    assert summary(found) == "4 of 9 connections would be denied."


@pytest.mark.parametrize(
    ("ingress", "deny", "denied"),
    [
        ({"fromEntities": ["kube-apiserver"]}, "198.51.100.0/24", {"192.0.2.8"}),
        ({"fromEntities": ["world"]}, "198.51.100.0/24", set[str]()),
        ({"fromEntities": ["kube-apiserver"]}, "192.0.2.9/32", {"192.0.2.8", "192.0.2.9"}),
        ({"fromEntities": ["remote-node"]}, "198.51.100.0/24", {"192.0.2.8", "192.0.2.9"}),
    ],
)
def test_an_api_server_outside_the_cluster(ingress: Document, deny: str, denied: set[str]) -> None:
    """It is known by its labels, and is part of the world."""
    server = ["cidr:192.0.2.9/32", "reserved:kube-apiserver", "reserved:world"]
    events = [event("192.0.2.9", 9, 443, src_labels=server), event("192.0.2.8", 9, 443)]
    selector = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    spec = {**selector, "ingress": [ingress], "ingressDeny": [{"fromCIDR": [deny]}]}
    change = from_documents([POLICY | {"spec": spec}])
    found = whatif(from_documents([]), change, [], list(recorded(*events).seen.values()))
    assert {name for one in found.groups for name in one.sources} == denied


def test_deleting() -> None:
    """A policy that goes lets through what it denied."""
    world = from_documents([POLICY])
    drop = event("b", 1, 80, type="drop", explanation={})
    key = PolicyKey("CiliumNetworkPolicy", "default", "only-a")
    found = whatif(world, from_documents([]), [key], list(recorded(drop).seen.values()))
    assert (found.denied, found.allowed, found.otherwise) == (0, 1, 0)
    assert summary(found) == "1 of 1 connections would pass."


def test_a_nodes_own_documents() -> None:
    """Endpoints and policies of the API become a world; a policy that is not in force does not."""
    endpoint = {
        "namespace": "default", "pod": "server",
        "identity": {"id": 1003, "labels": labels("server")},
        "networking": {"addressing": [{"ipv4": "10.0.1.1", "ipv6": ""}]},
        "named-ports": [{"name": "http", "port": 80, "protocol": 6}],
    }  # fmt: skip
    one = {"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "only-a",
           "spec": POLICY["spec"], "in-force": "this"}  # fmt: skip
    world = of_node([endpoint, {"pod": ""}], [one, one | {"name": "no", "in-force": "none"}])
    assert world.pods["default/server"].named == (("http", 6, 80),)
    assert [key.name for key in world.policies] == ["only-a"]
    found = whatif(world, from_documents([]), [key_of("cnp/default/only-a")],
                   list(recorded(event("b", 1, 80)).seen.values()))  # fmt: skip
    assert (found.allowed, found.otherwise) == (1, 1)


def test_what_a_node_does_not_tell() -> None:
    """A policy that names CIDR groups cannot be judged without them, and is named."""
    spec: Document = {"endpointSelector": {}, "ingress": [{"fromCIDRSet": [{"cidrGroupRef": "g"}]}]}
    group = {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g"},
             "spec": {"externalCIDRs": ["192.0.2.0/24"]}}  # fmt: skip
    policy = POLICY | {"spec": spec}
    assert [key.name for key in unresolved(from_documents([policy]))] == ["only-a"]
    assert unresolved(from_documents([policy, group])) == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("cnp/default/x", ("CiliumNetworkPolicy", "default", "x")),
        ("NetworkPolicy/x", ("NetworkPolicy", "default", "x")),
        ("ccnp/x", ("CiliumClusterwideNetworkPolicy", "", "x")),
    ],
)
def test_names_of_policies(text: str, key: tuple[str, str, str]) -> None:
    """As kubectl writes them."""
    assert key_of(text) == PolicyKey(*key)


def test_command(tmp_path: Path) -> None:
    """Exit code 1 with a table if something would change, 0 if not, 2 for what cannot be read."""
    change, flows = tmp_path / "change.json", tmp_path / "flows.jsonl"
    change.write_text(json.dumps(POLICY))
    flows.write_text("".join(json.dumps(event(who, 1, 80)) + "\n" for who in ("a", "b")))
    words = ["policy", "whatif", "-f", str(change), "--flows", str(flows)]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "z"}}
    (tmp_path / "pods.json").write_text(json.dumps(pod))
    words += ["--resources", str(tmp_path / "pods.json")]
    run = CliRunner().invoke(root, words)
    assert run.exit_code == 1
    assert run.stdout.startswith("1 of 2 connections would be denied.")
    assert "default/b" in run.stdout.splitlines()[3]
    flows.write_text(json.dumps(event("a", 1, 80)))
    assert CliRunner().invoke(root, words).exit_code == 0
    flows.write_text('{"source": 1}\n')
    run = CliRunner().invoke(root, words)
    assert run.exit_code == 2
    assert "line 1" in run.stderr
