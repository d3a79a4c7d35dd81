"""What is pinned is not what it should be, or somebody else is on our hooks."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.faultnode import Faults, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

MAKE = """
from pathlib import Path
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import MapType
pin = Path({pin!r})
pin.parent.mkdir(parents=True)
with BpfMap.create(MapType.{type}, key_size={key}, value_size={value}, max_entries=8) as made:
    made.pin(pin)
"""
PROGRAM = """
import struct
from pathlib import Path
from fimbria.kernel import bpf
COUNT = Path({folder!r}) / "{name}_count"
def op(code, registers, offset, value):
    return struct.pack("=BBhi", code, registers, offset, value)
with bpf.BpfMap.create(bpf.MapType.ARRAY, key_size=4, value_size=8, max_entries=1) as counter:
    code = b"".join([
        op(0x62, 0x0A, -4, 0),                          # key 0 on the stack
        op(0x18, 0x11, 0, counter.fd), op(0, 0, 0, 0),  # r1 = map
        op(0xBF, 0xA2, 0, 0), op(0x07, 0x02, 0, -4),    # r2 = &key
        op(0x85, 0, 0, 1),                              # bpf_map_lookup_elem
        op(0x15, 0, 2, 0),
        op(0xB7, 0x01, 0, 1), op(0xDB, 0x10, 0, 0),     # *value += 1, atomically
        op(0xB7, 0, 0, -1), op(0x95, 0, 0, 0),          # return TCX_NEXT
    ])
    fd, _ = bpf.prog_load(bpf.ProgType.SCHED_CLS, code, name="{name}")
    counter.pin(COUNT)
    bpf.pin(fd, Path({folder!r}) / "{name}_prog")
import socket
index = socket.if_nametoindex({device!r})
first = 1 << 3  # BPF_F_BEFORE: in front of whoever is there
attr = bytearray(struct.pack("=IIIIIIQ", fd, index, 46, first if {before} else 0, 0, 0, 0))
from fimbria.kernel.syscall import Cmd, bpf as call
bpf.pin(call(Cmd.LINK_CREATE, attr, "attach"), Path({folder!r}) / "{name}_link")
"""
COUNT = """
from pathlib import Path
from fimbria.kernel.maps import BpfMap
with BpfMap.open(Path({pin!r})) as counter:
    print(int.from_bytes(counter.get(bytes(4)), "little"))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with running(Faults(tmp_path_factory.mktemp("node"))) as made:
        made.add("one")
        made.add("two")
        yield made


@pytest.mark.parametrize(
    ("type", "key", "value", "field"),
    [
        ("HASH", 4, 4, "key_size is 4"),
        ("HASH", 20, 4, "value_size is 4"),
        ("LRU_HASH", 4, 4, "type is lru_hash"),
    ],
)
def test_a_map_of_another_shape_is_refused_by_name(
    world: Faults, type: str, key: int, value: int, field: str
) -> None:
    """The pin, what differs and what to do are in the one line with which the agent ends."""
    root = f"{world.dir}/bpf/{type}{key}{value}"
    pin = f"{root}/tc/globals/cilium_lxc"
    world.python(MAKE.format(pin=pin, type=type, key=key, value=value))
    ended = world.run(bpf_root=root, state_dir=f"{root}-s".replace("/bpf/", "/"),
                      socket_path=str(world.dir / "o.sock"))  # fmt: skip
    assert ended.returncode == 1
    assert f"{pin}: {field}" in ended.stderr
    assert "remove the pin to start empty" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert world.reaches("one", "two")


def test_a_pin_that_is_no_map_is_refused_by_name(world: Faults) -> None:
    """A program where a map should be is named, and not touched."""
    root = world.dir / "bpf" / "damaged"
    pin = root / "tc" / "globals" / "cilium_lxc"
    world.python(
        f"from pathlib import Path; from fimbria.kernel import bpf; pin = Path({str(pin)!r});"
        "pin.parent.mkdir(parents=True);"
        f"bpf.pin(bpf.open_pin(Path({str(world.dir / 'bpf/fimbria/progs/from_host')!r})), pin)"
    )
    ended = world.run(bpf_root=str(root), state_dir=str(world.dir / "damaged"),
                      socket_path=str(world.dir / "o.sock"))  # fmt: skip
    assert ended.returncode == 1
    assert f"{pin}: type is" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert str(pin) in world.inside("ls", str(pin)).stdout


def test_programs_of_others_run_beside_ours(world: Faults) -> None:
    """One before and one after ours see the packets, the policy holds, a restart leaves them."""
    device, folder = world.device("one"), str(world.dir / "bpf")
    for name, before in (("foreign_a", True), ("foreign_b", False)):
        world.python(PROGRAM.format(folder=folder, name=name, device=device, before=before))
    assert world.inside("tc", "qdisc", "add", "dev", device, "clsact").returncode == 0
    program = f"bpf direct-action object-pinned {folder}/foreign_a_prog"
    filtered = world.inside(*f"tc filter add dev {device} ingress {program}".split())
    assert filtered.returncode == 0, filtered.stderr

    def count(name: str) -> int:
        return int(world.python(COUNT.format(pin=f"{folder}/{name}_count")))

    assert world.reaches("one", "two")
    assert count("foreign_a") > 0
    world.kill()
    world.start()
    seen = count("foreign_a")
    assert world.reaches("one", "two")
    assert count("foreign_a") > seen
    shown = world.inside("tc", "filter", "show", "dev", device, "ingress").stdout
    assert "foreign_a" in shown
    until(lambda: "programs of others" in world.line("Node")["text"])
    text = world.line("Node")["text"]
    assert f"foreign_a before from_container on {device}" in text
    assert f"foreign_b after from_container on {device}" in text
    assert re.search(rf"tc filter foreign_a\S* after from_container on {device}", text), text
    assert world.line("Node")["state"] == "ok"


def test_a_second_agent_with_files_of_its_own_is_refused(world: Faults) -> None:
    """Other directories do not make another node: it ends before it has touched anything."""
    root = world.dir / "bpf" / "second"
    ended = world.run(bpf_root=str(root), state_dir=str(world.dir / "second"),
                      socket_path=str(world.dir / "o.sock"))  # fmt: skip
    assert ended.returncode == 1
    assert world.agent is not None
    assert f"this node has an agent already (process {world.agent.pid})" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert world.reaches("one", "two")
    assert world.ask("GET", "/v1/healthz")[1]["state"] == "Ok"


def test_a_stranger_with_the_locks_name_is_no_agent(world: Faults) -> None:
    """A user's process of the node's namespace cannot keep the agent from starting."""
    world.kill()
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.bind(b'\\0fimbria-agent'); s.listen(); print('bound', flush=True); sys.stdin.read()"
    )
    stranger = subprocess.Popen(
        ["nsenter", f"--target={world.node.pid}", "--net", sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "bound\n"
        world.start()
        assert f"process {stranger.pid} of user 65534 has the name" in world.log()
        assert world.reaches("one", "two")
    finally:
        stranger.communicate()
