"""The agent as a process of a node of its own: real kernel, real API, killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fimbria.kernel import netns
from tests.unit.agent.agentnode import World, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(World(tmp_path_factory.mktemp("node"))) as made:
        yield made


def test_add_check_and_del(world: World) -> None:
    """A container is connected, checked, found by its names, and disconnected, twice if asked."""
    pod = world.pod()
    status, answer = world.cni("ADD", "one", pod)
    assert status == 200, answer
    address = answer["ips"][0]["address"].split("/")[0]
    shown = netns.run_in(pod, lambda: subprocess.check_output(["ip", "route"], text=True))
    assert f"default via {answer['ips'][0]['gateway']} dev eth0" in shown
    assert "mtu 1450" in shown
    assert world.cni("CHECK", "one", pod)[0] == 200
    assert world.ask("GET", f"/v1/endpoint/ipv4:{address}")[1]["container-id"] == "one"
    assert world.cni("DEL", "one")[0] == 200
    assert world.cni("DEL", "one")[0] == 200
    status, answer = world.cni("CHECK", "one", pod)
    assert (status, answer["code"]) == (500, 3)
    assert "lxc" not in world.inside("ip", "-br", "link").stdout


def test_errors_say_what_to_do(world: World) -> None:
    """A namespace that is none, and an interface that is taken, are the specification's errors."""
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "x", "CNI_IFNAME": "eth0", "CNI_NETNS": "/no"}
    status, answer = world.ask("POST", "/v1/cni", {"env": env, "config": {"cniVersion": "1.0.0"}})
    assert (status, answer["code"]) == (500, 3)
    assert "/no" in answer["msg"]
    pod = world.pod()
    assert world.cni("ADD", "first", pod)[0] == 200
    status, answer = world.cni("ADD", "second", pod)
    assert (status, answer["code"]) == (500, 5)
    assert "eth0 exists" in answer["msg"]
    assert len(world.ask("GET", "/v1/endpoint")[1]) == 1
    world.cni("DEL", "first")


def test_gc_leaves_what_is_valid(world: World) -> None:
    """GC removes what the runtime no longer knows, and nothing else."""
    for name in ("keep", "drop"):
        assert world.cni("ADD", name, world.pod())[0] == 200
    key = "cni.dev/valid-attachments"
    valid = [{"containerID": "keep", "ifname": "eth0"}]
    assert world.cni("GC", **{key: valid})[0] == 200
    left = [one["container-id"] for one in world.ask("GET", "/v1/endpoint")[1]]
    assert left == ["keep"]
    assert world.cni("GC", **{key: []})[0] == 200


def test_a_killed_agent_finds_everything_again(world: World) -> None:
    """After kill -9 the same endpoints, addresses, maps are there; flows are judged once anew."""
    for name in ("a", "b"):
        assert world.cni("ADD", name, world.pod())[0] == 200
    before = world.ask("GET", "/v1/endpoint")[1]
    maps = {
        name: world.ask("GET", f"/v1/map/{name}")[1] for name in ("cilium_lxc", "cilium_ipcache")
    }
    revision = world.ask("GET", "/v1/map/cilium_runtime_config")[1]["entries"][0]["value"]
    world.kill()
    world.start()
    after = world.ask("GET", "/v1/endpoint")[1]
    for one in (*before, *after):
        one.pop("log")
        one.pop("policy-revision")
    assert after == before
    for name, entries in maps.items():
        assert world.ask("GET", f"/v1/map/{name}")[1] == entries
    now = world.ask("GET", "/v1/map/cilium_runtime_config")[1]["entries"][0]["value"]
    assert now["revision"] == revision["revision"] + 1
    assert world.ask("GET", "/v1/healthz")[1]["state"] == "Ok"


def test_deletions_queued_while_the_agent_was_down(world: World) -> None:
    """A DEL that the plugin left on disk is carried out at the next start; junk is put aside."""
    assert world.cni("ADD", "queued", world.pod())[0] == 200
    world.kill()
    queue = world.dir / "deleteQueue"
    queue.mkdir(exist_ok=True)
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "queued", "CNI_IFNAME": "eth0"}
    body = {"env": env, "config": {"cniVersion": "1.0.0", "name": "cilium"}}
    (queue / "queued_eth0.json").write_text(json.dumps(body))
    (queue / "junk.json").write_text("{")
    world.start()
    names = [one["container-id"] for one in world.ask("GET", "/v1/endpoint")[1]]
    assert "queued" not in names
    assert [path.name for path in queue.iterdir()] == ["junk.json.malformed"]
    assert "junk.json" in world.log()


