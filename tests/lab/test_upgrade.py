"""Another build of the datapath takes over while traffic runs.

The objects are compiled from the sources with one constant more, which changes every program and no
map. The agents find them where the old ones were, and go back the same way.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.kernel import bpf, objects_dir
from fimbria.kernel.maps import BpfMap
from tests.lab.load import PODS, long_lived, nothing_broke, ready, replaced, settled, traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

ROOT = Path(__file__).resolve().parents[2]
ADDED = "\nconst volatile __u32 cfg_rebuilt = 1;\n"
NODES = ("node1", "node2")


def rebuilt(folder: Path) -> Path:
    """Objects compiled from changed sources."""
    sources = shutil.copytree(ROOT / "bpf", folder / "bpf", ignore=shutil.ignore_patterns("tests"))
    for source in sources.glob("*.bpf.c"):
        source.write_text(source.read_text() + ADDED)
    spec = importlib.util.spec_from_file_location("build_bpf", ROOT / "scripts" / "build_bpf.py")
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.SOURCES = sources
    assert script.build(folder / "new") == []
    return folder / "new"


def switch(current: Path, objects: Path) -> None:
    """Let `current` lead to other objects, in one step."""
    following = current.with_name("following")
    following.symlink_to(objects)
    following.replace(current)


def links(lab: Lab) -> dict[str, bpf.LinkInfo]:
    """Every link of both nodes by node and pin."""
    found: dict[str, bpf.LinkInfo] = {}
    for node in NODES:
        for pin in (Path(lab.node(node)["bpffs"]) / "fimbria" / "links").iterdir():
            link = bpf.open_pin(pin)
            try:
                found[f"{node} {pin.name}"] = bpf.link_info(link)
            finally:
                os.close(link)
    return found


def maps(lab: Lab) -> dict[str, int]:
    """The kernel's id of every pinned map of both nodes."""
    found: dict[str, int] = {}
    for node in NODES:
        for pin in (Path(lab.node(node)["bpffs"]) / "tc" / "globals").iterdir():
            with BpfMap.open(pin) as held:
                found[f"{node} {pin.name}"] = held.id
    return found


def kill(lab: Lab, node: str) -> None:
    """Kill a node's agent; return when another one runs."""
    pid = lab.node(node)["agent_pid"]
    if pid:
        os.kill(pid, signal.SIGKILL)
    replaced(lab, node, pid)


@pytest.mark.root
@pytest.mark.timeout(180)
def test_upgrade_and_back_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_lab: Callable[..., Lab]
) -> None:
    """Every program is replaced on the link it is on; no packet, connection or map is lost."""
    old = shutil.copytree(
        objects_dir(), tmp_path / "old", ignore=shutil.ignore_patterns("tests", "*.sha256")
    )
    new = rebuilt(tmp_path)
    current = tmp_path / "current"
    current.symlink_to(old)
    monkeypatch.setenv("FIMBRIA_BPF_DIR", str(current))
    lab = make_lab(PODS, ipv6=True)
    with traffic(lab) as report:
        connections = settled(lab)
        maps_before = maps(lab)
        for objects in (new, old):
            before = links(lab)
            switch(current, objects)
            for node in NODES:
                kill(lab, node)
            for node in NODES:
                kill(lab, node)  # and the one that has just begun to replace the programs
            for node in NODES:
                ready(lab, node)
            after = links(lab)
            assert before.keys() == after.keys()
            for name, link in after.items():
                assert link.id == before[name].id, f"{name}: another link"
                assert link.ifindex == before[name].ifindex
                assert link.prog_id != before[name].prog_id, f"{name}: still the old program"
        assert maps(lab) == maps_before
        assert connections <= long_lived(lab), "connections were lost from conntrack"
        nothing_broke(report())
