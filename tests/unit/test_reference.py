"""The reference pages: what the code has is in them, whatever the terminal they are written on."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath import abi
from fimbria.sources import options

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "gen_reference", ROOT / "scripts/gen_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_key_has_a_row(generator: ModuleType) -> None:
    """Each configuration key stands in the page once, with its description."""
    rows = generator.configuration().splitlines()
    for key, one in options.FIELDS.items():
        (row,) = [line for line in rows if line.startswith(f"| `{key}` |")]
        assert one.metadata[options.DESCRIPTION] in row


def test_every_constant_has_a_row_with_its_comment(generator: ModuleType) -> None:
    """A load-time constant without a comment is not documented, and that is a mistake."""
    declared = re.findall(r"const volatile .* (cfg_\w+) =", (ROOT / "bpf/config.h").read_text())
    page = generator.constants()
    for name in declared:
        assert re.search(rf"^\| `{name}` \| .* \| [^|\s][^|]+ \|$", page, re.M), name


def test_every_pinned_map_has_a_row_with_sizes(generator: ModuleType) -> None:
    """The maps page has all pinned maps, with the sizes that the kernel is told."""
    text = (ROOT / "bpf/maps.h").read_text()
    declared = set(re.findall(r"\b(cilium_\w+)(?:, BPF_MAP| SEC)", text))
    assert {row[0] for row in generator.map_definitions()} == declared
    page = generator.maps()
    assert f"`struct ct_entry`, {abi.CtEntry.SIZE} bytes" in page
    assert "network order; 0: not behind a tunnel" in page
    assert "ENTRIES" not in page


def test_every_drop_reason_has_a_text_and_a_place(generator: ModuleType) -> None:
    """The page of drops has each reason, and finds where policy is judged."""
    page = generator.drops()
    for reason in abi.DropReason:
        assert f"| {int(reason)} | `{reason.name}` |" in page
    assert "| Policy denied | `policy.h` |" in page


def test_commands_do_not_depend_on_the_terminal(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of commands reaches the leaves, and is the same for every width of terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    wide = generator.pages()["commands.md"]
    monkeypatch.setenv("COLUMNS", "60")
    assert generator.pages()["commands.md"] == wide
    assert "## `fimbria policy trace`" in wide
    assert "Usage: fimbria lab exec" in wide
