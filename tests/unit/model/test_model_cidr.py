"""CIDRs in rules: which are accepted, what becomes of them, and the groups that hold them."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.datapath.abi import Direction
from fimbria.model.groups import read_group
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Cidr, CidrGroups, Context, Prefix, host_prefix, prefix
from fimbria.model.policy import Policy, PolicyError
from fimbria.model.policy_parse import parse_policy
from fimbria.model.selector import exists, selector
from fimbria.model.semantics import End, Question, verdict

POD = End(300, LabelSet(("k8s:io.kubernetes.pod.namespace=default",)))


def cnp(rule: Any, section: str = "egress") -> Policy:
    spec = {"endpointSelector": {}, section: [rule]}
    return parse_policy({"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})


def network(block: Any) -> Policy:
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}]}]}
    return parse_policy({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})


def whom(policy: Policy) -> Any:
    assert policy.refusal is None
    return policy.specs[0].rules[0].peers[0].whom


def allowed(policy: Policy, address: str, context: Context | None = None) -> bool:
    net = prefix(address)
    peer = End(2, LabelSet(("reserved:world",)), net=net)
    asked = Question(POD, peer, Direction.EGRESS, 6, 80, context=context or Context())
    return verdict([policy], asked).allowed


def test_single_addresses_and_host_bits() -> None:
    """An address is the prefix of itself; bits behind the prefix are cut off."""
    assert whom(cnp({"toCIDR": ["10.1.2.3"]})) == Cidr(host_prefix(bytes([10, 1, 2, 3])))
    assert whom(cnp({"toCIDR": ["10.1.2.3/8"]})) == Cidr(Prefix(bytes([10, 0, 0, 0]), 8))
    assert whom(cnp({"toCIDR": ["fd00::1"]})) == Cidr(prefix("fd00::1/128"))
    assert whom(network({"cidr": "fd00:1::7/32"})) == Cidr(prefix("fd00:1::/32"))


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0"])
def test_everything_is_a_cidr_like_any_other(text: str) -> None:
    """What the world is, the compiler knows."""
    assert whom(cnp({"toCIDR": [text]})) == Cidr(prefix(text))


@pytest.mark.parametrize(
    "text",
    ["", "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "10.0.0.0/255.0.0.0", "10.0.0.0/08",
     "10.0.0.0/-1", "fe80::1%eth0", "fd00::/129", "01.2.3.4/32", "10.0.0.0/8/8", " 10.0.0.0/8",
     "10.0.0.0/\u0668"],
)  # fmt: skip
def test_what_is_no_cidr(text: str) -> None:
    """Masks, scopes, leading zeros and other forms that Python knows are none of the API's."""
    assert cnp({"toCIDR": ["::1", text]}).refusal == (
        "spec.egress[0].toCIDR[1]", f"{text!r} is not a CIDR or an address",
    )  # fmt: skip
    assert network({"cidr": text}).refusal == (
        "spec.egress[0].to[0].ipBlock.cidr", f"{text!r} is not a CIDR",
    )  # fmt: skip


def test_except() -> None:
    """Exceptions are inside; a rule matches what is in the CIDR and in none of them."""
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.0.0/16", "10.0.0.0/24"]}
    for policy in (cnp({"toCIDRSet": [block]}), network(block)):
        assert whom(policy).excepts == (prefix("10.0.0.0/24"), prefix("10.1.0.0/16"))
        assert allowed(policy, "10.2.0.1")
        assert not allowed(policy, "10.1.0.1")
        assert not allowed(policy, "11.0.0.1")


@pytest.mark.parametrize(
    ("excepts", "where"),
    [(["11.0.0.0/8"], "[0]"), (["10.1.0.0/16", "10.0.0.0/7"], "[1]"), (["::/0"], "[0]"),
     (["10.1.2.3"], "[0]"), ([5], "[0]"), ("10.1.0.0/16", "")],
)  # fmt: skip
def test_except_that_is_refused(excepts: Any, where: str) -> None:
    """Outside, wider, of the other family, no CIDR, no list."""
    block = {"cidr": "10.0.0.0/8", "except": excepts}
    for policy, path in (
        (cnp({"toCIDRSet": [block]}), "spec.egress[0].toCIDRSet[0].except"),
        (network(block), "spec.egress[0].to[0].ipBlock.except"),
    ):
        assert policy.refusal is not None
        assert policy.refusal[0] == path + where


