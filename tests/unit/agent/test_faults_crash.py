"""The agent is killed before, in and after each change that an ADD or a DEL makes, one by one.

An undisturbed run tells which changes there are. After each death the next agent starts, and the
runtime does what runtimes do: the same command again, or DEL. What is there then is what an
undisturbed run leaves.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import fimbria.cni.plugin
from tests.unit.agent.faultnode import Faults, policy, running, until
from tests.unit.agent.traces import normal, traces

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).with_name("dyingagent.py")
PLUGIN = Path(fimbria.cni.plugin.__file__)
ALL = os.environ.get("FIMBRIA_DEATHS") == "all"
ENDPOINTS = "/apis/cilium.io/v2/namespaces/default/ciliumendpoints"
PORTS = [{"port": str(port), "protocol": "TCP"} for port in (80, 443, 7777)]


class Moment(NamedTuple):
    """Before, in or after the n-th change of a name."""

    change: str
    nth: int
    when: str


class Dying(Faults):
    """A node whose agents can be told to die; `breeder` is the process that forks them.

    Both families and a route for each pod, so that there is much to do.
    """

    operator = ("--enable-ipv6", "true")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.inside("ip", "address", "add", "fd31::2/64", "dev", "eth0", "nodad")
        with (folder / "log").open("ab") as log:
            self.breeder = self.spawn(
                self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.process = 0
        self.missed: list[str] = []

    def command(self, **keys: str) -> list[str]:
        on = ("enable_ipv6", "enable_endpoint_routes", "enable_host_legacy_routing")
        words = super().command(**dict.fromkeys(on, "true"), **keys)
        start = words.index("-m")
        return [*words[:start], str(PROGRAM), str(self.dir / "armed"), *words[start + 2 :]]

    def launch(self) -> None:
        """Let the next agent start, however that ends."""
        assert self.breeder.stdin is not None
        assert self.breeder.stdout is not None
        self.breeder.stdin.write("\n")
        self.breeder.stdin.flush()
        self.process = int(self.breeder.stdout.readline())

    def start(self) -> None:
        self.launch()

        def ready() -> bool:
            assert self.alive(), self.log()[-3000:]
            return self.status() == 200

        until(ready)

    def alive(self) -> bool:
        """Whether the agent runs."""
        return bool(self.process) and Path(f"/proc/{self.process}").exists()

    def kill(self) -> None:
        if self.alive():
            os.kill(self.process, signal.SIGKILL)
        until(lambda: not self.alive())
        (self.dir / "armed").unlink(missing_ok=True)

    def dead(self) -> None:
        """Wait until the agent has followed its orders, and note if there was no such change.

        What the agent does besides, of its own accord, may make a change or two fewer this time.
        """
        try:
            until(lambda: not self.alive(), 10)
        except AssertionError:
            self.missed.append((self.dir / "orders").read_text())
        self.kill()

    def close(self) -> None:
        self.kill()
        super().close()
        self.breeder.communicate()

    def arm(self, orders: dict[str, Any]) -> None:
        """Give the agent, or the next one, its orders."""
        (self.dir / "armed.log").unlink(missing_ok=True)
        (self.dir / "orders").write_text(json.dumps(orders))
        (self.dir / "next").write_text(json.dumps(orders))
        (self.dir / "next").rename(self.dir / "armed")

    def moments(self) -> list[Moment]:
        """Every moment of the changes that were noted since `arm({})`."""
        log = (self.dir / "armed.log").read_text()
        lines = [json.loads(line) for line in log.splitlines()]
        return [
            Moment(change, nth, when)
            for change, nth, divisible in lines
            for when in (("before", "in", "after") if divisible else ("before", "after"))
        ]

    def plugin(self, word: str) -> None:
        """Run the CNI plugin for pod three, as a runtime does; a DEL never fails."""
        env, config = self.request(word, "three")
        document = json.dumps({**config, "agent-socket": str(self.socket)})
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PLUGIN)],
            env=env, input=document, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    def ask_for(self, word: str) -> None:
        """A CNI command for pod three that must succeed."""
        status, answer = self.call(word, "three")
        assert status == 200, answer
        if word == "ADD":
            self.addresses["three"] = answer["ips"][0]["address"].split("/")[0]

    def connect(self) -> None:
        """Bring pod three to the node, and a connection to it."""
        self.ask_for("ADD")
        assert self.reaches("one", "three")

    def dies(self, moment: Moment, word: str) -> None:
        """Have the agent die at a moment of a CNI command for pod three; then the next starts."""
        self.arm(moment._asdict())
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.ask_for(word)  # it may have answered before it dies
        self.dead()
        self.start()

    def fresh(self) -> None:
        """Give pod three a namespace that nobody has touched."""
        self.pods["three"] = self.pod()

    def published(self) -> bool:
        """Whether the API has the endpoint of pod three as it is now, or none if there is none."""
        status, found = self.api("GET", f"{ENDPOINTS}/three")
        there = [e for e in self.ask("GET", "/v1/endpoint")[1] if e["container-id"] == "three"]
        if not there or status != 200:
            return status == 404 and not there
        return found["status"]["id"] == there[0]["id"]

    def gone(self, before: dict[str, Any]) -> None:
        """No trace of pod three is left."""
        with contextlib.suppress(AssertionError):
            until(lambda: traces(self) == before, 20)
        assert traces(self) == before  # which says what is left
        until(self.published)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dying]:
    with running(Dying(tmp_path_factory.mktemp("node"))) as made:
        made.add("one")
        made.add("two")
        made.create("three")
        made.enforce(policy("three", "one", to_ports=PORTS, app="three"))
        yield made
        assert len(made.missed) < 5, made.missed


def test_killed_in_an_add(world: Dying) -> None:
    """DEL leaves no trace of the half pod; another ADD ends where an undisturbed one does."""
    world.fresh()
    before = traces(world)
    world.arm({})
    world.ask_for("ADD")
    until(world.published)
    wanted, moments = normal(world, "three"), world.moments()
    assert world.reaches("one", "three")
    world.ask_for("DEL")
    world.gone(before)
    assert len(moments) > 60, moments
    for moment, retry in each(moments, "DEL", "ADD"):
        world.fresh()
        with named(moment):
            world.dies(moment, "ADD")
            world.ask_for(retry)
            if retry == "ADD":
                until(world.published)
                assert normal(world, "three") == wanted
                world.ask_for("CHECK")
                assert world.reaches("one", "three")
                assert not world.reaches("two", "three", 0.1)
                world.ask_for("DEL")
            world.gone(before)


def test_killed_in_a_del(world: Dying) -> None:
    """What the plugin has left in its queue, or the runtime's second DEL, takes the pod away."""
    world.fresh()
    before = traces(world)
    world.ask_for("ADD")
    world.arm({})
    world.ask_for("DEL")
    world.gone(before)
    moments = world.moments()
    assert len(moments) > 30, moments
    for moment, retry in each(moments, "DEL", "queue"):
        with named(moment):
            world.connect()
            if retry == "DEL":
                world.dies(moment, "DEL")
                world.ask_for("DEL")
            else:
                world.arm(moment._asdict())
                world.plugin("DEL")
                world.dead()
                world.start()
            world.gone(before)


