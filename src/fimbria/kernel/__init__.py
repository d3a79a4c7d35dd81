"""The only package that makes syscalls: BPF, netlink, namespaces, clocks.

Everything above it talks to the Protocols of `kernel.port`; `kernel.fake` implements them in
memory and refuses what the kernel would refuse.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def objects_dir() -> Path:
    """Folder with the compiled datapath (*.o).

    `FIMBRIA_BPF_DIR` if it is set, else a source tree's build/bpf (made or not), else what the
    installed package carries.
    """
    if chosen := os.environ.get("FIMBRIA_BPF_DIR"):
        return Path(chosen)
    tree = _PACKAGE.parent.parent
    return tree / "build" / "bpf" if (tree / "bpf" / "abi.h").is_file() else _PACKAGE / "bpf"
