"""Find a lab's node for `--lab NAME[/NODE]`: one question to the lab's own socket.

`fimbria.lab.client` can do more, but its imports would cost every command more than the answer.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from fimbria.cli.errors import CliError

TIMEOUT = 10.0


def lab_status(name: str) -> dict[str, Any]:
    """Return what `lab status -o json` says about one lab."""
    from fimbria.lab.spec import LabPaths

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(str(LabPaths(name).control))
            connection.sendall(b'{"op": "status"}\n')
            line = connection.makefile("rb").readline()
        except OSError as error:
            known = ", ".join(one for one in lab_references() if "/" not in one)
            hint = f"there are: {known}" if known else "start one with `fimbria lab up`"
            raise CliError(f"there is no lab '{name}' that answers; {hint}") from error
    if not line:
        raise CliError(f"lab '{name}' ended while it was asked")
    return json.loads(line)


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
