"""CNI requests that are not for us, or name what is no container's: refused, nothing is made."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.agent.faultnode import Faults, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with running(Faults(tmp_path_factory.mktemp("node"))) as made:
        yield made


def ask(world: Faults, env: dict[str, str], config: dict[str, Any]) -> tuple[int, Any]:
    pod = world.pod()
    usual = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "box",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": f"/proc/{os.getpid()}/fd/{pod}",
    }
    document = {"cniVersion": "1.1.0", "name": "cilium", "type": "fimbria-cni", **config}
    return world.ask("POST", "/v1/cni", {"env": usual | env, "config": document})


@pytest.mark.parametrize(
    ("env", "config", "code", "words"),
    [
        ({}, {"name": "bridge"}, 7, "name: 'bridge' is another network's"),
        ({}, {"type": "bridge"}, 7, "type: 'bridge' is another network's"),
        ({"CNI_CONTAINERID": "../../etc"}, {}, 4, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "a\nb"}, {}, 4, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "a" * 201}, {}, 4, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "-x"}, {}, 4, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "eth 0"}, {}, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, {}, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": "eth0:1"}, {}, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": "é"}, {}, 4, "CNI_IFNAME"),
        ({"CNI_NETNS": "run/netns/x"}, {}, 4, "CNI_NETNS"),
        ({"CNI_NETNS": "/run/../etc/passwd"}, {}, 4, "CNI_NETNS"),
        ({"CNI_NETNS": "/nowhere"}, {}, 3, "/nowhere: No such file"),
        ({"CNI_NETNS": "/etc/passwd"}, {}, 3, "/etc/passwd is no network namespace"),
        ({"CNI_NETNS": "/proc/self/ns/mnt"}, {}, 3, "is no network namespace"),
        ({"CNI_NETNS": "/proc/self/ns/net"}, {}, 3, "is the node's own network namespace"),
    ],
)
def test_what_is_not_ours_is_refused(
    world: Faults, env: dict[str, str], config: dict[str, Any], code: int, words: str
) -> None:
    """The specification's code, the variable or key, and not a trace in the node."""
    before = world.inside("ip", "-br", "link").stdout
    status, answer = ask(world, env, config)
    assert status >= 400
    assert answer["code"] == code
    assert words in answer["msg"]
    assert world.inside("ip", "-br", "link").stdout == before
    assert world.ask("GET", "/v1/endpoint")[1] == []
    assert sorted(p.name for p in (world.dir / "state").iterdir()) == ["agent.lock", "node.json"]


def test_a_pipe_for_a_namespace_does_not_stop_the_agent(world: Faults) -> None:
    """A path that blocks whoever opens it is refused like any other."""
    pipe = world.dir / "pipe"
    os.mkfifo(pipe)
    status, answer = ask(world, {"CNI_NETNS": str(pipe)}, {})
    assert (status, answer["code"]) == (500, 3)
    assert "is no network namespace" in answer["msg"]


def test_another_networks_gc_leaves_ours(world: Faults) -> None:
    """GC's list is one network's: that of another would have us delete every pod."""
    pod = world.pod()
    assert world.cni("ADD", "kept", pod)[0] == 200
    config = {"cniVersion": "1.1.0", "name": "other", "cni.dev/valid-attachments": list[str]()}
    body = {"env": {"CNI_COMMAND": "GC"}, "config": config}
    status, answer = world.ask("POST", "/v1/cni", body)
    assert (status, answer["code"]) == (400, 7)
    assert len(world.ask("GET", "/v1/endpoint")[1]) == 1
    assert world.cni("DEL", "kept")[0] == 200


def test_a_queued_deletion_of_another_network_is_put_aside(world: Faults) -> None:
    """What is in the queue is judged like what comes by the socket."""
    pod = world.pod()
    assert world.cni("ADD", "kept", pod)[0] == 200
    world.kill()
    queue = world.dir / "deleteQueue"
    queue.mkdir()
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "kept", "CNI_IFNAME": "eth0"}
    body = {"env": env, "config": {"cniVersion": "1.0.0", "name": "other"}}
    (queue / "kept_eth0.json").write_text(json.dumps(body))
    world.start()
    assert [one["container-id"] for one in world.ask("GET", "/v1/endpoint")[1]] == ["kept"]
    assert "is another network's" in world.log()
    assert world.cni("DEL", "kept")[0] == 200
