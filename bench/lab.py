"""A lab for the length of a benchmark, driven through the command line as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.topology import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

FIMBRIA = str(Path(sys.executable).parent / "fimbria")
_serial = count()


@dataclass(frozen=True)
class Lab:
    name: str

    def command(self, *words: str) -> str:
        """Run `fimbria …` against this lab and return what it printed."""
        done = subprocess.run([FIMBRIA, *words], check=True, capture_output=True, text=True)
        return done.stdout

    def status(self) -> dict[str, Any]:
        return json.loads(self.command("lab", "status", "--name", self.name, "-o", "json"))

    def kubeconfig(self) -> str:
        return self.command("lab", "kubeconfig", "--name", self.name).strip()

    def pod(self, name: str, namespace: str = "default") -> dict[str, Any]:
        for pod in self.status()["pods"]:
            if (pod["namespace"], pod["name"]) == (namespace, name):
                return pod
        raise LookupError(f"lab {self.name} has no pod {namespace}/{name}")

    def pair(self, client: str, server: str) -> Pair:
        one, two = self.pod(client), self.pod(server)
        return Pair(one["netns"], two["netns"], two["addresses"][0])


@contextlib.contextmanager
def lab(manifest: str = "", *options: str, routing: str = "tunnel") -> Iterator[Lab]:
    handle = Lab(f"bench-{os.getpid()}-{next(_serial)}")
    with tempfile.TemporaryDirectory() as folder:
        files: list[str] = []
        if manifest:
            path = Path(folder) / "bench.yaml"
            path.write_text(manifest)
            files = ["-f", str(path)]
        try:
            handle.command(
                "lab", "up", "--name", handle.name, "--routing", routing, *options, *files
            )
            yield handle
        finally:
            subprocess.run(
                [FIMBRIA, "lab", "down", "--name", handle.name], check=False, capture_output=True
            )
