"""Puts the CNI plugin and its configuration where a container runtime looks for them."""

import json
import stat
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

EXECUTABLE = "fimbria-cni"
CONFLIST = "05-cilium.conflist"


def interpreter() -> Path:
    """The interpreter that starts fastest: the system's, else the one below any environment."""
    system = Path("/usr/bin/python3")
    if system.exists():
        return system
    base: str | None = getattr(sys, "_base_executable", None)
    return Path(base or sys.executable).resolve()


def install(dest: Path) -> Path:
    """Write the plugin into directory dest, executable; gives its path. Replaces atomically."""
    source = resources.files("fimbria.cni").joinpath("plugin.py").read_text()
    target = dest / EXECUTABLE
    _write(target, f"#!{interpreter()} -IS\n{source}", 0o755)
    return target


def conflist(
    version: str = "1.0.0",
    *,
    options: Mapping[str, object] | None = None,
    chained: Sequence[Mapping[str, object]] = (),
) -> dict[str, object]:
    """A network configuration list: this plugin with options, and what is chained behind it."""
    plugin: dict[str, object] = {"type": EXECUTABLE, **(options or {})}
    return {"cniVersion": version, "name": "cilium", "plugins": [plugin, *map(dict, chained)]}


def install_conflist(dest: Path, document: Mapping[str, object]) -> Path:
    """Write a configuration list into directory dest (a runtime's net.d); gives its path."""
    target = dest / CONFLIST
    _write(target, json.dumps(document, indent=2) + "\n", 0o600)
    return target


def _write(target: Path, text: str, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(text)
    temporary.chmod(stat.S_IMODE(mode))
    temporary.replace(target)
