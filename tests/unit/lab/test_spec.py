"""What a lab is asked to be."""

from __future__ import annotations

import sys

import pytest

from fimbria.lab.spec import LabError, LabPaths, LabSpec


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a/../b", "a" * 41])
def test_bad_names(name: str) -> None:
    """A name becomes a directory and a control group: only harmless ones are taken."""
    with pytest.raises(LabError, match="name"):
        LabSpec(name)


def test_bad_number_of_nodes() -> None:
    """At least one node, and not more than fit."""
    for nodes in (0, 65):
        with pytest.raises(LabError, match="nodes"):
            LabSpec(nodes=nodes)


def test_a_real_api_server_needs_programs_that_run() -> None:
    """kube-apiserver and etcd are absolute paths of programs; etcd alone makes no sense."""
    for real, etcd, why in (
        ("/etc/passwd", "", "no program"),
        ("/", "", "no program"),
        (sys.executable, "/none", "etcd: /none"),
        ("", sys.executable, "is for a kube-apiserver"),
    ):
        with pytest.raises(LabError, match=why):
            LabSpec(kube_apiserver=real, etcd=etcd)
    assert LabSpec(kube_apiserver=sys.executable, etcd=sys.executable).etcd == sys.executable


def test_survives_a_dump() -> None:
    """The supervisor gets what the caller asked for."""
    spec = LabSpec("x", 3, "native", True, "legacy", {"enable-policy": "always"})
    assert LabSpec.load(spec.dump()) == spec


def test_node_addresses_differ() -> None:
    """Every node has its own address, of both families with IPv6."""
    spec = LabSpec(nodes=3, ipv6=True)
    found = [address for index in range(3) for address in spec.node_addresses(index)]
    assert len(set(found)) == 6


def test_the_users_keys_win() -> None:
    """--config overrides what the lab derives from its options; agents differ by node only."""
    spec = LabSpec(routing="native", config={"routing-mode": "tunnel", "debug": "true"})
    keys = spec.agent_config("node1", LabPaths(spec.name))
    assert (keys["routing-mode"], keys["debug"], keys["node-name"]) == ("tunnel", "true", "node1")
    assert "node-name" not in spec.agent_config("", LabPaths(spec.name))
