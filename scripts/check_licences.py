"""Every file under bpf/ names its licence: the kernel's helpers ask for GPL compatibility."""

from __future__ import annotations

import sys
from pathlib import Path

BPF = Path(__file__).resolve().parent.parent / "bpf"
WANT = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"


def main() -> int:
    missing = [
        path
        for path in sorted(BPF.rglob("*.[ch]"))
        if WANT not in path.read_text(encoding="utf-8").split("\n", 1)[0]
    ]
    for path in missing:
        print(f"{path.relative_to(BPF.parent)}: the first line must hold '{WANT}'")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
