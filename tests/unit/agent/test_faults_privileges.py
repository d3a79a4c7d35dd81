"""What the agent may do while it runs, who may use it, and what it refuses to be told."""

from __future__ import annotations

import grp
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fimbria.agent.privileges import NEEDED
from fimbria.kernel.capabilities import Capability
from tests.unit.agent.faultnode import Faults, policy, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

GROUP = "daemon"  # a group that every system has
MASK = sum(1 << one for one in NEEDED)


class Confined(Faults):
    """An agent whose API a group may use."""

    def command(self, **keys: str) -> list[str]:
        return super().command(**{"socket_group": GROUP, **keys})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confined]:
    with running(Confined(tmp_path_factory.mktemp("node"))) as made:
        yield made


def test_the_agent_has_what_it_needs_and_no_more(world: Confined) -> None:
    """Every set is exactly the one that is documented, in every thread, and nothing gets more."""
    world.add("one")
    world.add("two")
    assert world.reaches("one", "two")
    assert world.agent is not None
    for thread in os.listdir(f"/proc/{world.agent.pid}/task"):
        with open(f"/proc/{world.agent.pid}/task/{thread}/status") as file:
            found = {key: value.strip() for key, _, value in (x.partition(":") for x in file)}
        for name in ("CapEff", "CapPrm", "CapBnd"):
            assert int(found[name], 16) == MASK, (thread, name)
        assert int(found["CapAmb"], 16) == int(found["CapInh"], 16) == 0
        assert found["NoNewPrivs"] == "1"
    assert sorted(NEEDED) == [Capability.NET_ADMIN, Capability.SYS_PTRACE, Capability.SYS_ADMIN]


def test_the_agent_does_its_work_with_them(world: Confined) -> None:
    """Pods come and go, a policy is enforced and lifted, a device is made again."""
    world.add("three")
    world.add("four")
    assert world.reaches("three", "four")
    world.enforce(policy("closed", "nobody", app="four"))
    until(lambda: not world.reaches("three", "four", 0.3))
    world.lift("closed")
    until(lambda: world.reaches("three", "four", 0.3))
    world.inside("ip", "link", "delete", "cilium_host")
    until(lambda: "cilium_host was deleted" in world.line("Node")["text"])
    until(lambda: world.ask("GET", "/v1/healthz")[1]["state"] == "Ok")
    world.remove("three")
    world.remove("four")


@pytest.mark.parametrize("lost", sorted(NEEDED))
def test_an_agent_without_a_capability_says_which(world: Confined, lost: Capability) -> None:
    """It ends at once, with the capability and what it is for."""
    script = (
        "import sys; from fimbria.kernel.capabilities import keep_only, Capability as C;"
        f"keep_only([c for c in C if c != {int(lost)}]);"
        "from fimbria.cli.main import main; sys.argv = ['fimbria', *sys.argv[1:]]; main()"
    )
    words = world.command(state_dir=str(world.dir / "o"), socket_path=str(world.dir / "o.sock"))
    start = words.index("agent")
    command = [*words[: words.index(sys.executable)], sys.executable, "-c", script, *words[start:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"the agent needs CAP_{lost.name} ({NEEDED[lost]})" in done.stderr


def test_socket_and_state_are_roots_and_the_groups(world: Confined) -> None:
    """Socket 0660, state files 0640, folders 0750; and the status says who may use it."""
    gid = grp.getgrnam(GROUP).gr_gid
    seen = 0
    for folder, _, files in os.walk(world.dir / "state"):
        status = os.stat(folder)
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, gid, 0o750), folder
        for name in files:
            status = os.stat(os.path.join(folder, name))
            assert status.st_uid == 0
            assert status.st_gid == gid
            assert status.st_mode & 0o137 == 0, name
            seen += 1
    assert seen >= 3
    status = world.socket.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, gid, 0o660)
    assert f"API: root and group {GROUP}" in world.line("Privileges")["text"]
    assert "net_admin" in world.line("Privileges")["text"]


def test_others_do_not_reach_the_api(world: Confined) -> None:
    """A user of the group does, one who is not does not."""
    script = (
        "import os, socket, sys\n"
        "os.chdir({folder!r})\n"
        "os.setgroups([]); os.setgid({gid}); os.setuid(65534)\n"
        "socket.socket(socket.AF_UNIX).connect({name!r})"
    )

    def connects(gid: int) -> bool:
        text = script.format(folder=str(world.dir), gid=gid, name=world.socket.name)
        done = subprocess.run([sys.executable, "-Wi", "-c", text], capture_output=True, check=False)
        assert done.returncode == 0 or b"PermissionError" in done.stderr
        return done.returncode == 0

    world.dir.chmod(0o755)  # what leads there is the test's
    assert connects(grp.getgrnam(GROUP).gr_gid)
    assert not connects(65534)


def test_without_the_group_only_root_may(world: Confined) -> None:
    """A group that is not there is no error: the status tells that only root is left."""
    world.kill()
    again = Faults.command(world, socket_group="no-such-group")
    with (world.dir / "log").open("ab") as log:
        world.agent = world.spawn(again, stderr=log)
    until(lambda: world.status() == 200)
    text = world.line("Privileges")["text"]
    assert "root only: there is no group no-such-group" in text
    assert world.socket.stat().st_gid == 0
    world.kill()
    world.start()
