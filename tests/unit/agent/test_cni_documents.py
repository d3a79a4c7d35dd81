"""CNI requests and results: every version's form, and errors that name variable or key."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.agent import cniconf, cniresult
from fimbria.agent.cniresult import CniError, parse, result
from fimbria.agent.statefiles import EndpointFile
from fimbria.agent.wiring import Gateway, host_name, route_mtu

FILE = EndpointFile(
    id=7, container_id="abc", container_ifname="eth0", namespace="default", pod="x",
    ifname="lxc012345678901", ifindex=12, mac="02:00:00:00:00:01", node_mac="02:00:00:00:00:02",
    ipv4="10.0.1.7", ipv6="fd00::7",
)  # fmt: skip
GATEWAY = Gateway("10.0.1.1", "fd00::1", 1500, 1450)


def body(command: str = "ADD", **changes: Any) -> dict[str, Any]:
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u",
    }
    env.update({k: v for k, v in changes.items() if k.startswith("CNI_")})
    return {"env": env, "config": {"cniVersion": "1.0.0", "name": "cilium", **changes.get("c", {})}}


def test_a_request_is_taken_apart() -> None:
    """The pod's names come from CNI_ARGS, in whatever order."""
    request = parse(body())
    assert (request.namespace, request.pod, request.pod_uid) == ("ns", "p", "u")
    assert (request.container_id, request.ifname, request.version) == ("abc", "eth0", "1.0.0")


@pytest.mark.parametrize(
    ("document", "code", "word"),
    [
        ([], 7, "JSON object"),
        ({"env": {"A": 1}, "config": {}}, 7, "env"),
        ({"env": {}, "config": []}, 7, "config"),
        (body("JUMP"), 4, "CNI_COMMAND"),
        (body(CNI_CONTAINERID=""), 4, "CNI_CONTAINERID"),
        (body(CNI_IFNAME=""), 4, "CNI_IFNAME"),
        (body(CNI_NETNS=""), 4, "CNI_NETNS"),
        (body(CNI_IFNAME="a/b"), 4, "CNI_IFNAME"),
        (body(CNI_IFNAME="sixteen-letters!"), 4, "CNI_IFNAME"),
        (body(CNI_ARGS="K8S_POD_NAME"), 4, "CNI_ARGS"),
        (body(c={"cniVersion": "9.9.9"}), 1, "cniVersion"),
    ],
)
def test_mistakes_are_named(document: Any, code: int, word: str) -> None:
    """An error has the specification's code and names what is wrong."""
    with pytest.raises(CniError, match=word) as caught:
        parse(document)
    assert caught.value.code == code
    assert caught.value.document("1.0.0")["code"] == code
    assert caught.value.status == 400


def test_del_needs_no_namespace() -> None:
    """A runtime may delete with an empty CNI_NETNS, and twice (containerd does)."""
    assert parse(body("DEL", CNI_NETNS="")).command == "DEL"
    assert parse({"env": {"CNI_COMMAND": "STATUS"}, "config": {}}).version == "0.3.1"


@pytest.mark.parametrize("version", cniresult.VERSIONS)
def test_results_have_their_versions_form(version: str) -> None:
    """Interfaces, addresses and routes as the version's specification has them."""
    found = result(FILE, "/run/netns/x", GATEWAY, version)
    assert found["cniVersion"] == version
    assert [one["name"] for one in found["interfaces"]] == ["lxc012345678901", "eth0"]
    assert found["interfaces"][1]["sandbox"] == "/run/netns/x"
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in found["ips"]] == [
        ("10.0.1.7/32", "10.0.1.1", 1),
        ("fd00::7/128", "fd00::1", 1),
    ]
    assert [ip.get("version") for ip in found["ips"]] == (
        ["4", "6"] if version.startswith("0.") else [None, None]
    )
    assert {"dst": "10.0.1.1/32"} in found["routes"]
    default = next(route for route in found["routes"] if route["dst"] == "0.0.0.0/0")
    assert default.get("mtu") == (1450 if version == "1.1.0" else None)


def test_valid_attachments() -> None:
    """GC's list is read strictly: a malformed one must not delete pods."""
    key = "cni.dev/valid-attachments"
    good = {key: [{"containerID": "a", "ifname": "eth0"}]}
    assert cniresult.valid_attachments(good) == {("a", "eth0")}
    for bad in ({}, {key: {}}, {key: [1]}, {key: [{"containerID": "a"}]}):
        with pytest.raises(CniError, match="valid-attachments"):
            cniresult.valid_attachments(bad)


def test_device_names_fit() -> None:
    """The host side's name is the same for the same container, and fits IFNAMSIZ."""
    name = host_name("a" * 200, "eth0")
    assert name == host_name("a" * 200, "eth0")
    assert name != host_name("a" * 200, "eth1")
    assert len(name) == 15
    assert name.startswith("lxc")


def test_mtu_formula() -> None:
    """VXLAN takes 50 bytes; native routing none."""
    assert (route_mtu(1500, "vxlan"), route_mtu(9000, "vxlan"), route_mtu(1500, None)) == (
        1450,
        8950,
        1500,
    )


def test_the_written_configuration(tmp_path: Any) -> None:
    """The list names our plugin, the socket if it is not the usual one, and what is chained."""
    path = tmp_path / "net.d" / "05-cilium.conflist"
    path.parent.mkdir()
    other = path.parent / "10-bridge.conf"
    other.write_text("{}")
    content = cniconf.document("/run/x.sock", "/run/default.sock", "portmap")
    assert [p["type"] for p in content["plugins"]] == ["fimbria-cni", "portmap"]
    assert content["plugins"][0]["agent-socket"] == "/run/x.sock"
    cniconf.write(path, content, exclusive=False)
    assert other.exists()
    cniconf.write(path, content, exclusive=True)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "05-cilium.conflist",
        "10-bridge.conf.cilium_bak",
    ]