def test_killed_in_the_replay_of_a_del(world: Dying) -> None:
    """A start that finds a DEL in the queue dies over it; the next one does the rest."""
    world.fresh()
    before = traces(world)
    world.kill()
    world.arm({})
    world.start()
    usual = set(world.moments())

    def queued(orders: dict[str, Any]) -> None:
        world.connect()
        world.kill()
        world.plugin("DEL")
        world.arm(orders)
        world.launch()

    queued({})
    until(lambda: world.status() == 200)
    world.gone(before)
    moments = [moment for moment in world.moments() if moment not in usual]
    assert len(moments) > 30, moments
    for moment in moments:
        if moment.when == "after" and not ALL:
            continue
        with named(moment):
            queued(moment._asdict())
            world.dead()
            world.start()
            world.gone(before)


def each(moments: list[Moment], *retries: str) -> Iterator[tuple[Moment, str]]:
    """Every moment with what the runtime does then, in turn: after a change much is as before the
    next one. With FIMBRIA_DEATHS=all every moment with everything."""
    for number, moment in enumerate(moments):
        turn = retries[number % len(retries)]
        for retry in retries if ALL else (turn,):
            yield moment, retry


@contextlib.contextmanager
def named(moment: Moment) -> Iterator[None]:
    """Say of what goes wrong when the agent was killed."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"killed {moment.when} change {moment.nth} of {moment.change!r}")
        raise
