"""The plugin as a runtime sees it: executed, with variables and stdin, judged by what it prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.cni import install

if TYPE_CHECKING:
    from pathlib import Path

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/32"}]}


@dataclass
class Agent:
    """A listener on a unix socket that answers each request with the next of its answers."""

    path: Path
    answers: list[bytes]
    requests: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Agent:
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(self.path))
        self.server.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.server.close()
        self.path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self.server.accept()
            except OSError:
                return
            with stream:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += stream.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                while len(body) < length:
                    body += stream.recv(65536)
                self.requests.append(body)
                stream.sendall(self.answers.pop(0))


def http(status: int, document: Any) -> bytes:
    body = json.dumps(document).encode()
    return f"HTTP/1.0 {status} -\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Runtime:
    """Executes the installed plugin."""

    plugin: Path
    socket: Path
    prefix: tuple[str, ...] = ()

    def call(
        self, command: str, config: Any = None, **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        text = config
        if not isinstance(config, bytes):
            base = {"cniVersion": "1.1.0", "name": "n", "agent-socket": str(self.socket)}
            text = json.dumps(base | (config or {})).encode()
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "abc",
            "CNI_NETNS": "/proc/1/ns/net",
            "CNI_IFNAME": "eth0",
        } | variables
        env = {name: value for name, value in env.items() if value is not None}
        return subprocess.run(
            [*self.prefix, self.plugin],
            input=text,
            env=env,
            capture_output=True,
            check=False,
            timeout=30,
        )

    def error(self, command: str, config: Any = None, **variables: str) -> dict[str, Any]:
        done = self.call(command, config, **variables)
        assert done.returncode == 1, done
        assert done.stderr == b""
        document = json.loads(done.stdout)
        assert set(document) == {"cniVersion", "code", "msg", "details"}
        return document


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install.install(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def runtime(plugin: Path, tmp_path: Path) -> Runtime:
    return Runtime(plugin, tmp_path / "a.sock")


def test_add_prints_the_result_as_it_came(runtime: Runtime) -> None:
    """ADD hands variables and configuration to the agent and prints its answer verbatim."""
    with Agent(runtime.socket, [http(200, RESULT)]) as agent:
        done = runtime.call("ADD", {"x": [1, {"y": "é"}]}, CNI_ARGS="IgnoreUnknown=1;A=b")
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)
    body = json.loads(agent.requests[0])
    assert body["config"]["x"] == [1, {"y": "é"}]
    assert body["env"]["CNI_ARGS"] == "IgnoreUnknown=1;A=b"
    assert set(body) == {"env", "config"}


def test_the_agents_errors_reach_the_runtime(runtime: Runtime) -> None:
    """An error document of the agent is printed, exit code 1, in the caller's version."""
    answer = {"cniVersion": "1.1.0", "code": 11, "msg": "later", "details": "d"}
    with Agent(runtime.socket, [http(503, answer)]):
        error = runtime.error("ADD", {"cniVersion": "1.0.0"})
    assert error == {"cniVersion": "1.0.0", "code": 11, "msg": "later", "details": "d"}


def test_an_answer_that_is_not_the_agents(runtime: Runtime) -> None:
    """Whoever answers something else on the socket is reported, with what it said."""
    with Agent(runtime.socket, [b"HTTP/1.0 404 -\r\n\r\n<html>"]):
        error = runtime.error("ADD")
    assert error["code"] == 100
    assert "<html>" in error["details"]


@pytest.mark.parametrize("command", ["DEL", "CHECK", "STATUS", "GC"])
def test_other_commands_print_nothing(runtime: Runtime, command: str) -> None:
    """The specification wants no output of DEL, CHECK, STATUS and GC."""
    with Agent(runtime.socket, [http(200, {})]):
        done = runtime.call(command)
    assert (done.returncode, done.stdout) == (0, b"")