def test_except_of_everything() -> None:
    """Cilium takes it, and nothing is left; NetworkPolicy wants a real part."""
    block = {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}
    assert not allowed(cnp({"toCIDRSet": [block]}), "10.0.0.1")
    assert network(block).refusal is not None


@pytest.mark.parametrize(
    ("peer", "path"),
    [
        ({"ipBlock": {}}, "ipBlock.cidr"),
        ({"ipBlock": "10.0.0.0/8"}, "ipBlock"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "excepts": []}}, "ipBlock.excepts"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, "ipBlock"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "namespaceSelector": {}}, "ipBlock"),
    ],
)
def test_blocks_that_are_refused(peer: Any, path: str) -> None:
    """A block stands alone and has known fields only."""
    spec = {"podSelector": {}, "ingress": [{"from": [peer]}]}
    policy = parse_policy({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
    assert policy.refusal is not None
    assert policy.refusal[0] == f"spec.ingress[0].from[0].{path}"


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({}, ""),
        ({"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}, ""),
        ({"cidr": "10.0.0.1"}, ".cidr"),
        ({"cidrGroupRef": ""}, ".cidrGroupRef"),
        ({"cidrGroupRef": "g", "except": ["x"]}, ".except[0]"),
        ({"cidrGroupSelector": {"matchExpressions": [{"key": "a", "operator": "x"}]}},
         ".cidrGroupSelector.matchExpressions[0].operator"),
        ({"cidrGroupRef": "g", "moon": 1}, ".moon"),
    ],
)  # fmt: skip
def test_sets_that_are_refused(item: Any, path: str) -> None:
    """A set is one CIDR, one group or a selector over groups."""
    policy = cnp({"toCIDRSet": [item]}, "egressDeny")
    assert policy.refusal is not None
    assert policy.refusal[0] == f"spec.egressDeny[0].toCIDRSet[0]{path}"


def test_groups() -> None:
    """By name, or by labels; a label without source is the group's."""
    group = read_group({
        "metadata": {"name": "lab", "labels": {
            "team": "red", "io.cilium.policy.cidrgroupname/other": "",
        }},
        "spec": {"externalCIDRs": [
            "192.0.2.0/24", "2001:db8::/32", "192.0.2.0/24", "198.51.100.1",
        ]},
    })  # fmt: skip
    assert group.labels == (
        "cidrgroup:io.cilium.policy.cidrgroupname/lab", "cidrgroup:team=red",
    )  # fmt: skip
    assert sorted(map(str, group.prefixes)) == [
        "192.0.2.0/24", "198.51.100.1/32", "2001:db8::/32",
    ]  # fmt: skip
    context = Context(groups={"lab": group})
    team = {"matchLabels": {"team": "red"}}
    for item in ({"cidrGroupRef": "lab"}, {"cidrGroupSelector": team},
                 {"cidrGroupSelector": {"matchLabels": {"cidrgroup:team": "red"}}}):  # fmt: skip
        policy = cnp({"toCIDRSet": [{**item, "except": ["192.0.2.128/25"]}]})
        assert isinstance(whom(policy), CidrGroups)
        assert allowed(policy, "192.0.2.1", context)
        assert allowed(policy, "2001:db8::1", context)
        assert not allowed(policy, "192.0.2.129", context)
        assert not allowed(policy, "192.0.2.1")
    other = cnp({"toCIDRSet": [{"cidrGroupRef": "other"}]})
    assert not allowed(other, "192.0.2.1", context)
    name = exists("cidrgroup:io.cilium.policy.cidrgroupname/other")
    assert whom(other).selector == selector([name])


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "metadata"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": {"name": "g", "labels": {"a": 1}}}, "metadata.labels.a"),
        ({"metadata": {"name": "g"}}, "spec"),
        ({"metadata": {"name": "g"}, "spec": {"externalCIDRs": ["::/0", "x"]}},
         "spec.externalCIDRs[1]"),
        ({"metadata": {"name": "g"}, "spec": {"CIDRs": []}}, "spec.CIDRs"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_read(document: Any, path: str) -> None:
    """The error names the field."""
    with pytest.raises(PolicyError) as raised:
        read_group(document)
    assert raised.value.path == path
