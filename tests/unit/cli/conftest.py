"""An agent's socket with recorded documents behind it, and the command line run in-process."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fimbria.cli.main import root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result


class RecordedAgent:
    """Answers requests from `answers`: path with query -> (status, body); remembers what it got."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.late: set[str] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def give(self, path: str, document: object, status: int = 200) -> None:
        self.answers[path] = (status, json.dumps(document).encode())

    def stop(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                method, target, _ = stream.readline().decode().split()
                length = 0
                while (line := stream.readline().strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = json.loads(stream.read(length)) if length else None
                self.requests.append((f"{method} {target}", body))
                if target in self.late:
                    stream.read(1)  # until the other side gives up
                    continue
                status, data = self.answers.get(target, (404, b'{"error": "no such thing"}'))
                stream.write(b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\n\r\n" % status)
                stream.write(data)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RecordedAgent]:
    recorded = RecordedAgent(tmp_path / "agent.sock")
    yield recorded
    recorded.stop()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `fimbria WORDS…` in this process; standard output is a pipe there."""
    for name in ("CILIUM_SOCK", "FIMBRIA_SOCKET", "CILIUM_BPF_ROOT", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(root, list(words), prog_name="fimbria")

    return invoke


@pytest.fixture
def ask(run: Callable[..., Result], agent: RecordedAgent) -> Callable[..., Result]:
    """Run a command against the recorded agent."""
    return lambda *words: run("--socket", agent.path, *words)
