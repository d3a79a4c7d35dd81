"""The CNI plugin: what a container runtime executes for every pod.

A runtime waits for this process in every pod's start, so start-up time is all that counts: no
package, no `site`, no `json`, no `os`; only modules that the interpreter holds anyway and three
small extension modules. Everything that takes thought is done by the agent.

    runtime -- CNI_* environment, configuration on stdin --> here
    here    -- POST /v1/cni {"env": {...}, "config": {...}} --> agent's unix socket
    agent   -- 200: result, printed as it is; else a CNI error document --> here --> runtime

Two things work without an agent: VERSION, and DEL, which is written to a queue on disk that the
agent replays. The rules are those of the CNI specification 1.1.0, sections 2 and 5.
"""

import _json
import _socket
import posix
import sys
import time

SOCKET = "/var/run/cilium/cilium.sock"
QUEUE = "deleteQueue"  # beside the socket
QUEUE_LIMIT = 256
INPUT_LIMIT = 4 << 20
CONNECT_PATIENCE = 5.0  # seconds that everything but DEL waits for a restarting agent
REPLY_TIMEOUT = 90.0
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = VERSIONS[-1]

# Command -> the oldest specification that has it, and the variables it needs.
COMMANDS = {
    "ADD": ("0.3.0", ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
    "DEL": ("0.3.0", ("CNI_CONTAINERID", "CNI_IFNAME")),
    "CHECK": ("0.4.0", ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
    "STATUS": ("1.1.0", ()),
    "GC": ("1.1.0", ()),
    "VERSION": ("0.3.0", ()),
}

INCOMPATIBLE_VERSION, INVALID_ENVIRONMENT, IO_FAILURE, DECODING_FAILURE = 1, 4, 5, 6
INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE, BAD_ANSWER = 7, 11, 50, 100


class CniError(Exception):
    """An error for the runtime: code of the specification's section 5, and what to do."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code, self.msg, self.details = code, msg, details

    def document(self, version: str) -> str:
        """The error as the JSON document that goes to stdout."""
        quote = _json.encode_basestring_ascii
        return (
            f'{{"cniVersion":{quote(version)},"code":{self.code},"msg":{quote(self.msg)},'
            f'"details":{quote(self.details)}}}\n'
        )


class AgentDown(Exception):
    """The agent does not answer; a request that was on its way may have been carried out."""


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class _Rules:
    """What the C scanner of the standard library's json asks of its decoder object."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)


def _explain(text: str) -> str:
    """What json says of a text that the scanner refused."""
    import json

    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return "not JSON"


def parse_object(text: str) -> "dict[str, object]":
    """One JSON object from text; ValueError says what is wrong."""
    text = text.strip(" \t\r\n")
    # The stub wants another scanner here; the C code takes any object with these attributes.
    scan = _json.make_scanner(_Rules)  # pyright: ignore[reportArgumentType]
    try:
        value, end = scan(text, 0)
    except StopIteration as error:
        raise ValueError(f"no JSON value at character {error.value}") from None
    except SystemError:  # the C code takes its exception from a module that is not loaded here
        raise ValueError(_explain(text)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(text):
        raise ValueError(f"extra text after the JSON value, at character {end}")
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    found: dict[str, object] = value  # pyright: ignore[reportUnknownVariableType] - decoded JSON
    return found


def read_input() -> bytes:
    """All of stdin, bounded."""
    data = b""
    while chunk := posix.read(0, 65536):
        data += chunk
        if len(data) > INPUT_LIMIT:
            raise CniError(DECODING_FAILURE, f"stdin: more than {INPUT_LIMIT} bytes")
    return data


def read_config(raw: bytes) -> "tuple[str, dict[str, object]]":
    """The network configuration, as text and parsed."""
    try:
        text = raw.decode()
        config = parse_object(text)
    except ValueError as error:
        raise CniError(
            DECODING_FAILURE, f"stdin: the network configuration is not valid JSON: {error}"
        ) from None
    for key in ("cniVersion", "agent-socket", "name"):
        if not isinstance(config.get(key, ""), str):
            raise CniError(INVALID_CONFIG, f"{key}: must be a string")
    return text, config


def read_environment(environ: "dict[bytes, bytes]") -> "dict[str, str]":
    """The CNI_* variables."""
    found: dict[str, str] = {}
    for key, value in environ.items():
        if key.startswith(b"CNI_"):
            try:
                found[key.decode()] = value.decode()
            except ValueError:
                name = key.decode("ascii", "replace")
                raise CniError(INVALID_ENVIRONMENT, f"{name}: not valid UTF-8") from None
    return found


def check(env: "dict[str, str]", version: str) -> None:
    """Refuse what the specification lets no plugin accept."""
    command = env.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_COMMAND: {command or 'not set'}; must be one of {', '.join(COMMANDS)}",
        )
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion: {version} is not supported; set one of {', '.join(VERSIONS)}",
        )
    oldest, needed = COMMANDS[command]
    if VERSIONS.index(version) < VERSIONS.index(oldest):
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion: {command} needs {oldest}, not {version}")
    missing = [name for name in needed if not env.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"{', '.join(missing)}: not set; {command} needs it")
    container = env.get("CNI_CONTAINERID", "")
    if container and not (
        container.isascii()
        and container[0].isalnum()
        and container.replace("_", "").replace(".", "").replace("-", "").isalnum()
        and len(container) <= 200
    ):
        raise CniError(
            INVALID_ENVIRONMENT,
            "CNI_CONTAINERID: must start with a letter or digit, and hold only these and _ . -",
        )
    name = env.get("CNI_IFNAME", "")
    if name and (
        name in (".", "..")
        or len(name.encode()) > 15
        or any(character in "/:" or character.isspace() for character in name)
    ):
        raise CniError(
            INVALID_ENVIRONMENT,
            "CNI_IFNAME: must be a valid interface name: 1 to 15 bytes, no slash, colon or space",
        )


def encode(env: "dict[str, str]", config: str) -> bytes:
    """The request body; config is JSON text already."""
    quote = _json.encode_basestring_ascii
    pairs = ",".join(f"{quote(key)}:{quote(value)}" for key, value in env.items())
    return f'{{"env":{{{pairs}}},"config":{config}}}'.encode()


def connect(path: str, patience: float) -> _socket.socket:
    """A connection to the agent; waits up to patience seconds for one that is starting."""
    deadline = time.monotonic() + patience
    while True:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if time.monotonic() >= deadline:
                raise AgentDown(f"{path}: {error}") from None
        except OSError as error:
            raise CniError(IO_FAILURE, f"agent-socket: {path}: {error}") from None
        else:
            return connection
        time.sleep(0.05)


def exchange(connection: _socket.socket, body: bytes) -> "tuple[int, bytes]":
    """One HTTP request: status and body of the answer."""
    connection.settimeout(REPLY_TIMEOUT)
    request = (
        b"POST /v1/cni HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = b""
    try:
        connection.sendall(request)
        while chunk := connection.recv(65536):
            answer += chunk
    except OSError as error:
        raise AgentDown(str(error) or "no answer") from None
    finally:
        connection.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    for line in headers:
        key, _, value = line.partition(b":")
        if key.lower() == b"content-length" and value.strip() != b"%d" % len(content):
            raise AgentDown("the answer was cut off")
    try:
        return int(status.split(b" ")[1]), content
    except (IndexError, ValueError):
        raise AgentDown("the answer was cut off") from None


def queue_delete(directory: str, env: "dict[str, str]", body: bytes) -> str:
    """Write a DEL for the agent to replay; on disk when this returns. Gives the file's path."""
    name = f"{env['CNI_CONTAINERID']}_{env['CNI_IFNAME']}"
    target = f"{directory}/{name}.json"
    temporary = f"{directory}/.{name}.tmp"  # the next try takes the place of one that broke off
    try:
        try:
            posix.mkdir(directory, 0o700)
        except FileExistsError:
            if len(posix.listdir(directory)) >= QUEUE_LIMIT:
                raise CniError(
                    TRY_AGAIN,
                    f"{directory}: {QUEUE_LIMIT} deletions wait for the agent; start the agent",
                ) from None
        file = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600)
        posix.write(file, body)
        posix.fsync(file)
        posix.close(file)
        posix.rename(temporary, target)
        file = posix.open(directory, posix.O_RDONLY)
        posix.fsync(file)
        posix.close(file)
    except OSError as error:
        raise CniError(
            TRY_AGAIN, f"{target}: {error.strerror}; the deletion could not be queued"
        ) from None
    return target


def delete(path: str, env: "dict[str, str]", body: bytes) -> "tuple[int, bytes]":
    """DEL, through the agent or, if there is none, through the queue.

    An agent that starts listens first and replays the queue then. So if it still cannot be
    reached after the file is there, it will find the file.
    """
    try:
        return exchange(connect(path, 0), body)
    except AgentDown:
        target = queue_delete(f"{path.rpartition('/')[0]}/{QUEUE}", env, body)
    try:
        answer = exchange(connect(path, 0), body)
    except AgentDown:
        return 200, b""
    if answer[0] == 200:
        try:
            posix.unlink(target)
        except FileNotFoundError:
            return answer  # replayed by the agent in between
    return answer


def run(command: str, text: str, config: "dict[str, object]", env: "dict[str, str]") -> str:
    """Carry a command out; gives what goes to stdout."""
    path = str(config.get("agent-socket") or SOCKET)
    body = encode(env, text)
    if command == "DEL":
        status, content = delete(path, env, body)
    else:
        try:
            status, content = exchange(connect(path, CONNECT_PATIENCE), body)
        except AgentDown as error:
            code = NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN
            raise CniError(
                code,
                "the node's agent does not answer: see that `fimbria agent` runs on this node and "
                f"that agent-socket ({path}) is its socket",
                str(error),
            ) from None
    if status == 200:
        return content.decode() if command == "ADD" else ""
    try:
        answer = parse_object(content.decode())
    except ValueError:
        answer = {}
    code, msg = answer.get("code"), answer.get("msg")
    if isinstance(code, int) and isinstance(msg, str):
        raise CniError(code, msg, str(answer.get("details", "")))
    raise CniError(
        BAD_ANSWER,
        f"{path}: the answer (HTTP {status}) is not the agent's: see what listens there",
        content[:300].decode("ascii", "replace"),
    )


def main() -> int:
    """Exit code for the runtime; result or error document on stdout."""
    version, output, code = LATEST, "", 0
    try:
        env = read_environment(posix.environ)
        command = env.get("CNI_COMMAND", "")
        if command == "VERSION":
            raw = read_input() or b"{}"
            version = str(read_config(raw)[1].get("cniVersion") or LATEST)
            known = version if version in VERSIONS else LATEST
            listed = '","'.join(VERSIONS)
            output = f'{{"cniVersion":"{known}","supportedVersions":["{listed}"]}}\n'
        elif command not in COMMANDS:
            check(env, version)
        else:
            text, config = read_config(read_input())
            asked = str(config.get("cniVersion") or "0.2.0")  # what its absence stands for
            version = asked if asked in VERSIONS else LATEST
            check(env, asked)
            output = run(command, text, config, env)
    except CniError as error:
        output, code = error.document(version), 1
    data = output.encode()
    while data:
        data = data[posix.write(1, data) :]
    return code


if __name__ == "__main__":
    sys.exit(main())
