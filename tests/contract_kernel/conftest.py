"""Two kernels for one suite: the real one, in namespaces and a bpffs of its own, and the fake."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ziglang

from fimbria.kernel import bpffs, netns
from fimbria.kernel.fake import FakeKernel
from fimbria.kernel.loader import load_object
from fimbria.kernel.netlink import Net
from fimbria.kernel.objectfile import ObjectFile
from fimbria.kernel.store import PinnedMaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.kernel import port

ROOT = Path(__file__).resolve().parents[2]
GOOD = ("probe_constants", "probe_calls", "probe_drop", "probe_policy_lookup", "probe_emit")


def compile_bpf(source: Path, out: Path) -> Path:
    """Compiles one C file as the datapath is compiled."""
    headers = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
    cache = str(ROOT / "build" / "zig-cache")
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding-none"),
        *("-mcpu=v3", "-O2", "-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
        *("-isystem", str(headers / "any-linux-any"), "-isystem", str(headers / "x86-linux-any")),
        *("-I", str(ROOT / "bpf"), "-c", str(source), "-o", str(out)),
    ]
    environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": cache, "ZIG_GLOBAL_CACHE_DIR": cache}
    subprocess.run(command, check=True, env=environment)
    return out


@pytest.fixture(scope="session")
def compiler() -> Callable[[Path, Path], Path]:
    """Compiles (source, object) as the datapath is compiled."""
    return compile_bpf


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled probe.bpf.c."""
    out = tmp_path_factory.mktemp("probe") / "probe.o"
    return compile_bpf(Path(__file__).with_name("probe.bpf.c"), out)


@pytest.fixture
def pins() -> Iterator[Path]:
    """A folder of a BPF file system that is mounted nowhere."""
    fd = bpffs.detached()
    try:
        folder = bpffs.folder(fd) / "globals"
        folder.mkdir()
        yield folder
    finally:
        os.close(fd)


@dataclass
class Kernel:
    """The two ports under test, with a device `pod0` in the namespace."""

    bpf: port.Bpf
    net: port.Net
    device: int


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def kernel(request: pytest.FixtureRequest, probe: Path) -> Iterator[Kernel]:
    """A kernel that has the probe's maps pinned and a device that is up."""
    if request.param == "fake":
        fake = FakeKernel(ObjectFile(probe, {}).definitions.values())
        yield Kernel(fake.bpf, fake.net, fake.net.add_link("pod0"))
        return
    pins: Path = request.getfixturevalue("pins")
    space = netns.unshare()
    # definitions that the object does not pin are pinned here, so that both have the same maps
    with load_object(probe, pins=pins, programs=()) as loaded, Net(space) as net:
        for name, made in loaded.maps.items():
            if not name.startswith(".") and not (pins / name).exists():
                made.pin(pins / name)
        device = net.veth_create("pod0", "pod1")
        for name in ("lo", "pod0", "pod1"):
            found = net.link(name)
            assert found
            net.link_set(found.ifindex, up=True)
        with PinnedMaps(pins, ObjectFile(probe, {}).definitions) as maps:
            yield Kernel(maps, net, device)
    os.close(space)