def test_version_needs_no_agent(runtime: Runtime) -> None:
    """VERSION lists what is supported, in the caller's version if it is known."""
    done = runtime.call("VERSION", {"cniVersion": "0.4.0"}, CNI_NETNS="dummy")
    document = json.loads(done.stdout)
    assert document["cniVersion"] == "0.4.0"
    assert {"0.3.1", "0.4.0", "1.0.0", "1.1.0"} <= set(document["supportedVersions"])
    assert json.loads(runtime.call("VERSION", b"").stdout)["cniVersion"] == "1.1.0"


def test_delete_is_queued_without_an_agent(runtime: Runtime) -> None:
    """DEL succeeds while the agent is down; its request is on disk, whole, once per interface."""
    for netns in ("/proc/1/ns/net", ""):  # containerd calls twice, the second time without netns
        assert runtime.call("DEL", CNI_NETNS=netns).returncode == 0
    queued = list((runtime.socket.parent / "deleteQueue").iterdir())
    assert [path.name for path in queued] == ["abc_eth0.json"]
    body = json.loads(queued[0].read_text())
    assert (body["env"]["CNI_COMMAND"], body["env"]["CNI_CONTAINERID"]) == ("DEL", "abc")
    assert body["config"]["name"] == "n"


DYING = """
import posix, runpy, sys
number, when, plugin = int(sys.argv[1]), sys.argv[2], sys.argv[3]
done = 0
def dying(function):
    def call(*arguments):
        global done
        done += 1
        if done == number and when == "in" and function.__name__ == "write":
            function(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if done == number and when != "after":
            posix.kill(posix.getpid(), 9)
        result = function(*arguments)
        if done == number:
            posix.kill(posix.getpid(), 9)
        return result
    return call
for name in ("mkdir", "open", "write", "fsync", "close", "rename"):
    setattr(posix, name, dying(getattr(posix, name)))
runpy.run_path(plugin, run_name="__main__")
"""
"""The plugin, killed before, in or after the n-th system call by which it queues something."""


@pytest.mark.parametrize("when", ["before", "in", "after"])
def test_killed_while_it_queues_a_delete(runtime: Runtime, when: str) -> None:
    """The file is there whole or not at all, and after the runtime's next try nothing else."""
    queue = runtime.socket.parent / "deleteQueue"
    for number in range(1, 20):
        dying = replace(runtime, prefix=(sys.executable, "-c", DYING, str(number), when))
        died = dying.call("DEL").returncode == -signal.SIGKILL
        for path in queue.glob("[!.]*"):
            assert json.loads(path.read_text())["env"]["CNI_CONTAINERID"] == "abc"
        assert runtime.call("DEL").returncode == 0
        assert [path.name for path in queue.iterdir()] == ["abc_eth0.json"]
        json.loads((queue / "abc_eth0.json").read_text())
        if not died:
            break
        shutil.rmtree(queue)
    assert 8 <= number < 19, "it makes about ten calls"


def test_a_broken_answer_queues_the_delete(runtime: Runtime) -> None:
    """An agent that dies while it deletes leaves the deletion to its successor."""
    torn = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with Agent(runtime.socket, [torn, torn]):
        assert runtime.call("DEL").returncode == 0
    assert len(list((runtime.socket.parent / "deleteQueue").iterdir())) == 1


def test_an_agent_that_comes_back_gets_the_delete(runtime: Runtime) -> None:
    """If the agent listens again after the request was queued, it is asked and the file goes."""
    torn = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with Agent(runtime.socket, [torn, http(200, {})]):
        assert runtime.call("DEL").returncode == 0
    assert list((runtime.socket.parent / "deleteQueue").iterdir()) == []


def test_a_full_queue_is_an_error(runtime: Runtime) -> None:
    """More than 256 deletions are not piled up: try again later, and start the agent."""
    queue = runtime.socket.parent / "deleteQueue"
    queue.mkdir()
    for number in range(256):
        (queue / f"{number}_eth0.json").write_text("{}")
    error = runtime.error("DEL")
    assert error["code"] == 11
    assert "start the agent" in error["msg"]


