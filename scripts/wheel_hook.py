"""Puts the compiled datapath into the wheel; hatchling calls it (pyproject.toml).

The objects are built files outside the package, so no include pattern reaches them. An editable
install finds them in build/bpf by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Objects(BuildHookInterface[Any]):
    """build/bpf/*.o becomes fimbria/bpf/*.o; their tests' objects stay out."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the objects to a wheel; without any there is no use in one."""
        if version == "editable":
            return
        objects = sorted(Path(self.root, "build", "bpf").glob("*.o"))
        if not objects:
            raise SystemExit("wheel: no objects in build/bpf: run `make build` first")
        for path in objects:
            build_data["force_include"][str(path)] = f"fimbria/bpf/{path.name}"
