"""The CNI configuration that tells the runtime to call us: written once the node takes pods."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fimbria.agent.statefiles import replace_file

if TYPE_CHECKING:
    from pathlib import Path

BACKUP = ".cilium_bak"
SUFFIXES = (".conf", ".conflist", ".json")

log = logging.getLogger(__name__)


def document(socket_path: str, default_socket: str, chaining: str) -> dict[str, Any]:
    """Return the configuration list: our plugin, and what is chained behind it."""
    plugin: dict[str, Any] = {"type": "fimbria-cni"}
    if socket_path != default_socket:
        plugin["agent-socket"] = socket_path
    plugins = [plugin]
    if chaining == "portmap":
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
    return {"cniVersion": "0.3.1", "name": "cilium", "plugins": plugins}


def write(path: Path, content: dict[str, Any], exclusive: bool) -> None:
    """Write the configuration; `exclusive` puts all others in its folder aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(content, indent=2).encode() + b"\n"
    if not path.exists() or path.read_bytes() != data:
        replace_file(path, data, 0o644)
        log.info("CNI configuration written to %s", path)
    if not exclusive:
        return
    for other in sorted(path.parent.iterdir()):
        if other.suffix in SUFFIXES and other != path:
            log.info("CNI configuration %s put aside", other)
            other.rename(other.with_name(other.name + BACKUP))
