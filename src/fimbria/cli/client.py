"""The agent's socket, asked with nothing but `socket`.

The standard library's HTTP client costs 40 ms of imports, a third of what a command may take. The
peer is our own agent, so requests go out as HTTP/1.0: one request per connection, the answer ends
where the connection does, and a stream is a file to read lines from.
"""

from __future__ import annotations

import errno
import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fimbria.cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from io import BufferedReader

TIMEOUT = 10.0
"""Seconds without a byte after which a plain request gives up."""


class AgentError(CliError):
    """The agent answered with an error; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(CliError):
    """The agent is there, but did not answer in time."""


class AgentClient:
    """Requests to one agent, named by its socket's path.

    Every method raises `CliError` if nobody listens there or the answer breaks off, `NoAnswer` if
    none comes in time, and `AgentError` with the agent's own words if it refuses.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        """Return the decoded JSON body of `GET path`."""
        return self._request("GET", path, query, None, TIMEOUT)

    def post(self, path: str, body: object, timeout: float = TIMEOUT) -> Any:
        """Return the decoded JSON body of `POST path` with `body` as JSON."""
        return self._request("POST", path, None, json.dumps(body).encode(), timeout)

    def put(self, path: str, body: object) -> Any:
        """Return the decoded JSON body of `PUT path` with `body` as JSON."""
        return self._request("PUT", path, None, json.dumps(body).encode(), TIMEOUT)

    def delete(self, path: str) -> Any:
        """Return the decoded JSON body of `DELETE path`."""
        return self._request("DELETE", path, None, None, TIMEOUT)

    def patch(self, path: str, body: object) -> Any:
        """Return the decoded JSON body of `PATCH path` with `body` as JSON."""
        return self._request("PATCH", path, None, json.dumps(body).encode(), TIMEOUT)

    def wait(self, path: str, query: Mapping[str, str | int], timeout: float) -> Any:
        """GET something that answers late: up to `timeout` seconds."""
        return self._request("GET", path, query, None, timeout)

    def lines(self, path: str, query: Mapping[str, str | int]) -> Iterator[Any]:
        """Yield the decoded lines of a newline-delimited JSON stream until the agent ends it."""
        with self._open("GET", path, query, None, None) as body, self._breaks():
            for line in body:
                if line.strip():
                    yield self._decoded(path, line)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: bytes | None,
        timeout: float,
    ) -> Any:
        with self._open(method, path, query, body, timeout) as answer, self._breaks():
            data = answer.read()
        return self._decoded(path, data)

    def _decoded(self, path: str, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise CliError(f"the agent's answer to {path} is not JSON: {error}") from error

    @contextmanager
    def _breaks(self) -> Generator[None]:
        """Tell of a connection that ends while something is read from it."""
        try:
            yield
        except TimeoutError as error:
            raise NoAnswer(
                f"the agent at {self.path} does not answer: see its log, or restart it"
            ) from error
        except OSError as error:
            raise CliError(_unreachable(self.path, error)) from error

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: bytes | None,
        timeout: float | None,
    ) -> BufferedReader:
        """Send a request, read the answer's head, return its body; raise what it complains of."""
        if query:
            path = f"{path}?{urlencode(query)}"
        head = f"{method} {path} HTTP/1.0\r\nHost: agent\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        with self._breaks():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(TIMEOUT)
                connection.connect(self.path)
                connection.sendall(head.encode() + b"\r\n" + (body or b""))
                connection.settimeout(timeout)
                answer = connection.makefile("rb")
            try:
                status = _read_head(answer)
            except OSError:
                answer.close()
                raise
        if status >= 400:
            with answer, self._breaks():
                raise AgentError(status, _complaint(answer.read(), status))
        return answer


def _read_head(answer: BufferedReader) -> int:
    """Read status line and headers; return the status code."""
    first = answer.readline(65536).split(None, 2)
    if len(first) < 2 or not first[0].startswith(b"HTTP/") or not first[1].isdigit():
        raise ConnectionError(errno.EPROTO, "no HTTP answer")
    while answer.readline(65536) not in (b"\r\n", b"\n", b""):
        pass
    return int(first[1])


def _complaint(data: bytes, status: int) -> str:
    """Turn the agent's error document into one line."""
    try:
        document = json.loads(data)
        text = str(document["error"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or f"the agent answered {status}"
    if document.get("field"):
        text = f"{document['field']}: {text}"
    if document.get("hint"):
        text = f"{text}: {document['hint']}"
    return text


def _unreachable(path: str, error: OSError) -> str:
    reason = {
        errno.ENOENT: "no agent has made a socket there",
        errno.ECONNREFUSED: "the agent that made it is gone",
        errno.EACCES: "you may not open it; become root",
    }.get(error.errno or 0, error.strerror or str(error))
    return (
        f"cannot reach the agent at {path}: {reason}; start it, or name another with "
        "--socket PATH or --lab NAME"
    )
