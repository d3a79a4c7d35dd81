"""The three forms of output."""

from __future__ import annotations

import json

import yaml

from fimbria.cli.output import Format, Table, emit


def test_plain_table_aligns() -> None:
    """Columns are aligned, three blanks apart, without trailing blanks; cells may have lines."""
    table = Table(["A", "LONG\nHEAD", "B"])
    table.add(1, "x", "first\nsecond")
    table.add("22", None, "y")
    assert table.plain().splitlines() == [
        "A    LONG   B",
        "     HEAD",
        "1    x      first",
        "            second",
        "22          y",
    ]


def test_forms(capsys) -> None:
    """json and yaml print the document, table what the function makes of it."""
    document = {"b": [1, "ü"], "a": None}
    emit(Format.JSON, document, lambda: "unused")
    assert json.loads(capsys.readouterr().out) == document
    emit(Format.YAML, document, lambda: "unused")
    assert yaml.safe_load(capsys.readouterr().out) == document
    emit(Format.TABLE, document, lambda: "text")
    assert capsys.readouterr().out == "text\n"
