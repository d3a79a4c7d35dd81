"""The root of the command line: fast, lazy, and clear about mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fimbria.cli import main as cli_main


def test_help_names_every_command(run) -> None:
    """`fimbria --help` lists all commands with a line of explanation."""
    result = run("--help")
    assert result.exit_code == 0
    for name, place in cli_main.PLACES.items():
        assert f"  {name} " in result.output
        assert place.help in result.output


def test_start_is_light() -> None:
    """A command that asks the agent imports neither the lab, nor HTTP frameworks, nor rich."""
    heavy = ["rich", "aiohttp", "asyncio", "msgspec", "numpy", "yaml", "http.client", "email"]
    code = (
        "import sys, fimbria.cli.main, fimbria.cli.status, fimbria.cli.endpoint\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_command_names_the_nearest(run) -> None:
    """A mistyped command is answered with the one that was probably meant."""
    result = run("enpoint", "list")
    assert result.exit_code == 2
    assert "did you mean 'endpoint'?" in result.output


def test_two_nodes_at_once(run) -> None:
    """--socket and --lab together are refused by name."""
    result = run("status", "--socket", "/x", "--lab", "y")
    assert result.exit_code == 2
    assert "--socket and --lab" in result.output


def test_bad_argument_is_named(run) -> None:
    """A wrong value names its option, exit code 2."""
    result = run("monitor", "--last", "many")
    assert result.exit_code == 2
    assert "--last" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell: str) -> None:
    """Each shell gets a script that asks fimbria itself."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_FIMBRIA_COMPLETE" in result.output


def test_completion_of_commands() -> None:
    """Completion offers the commands that begin with what is typed."""
    done = subprocess.run(
        [Path(sys.executable).parent / "fimbria"],
        env={
            "_FIMBRIA_COMPLETE": "bash_complete",
            "COMP_WORDS": "fimbria endp",
            "COMP_CWORD": "1",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,endpoint"]


def test_no_lab_of_that_name(run) -> None:
    """A lab that is not there is one line, exit code 1."""
    result = run("--lab", "no-such-lab-at-all", "status")
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
