"""Labs for tests: one per configuration and session, and a factory for those that end labs."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.lab.client import Lab
from fimbria.lab.launch import is_up
from fimbria.lab.spec import LabSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_serial = count()
CONFIGURATIONS = {
    "tunnel": LabSpec(ipv6=True),
    "native": LabSpec(ipv6=True, routing="native"),
    "tunnel-legacy": LabSpec(ipv6=True, host_routing="legacy"),
    "native-legacy": LabSpec(ipv6=True, routing="native", host_routing="legacy"),
}


def unique(base: str = "t") -> str:
    """A name that no other lab of this machine has."""
    return f"{base}-{os.getpid()}-{next(_serial)}"


def end(lab: Lab) -> None:
    """Take a lab down if it is up."""
    if is_up(lab.paths):
        lab.down()


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """make_lab("YAML…", nodes=1, …): a lab of the test's own, taken down after it."""
    labs: list[Lab] = []

    def make(manifest: str = "", **options: Any) -> Lab:
        spec = LabSpec(unique(), **options)
        labs.append(Lab(spec.name))
        files = []
        if manifest:
            file = tmp_path / f"{spec.name}.yaml"
            file.write_text(manifest)
            files = [file]
        return Lab.up(spec, files)

    yield make
    for lab in labs:
        end(lab)


@pytest.fixture(scope="session")
def lab_pool() -> Iterator[Callable[[str], Lab]]:
    """lab_pool("native"): the session's lab of one of CONFIGURATIONS."""
    labs: dict[str, Lab] = {}

    def get(configuration: str) -> Lab:
        if configuration not in labs:
            spec = replace(CONFIGURATIONS[configuration], name=unique(configuration))
            labs[configuration] = Lab.up(spec)
        return labs[configuration]

    yield get
    for lab in labs.values():
        end(lab)


@pytest.fixture(scope="session")
def lab(lab_pool: Callable[[str], Lab]) -> Lab:
    """The session's lab in the default configuration: two nodes, VXLAN, both families."""
    return lab_pool("tunnel")
