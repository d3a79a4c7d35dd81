"""The guides are true: every command in them is run, and its output has the shape they show.

A `console` block holds `$ command` lines, each followed by the output it gave when the guide was
written. Words with a digit in them (addresses, numbers, generated names) and bytes in hex may
differ; all others must be the same, line by line. A line `...` stands for any lines. Commands of
one guide share one shell, so variables and the folder carry over.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
MARK = "=== end of command ==="
VARYING = re.compile(r"\d|^[0-9a-f]{2}$")


@dataclass(frozen=True)
class Step:
    command: str
    output: list[str]
    line: int


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append(Step(line[2:], [], number))
        elif inside and line.startswith("> "):
            last = found.pop()
            found.append(Step(f"{last.command}\n{line[2:]}", last.output, last.line))
        elif inside:
            found[-1].output.append(line)
    return found


def shape(line: str) -> str:
    """A pattern for the line: a word with a digit in it, or a byte in hex, may be any other."""
    words = re.split(r"(\s+)", line.strip())
    parts = (
        r"\s+" if w.isspace() else r"\S+" if VARYING.search(w) else re.escape(w) for w in words
    )
    return "".join(parts)


def has_shape(actual: list[str], shown: list[str]) -> bool:
    """Whether the shown lines, with `...` for any lines, describe the actual ones."""
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == "..." else rf"[^\S\n]*{shape(line)}[^\S\n]*\n"
        for line in shown
    )
    return re.fullmatch(pattern, "".join(line + "\n" for line in actual)) is not None


def test_shape_knows_a_difference() -> None:
    """Numbers may differ, words may not, and `...` skips lines."""
    assert has_shape(["id 7 ok", "more", "end"], ["id 9 ok", "...", "end"])
    assert has_shape(["06 d7"], ["06 ce"])
    assert not has_shape(["id 7 failed"], ["id 9 ok"])
    assert not has_shape(["id 7 ok", "extra"], ["id 9 ok"])


class Shell:
    """One bash for a guide's commands."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["bash", "--norc", "-u"],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}:/usr/sbin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, list[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f'{command}\necho "{MARK} $?"\n')
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith(MARK):
                return int(line.split()[-1]), lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended: {command}")

    def close(self) -> None:
        self.process.communicate("exit\n", timeout=30)


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_command_of_the_guide(guide: Path) -> None:
    """Each command ends with 0 and prints what the guide shows, but for numbers and names."""
    found = steps(guide.read_text(encoding="utf-8"))
    assert found, f"{guide.name} has no commands"
    shell = Shell()
    try:
        for step in found:
            code, output = shell.run(step.command)
            where = f"{guide.name}:{step.line}: {step.command}\n"
            assert code == 0, where + "\n".join(output)
            assert has_shape(output, step.output), where + "\n".join(output)
    finally:
        # The guide's last command takes its lab down; this is for a guide that failed half way.
        shell.run(f"fimbria lab down --name {guide.stem.split('-')[0]} >/dev/null 2>&1")
        shell.close()
