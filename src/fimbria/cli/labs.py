"""Find a lab's node for `--lab NAME[/NODE]`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from fimbria.cli.errors import CliError


def lab_status(name: str) -> dict[str, Any]:
    """Return what `lab status -o json` says about one lab."""
    command = [sys.executable, "-m", "fimbria.cli.main", "lab", "status", "--name", name]
    done = subprocess.run(
        [*command, "-o", "json"], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode:
        said = done.stderr.strip().removeprefix("Error: ")
        raise CliError(said or f"there is no lab '{name}': see `fimbria lab status`")
    return json.loads(done.stdout)


def lab_references() -> list[str]:
    """Return what `--lab` can be given here: NAME and NAME/NODE of every lab, for completion."""
    from fimbria.lab.spec import ROOT, LabPaths

    if not ROOT.is_dir():
        return []
    found: list[str] = []
    for directory in sorted(ROOT.iterdir()):
        paths = LabPaths(directory.name)
        nodes = [one.name for one in directory.iterdir() if paths.socket(one.name).exists()]
        found += [directory.name, *(f"{directory.name}/{node}" for node in sorted(nodes))]
    return found


def lab_node(reference: str) -> dict[str, Any]:
    """Return the status of the node that `NAME[/NODE]` names; without NODE the first one."""
    name, _, node_name = reference.partition("/")
    nodes: list[dict[str, Any]] = lab_status(name)["nodes"]
    if not nodes:
        raise CliError(f"lab '{name}' has no nodes: see `fimbria lab status --name {name}`")
    for node in nodes:
        if not node_name or node["name"] == node_name:
            return node
    known = ", ".join(str(node["name"]) for node in nodes)
    raise CliError(f"lab '{name}' has no node '{node_name}': it has {known}")