def test_add_without_agent_says_what_to_do(runtime: Runtime, tmp_path: Path) -> None:
    """ADD without an agent is "try again later", STATUS "not available"; both name the socket."""
    for command, code in (("ADD", 11), ("STATUS", 50)):
        error = runtime.error(command)
        assert error["code"] == code
        assert str(runtime.socket) in error["msg"]
        assert "fimbria agent" in error["msg"]


def test_add_waits_for_a_starting_agent(runtime: Runtime) -> None:
    """An agent that restarts costs a pod a moment, not a failure."""
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"}
    config = json.dumps({"cniVersion": "1.0.0", "agent-socket": str(runtime.socket)}).encode()
    with subprocess.Popen(
        [runtime.plugin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as process:
        assert process.stdin is not None
        process.stdin.write(config)
        process.stdin.close()
        process.stdin = None
        with Agent(runtime.socket, [http(200, RESULT)]):
            output, _ = process.communicate(timeout=30)
    assert json.loads(output) == RESULT


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"CNI_COMMAND": ""}, "CNI_COMMAND"),
        ({"CNI_COMMAND": "FROB"}, "CNI_COMMAND"),
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "../../etc"}, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": ""}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "sixteen-bytes-xx"}, "CNI_IFNAME"),
        ({"CNI_NETNS": ""}, "CNI_NETNS"),
    ],
)
def test_bad_environment(runtime: Runtime, variables: dict[str, str], named: str) -> None:
    """A variable that is missing or invalid is named: code 4, and no request is made."""
    error = runtime.error("ADD", **variables)
    assert error["code"] == 4
    assert named in error["msg"]


def test_environment_that_is_no_text(plugin: Path) -> None:
    """A variable that is not UTF-8 is named."""
    env = {b"CNI_COMMAND": b"ADD", b"CNI_ARGS": b"\xff"}
    done = subprocess.run(
        [os.fsencode(plugin)], input=b"{}", env=env, capture_output=True, check=False
    )
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"]) == (1, 4)
    assert "CNI_ARGS" in error["msg"]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"a":}', b"{} {}", b"\xff", b'{"a": NaN}', b"[" * 100000]
)
def test_bad_configuration(runtime: Runtime, text: bytes) -> None:
    """Input that is not a JSON object is a decoding failure that says where."""
    error = runtime.error("ADD", text)
    assert error["code"] == 6
    assert "stdin" in error["msg"]


@pytest.mark.parametrize(
    ("command", "version"),
    [("ADD", "0.2.0"), ("ADD", "9.9.9"), ("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")],
)
def test_versions_that_do_not_fit(runtime: Runtime, command: str, version: str) -> None:
    """A version that is unknown, or older than the command, is incompatible: code 1."""
    error = runtime.error(command, {"cniVersion": version})
    assert error["code"] == 1
    assert version in error["msg"]


def test_configuration_of_the_wrong_type(runtime: Runtime) -> None:
    """A field that the plugin itself reads must be a string; the field is named."""
    error = runtime.error("ADD", {"agent-socket": 7})
    assert error["code"] == 7
    assert "agent-socket" in error["msg"]


def test_nothing_heavy_is_imported(plugin: Path) -> None:
    """Start-up time is the plugin's whole purpose: it must not load json, os, re or typing."""
    code = f"import sys; sys.argv = ['x']; exec(compile(open({str(plugin)!r}).read(), 'p', 'exec')"
    code += ", {'__name__': 'p'}); print(*sys.modules)"
    done = subprocess.run(
        [install.interpreter(), "-IS", "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"json", "os", "re", "typing", "socket"} & set(done.stdout.split())


def test_conflist_chains(tmp_path: Path) -> None:
    """The written list starts with our plugin, keeps its options, and what is chained behind it."""
    document = install.conflist(
        "1.0.0", options={"agent-socket": "/s"}, chained=[{"type": "portmap"}]
    )
    path = install.install_conflist(tmp_path, document)
    assert json.loads(path.read_text())["plugins"] == [
        {"type": "fimbria-cni", "agent-socket": "/s"},
        {"type": "portmap"},
    ]