def test_a_malformed_state_file_costs_nothing(world: World) -> None:
    """A state file that cannot be read is named and put aside; its copy restores the endpoint.

    With the copy damaged as well it is rebuilt from what the kernel knows, and saved again.
    """
    for name in ("good", "bad"):
        assert world.cni("ADD", name, world.pod())[0] == 200
    endpoints = {one["container-id"]: one for one in world.ask("GET", "/v1/endpoint")[1]}
    path = world.dir / "state" / str(endpoints["bad"]["id"]) / "endpoint.json"
    device = endpoints["bad"]["networking"]["interface-name"]

    def names_after_damage(*files: Path) -> set[str]:
        world.kill()
        for file in files:
            file.write_text('{"format": 1, "id"')
        world.start()
        return {one["container-id"] for one in world.ask("GET", "/v1/endpoint")[1]}

    assert names_after_damage(path) >= {"good", "bad"}
    assert str(path) in world.log()
    assert path.with_name("endpoint.json.malformed").exists()
    names = names_after_damage(path, path.with_name("endpoint.json.copy"))
    assert names >= {"good", "bad"}
    assert "rebuilt from what the kernel knows: bad" in world.log()
    after = {one["container-id"]: one for one in world.ask("GET", "/v1/endpoint")[1]}
    for key in ("id", "networking", "identity"):
        assert after["bad"][key] == endpoints["bad"][key]
    until(path.exists)
    assert device in world.inside("ip", "-br", "link").stdout
    assert (
        f"{device}_ingress"
        in world.inside("ls", str(world.dir / "bpf" / "fimbria" / "links")).stdout
    )
    assert world.cni("DEL", "bad")[0] == 200
    assert device not in world.inside("ip", "-br", "link").stdout


def test_a_second_agent_is_refused(world: World) -> None:
    """Two agents on one state directory would undo each other; the second one says so and ends."""
    second = world.run()
    assert second.returncode == 1
    assert "is held by another agent (process" in second.stderr
    assert world.status() == 200


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"devices": "eth7"}, "devices: this node has no device eth7"),
        ({"bpf_root": "/proc"}, "bpf-root: /proc"),
        ({"k8s_kubeconfig_path": "/nowhere"}, "/nowhere: No such file"),
        ({"routing_mode": "vxlan"}, "routing-mode: 'vxlan' is not one of tunnel, native"),
        ({"socket_path": "/etc/passwd"}, "/etc/passwd is there and no socket"),
    ],
)
def test_what_cannot_be_had_is_one_line(world: World, keys: dict[str, str], words: str) -> None:
    """An agent that cannot start says why in one line and ends with an error."""
    keys = {"state_dir": str(world.dir / "other"), "socket_path": str(world.dir / "o.sock"), **keys}
    ended = world.run(**keys)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_pinned_map_of_another_layout_is_not_touched(world: World) -> None:
    """Pins of another version are refused by name, and left as they are."""
    root = f"{world.dir}/bpf/other"
    pin = f"{root}/tc/globals/cilium_lxc"
    script = (
        "from pathlib import Path; from fimbria.kernel.maps import BpfMap;"
        "from fimbria.kernel.syscall import MapType;"
        f"p = Path({pin!r}); p.parent.mkdir(parents=True);"
        "m = BpfMap.create(MapType.HASH, key_size=4, value_size=4, max_entries=8, name='x');"
        "m.put(bytes(4), b'abcd'); m.pin(p)"
    )
    made = world.inside(sys.executable, "-c", script)
    assert made.returncode == 0, made.stderr
    ended = world.run(
        bpf_root=root, state_dir=str(world.dir / "other"), socket_path=str(world.dir / "o.sock")
    )
    assert ended.returncode == 1
    assert pin in ended.stderr
    assert "another version" in ended.stderr
    check = (
        "from pathlib import Path; from fimbria.kernel.maps import BpfMap;"
        f"print(BpfMap.open(Path({pin!r})).items())"
    )
    assert "abcd" in world.inside(sys.executable, "-c", check).stdout
