"""ADD and DEL of one container at once: a runtime that gave ADD up calls DEL while it lasts."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.agentnode import UnixConnection, World, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root
CONFIG = {"cniVersion": "1.1.0", "name": "cilium"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(World(tmp_path_factory.mktemp("node"))) as made:
        yield made


@pytest.mark.parametrize("variables", [{"CNI_IFNAME": "eth0"}, {}], ids=["one", "all"])
def test_the_end_waits_for_the_beginning(world: World, variables: dict[str, str]) -> None:
    """A busy agent finds ADD and DEL at once: both succeed, and nothing is left."""
    assert world.agent is not None
    before = world.inside("ip", "-br", "link").stdout
    for number in range(5):
        usual = {"CNI_CONTAINERID": f"box{number}"}
        netns = f"/proc/{os.getpid()}/fd/{world.pod()}"
        commands = (
            {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_NETNS": netns},
            {"CNI_COMMAND": "DEL", **variables},
        )
        with ExitStack() as stack:
            world.agent.send_signal(signal.SIGSTOP)
            asked = [stack.enter_context(closing(UnixConnection(world.socket))) for _ in commands]
            for connection, command in zip(asked, commands, strict=True):
                body = {"env": usual | command, "config": CONFIG}
                connection.request("POST", "/v1/cni", json.dumps(body))
            world.agent.send_signal(signal.SIGCONT)
            assert [connection.getresponse().status for connection in asked] == [200, 200]
    assert world.ask("GET", "/v1/endpoint")[1] == []
    assert world.inside("ip", "-br", "link").stdout == before
