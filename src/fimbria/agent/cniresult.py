"""The CNI specification's documents: requests taken apart, results and errors put together.

Versions 0.3.0 to 1.1.0. Rules are those of the specification, sections 2 (parameters) and 5
(results and error codes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.agent.wiring import Gateway

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = VERSIONS[-1]

INCOMPATIBLE_VERSION, UNSUPPORTED_FIELD, UNKNOWN_CONTAINER, INVALID_ENVIRONMENT = 1, 2, 3, 4
IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE = 5, 7, 11, 50
CHECK_FAILED = 101

NETWORK, PLUGIN = "cilium", "fimbria-cni"
_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_INTERFACE = re.compile(r"[!-.0-9;-~]{1,15}")  # printable, no space, slash or colon

_STATUS = {INVALID_ENVIRONMENT: 400, INVALID_CONFIG: 400, INCOMPATIBLE_VERSION: 400,
           TRY_AGAIN: 503, NOT_AVAILABLE: 503}  # fmt: skip


class CniError(Exception):
    """An error of the specification: code, what to do, and details."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def status(self) -> int:
        """Return the HTTP status that carries it."""
        return _STATUS.get(self.code, 500)

    def document(self, version: str) -> dict[str, Any]:
        """Return the document for the runtime."""
        return {
            "cniVersion": version,
            "code": self.code,
            "msg": self.message,
            "details": self.details,
        }


@dataclass(frozen=True)
class Request:
    """One call of the plugin, checked."""

    command: str
    container_id: str
    netns: str
    ifname: str
    namespace: str
    pod: str
    pod_uid: str
    version: str
    config: dict[str, Any]


def parse(body: object) -> Request:
    """Take apart `{"env": {...}, "config": {...}}`; raises CniError naming the variable or key."""
    if not isinstance(body, dict):
        raise CniError(INVALID_CONFIG, "the request is no JSON object")
    document = cast("dict[str, Any]", body)
    env, config = document.get("env"), document.get("config")
    if not isinstance(env, dict) or not all(
        isinstance(v, str) for v in cast("dict[str, object]", env).values()
    ):
        raise CniError(INVALID_CONFIG, "env: must be an object of strings")
    if not isinstance(config, dict):
        raise CniError(INVALID_CONFIG, "config: must be an object")
    variables = cast("dict[str, str]", env)
    configuration = cast("dict[str, Any]", config)
    version = configuration.get("cniVersion") or "0.3.1"
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion: {version} is not supported; use one of {', '.join(VERSIONS)}",
        )
    command = variables.get("CNI_COMMAND", "")
    needed = {"ADD": 3, "CHECK": 3, "DEL": 1, "STATUS": 0, "GC": 0}
    if command not in needed:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND: {command!r} is not {', '.join(needed)}")
    for name in ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS")[: needed[command]]:
        if not variables.get(name):
            raise CniError(INVALID_ENVIRONMENT, f"{name}: not set; {command} needs it")
    container_id, ifname = variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", "")
    netns = variables.get("CNI_NETNS", "")
    if container_id and not _CONTAINER_ID.fullmatch(container_id):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID: {container_id[:64]!r} is no container id: letters, digits, _ . - "
            "beginning with a letter or digit",
        )
    if ifname and (ifname in (".", "..") or not _INTERFACE.fullmatch(ifname)):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME: {ifname!r} is no interface name")
    if netns and (not netns.startswith("/") or "\0" in netns or ".." in netns.split("/")):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS: {netns!r} is no absolute path")
    for key, ours in (("name", NETWORK), ("type", PLUGIN)):
        if configuration.get(key, ours) != ours:
            raise CniError(
                INVALID_CONFIG,
                f"{key}: {configuration[key]!r} is another network's; this agent has {ours!r} only",
            )
    args = _args(variables.get("CNI_ARGS", ""))
    return Request(
        command=command,
        container_id=container_id,
        netns=netns,
        ifname=ifname,
        namespace=args.get("K8S_POD_NAMESPACE", ""),
        pod=args.get("K8S_POD_NAME", ""),
        pod_uid=args.get("K8S_POD_UID", ""),
        version=version,
        config=configuration,
    )


def _args(text: str) -> dict[str, str]:
    """Take apart CNI_ARGS: `K=V;K=V`."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {part!r} is not of the form KEY=VALUE")
        found[key] = value
    return found


def valid_attachments(config: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the (container id, interface) pairs that GC must leave; CniError if malformed."""
    key = "cni.dev/valid-attachments"
    entries = config.get(key)
    if not isinstance(entries, list):
        raise CniError(INVALID_CONFIG, f"{key}: must be a list")
    found: set[tuple[str, str]] = set()
    for entry in cast("list[object]", entries):
        pair = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        container, ifname = pair.get("containerID"), pair.get("ifname")
        if not isinstance(container, str) or not isinstance(ifname, str):
            raise CniError(INVALID_CONFIG, f"{key}: each entry needs containerID and ifname")
        found.add((container, ifname))
    return found


def result(file: EndpointFile, netns: str, gateway: Gateway, version: str) -> dict[str, Any]:
    """Return the ADD result in the form of `version`."""
    old = version.startswith("0.")
    ips: list[dict[str, Any]] = []
    routes: list[dict[str, Any]] = []
    for address, router, bits, default in (
        (file.ipv4, gateway.ipv4, 32, "0.0.0.0/0"),
        (file.ipv6, gateway.ipv6, 128, "::/0"),
    ):
        if not address:
            continue
        entry: dict[str, Any] = {"address": f"{address}/{bits}", "gateway": router, "interface": 1}
        if old:
            entry["version"] = "4" if bits == 32 else "6"
        ips.append(entry)
        routes.append({"dst": f"{router}/{bits}"})
        routes.append({"dst": default, "gw": router})
        if version == LATEST:
            routes[-1]["mtu"] = gateway.route_mtu
    return {
        "cniVersion": version,
        "interfaces": [
            {"name": file.ifname, "mac": file.node_mac},
            {"name": file.container_ifname, "mac": file.mac, "sandbox": netns},
        ],
        "ips": ips,
        "routes": routes,
        "dns": {},
    }
