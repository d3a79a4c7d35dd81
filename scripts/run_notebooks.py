"""Runs docs/notebooks and writes what their cells print into them; no Jupyter is needed.

    notebook ─► code cells, in order, in one namespace, in the notebook's folder ─► outputs

`--check` compares with what is checked in and fails if a notebook differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, cast

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"


def renewed(path: Path) -> str:
    """A notebook's text with the outputs that its cells give now. Raises what a cell raises."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = cast("list[dict[str, Any]]", notebook["cells"])
    code = (cell for cell in cells if cell["cell_type"] == "code")
    with contextlib.chdir(path.parent):
        for number, cell in enumerate(code, 1):
            printed = io.StringIO()
            source = compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec")
            with contextlib.redirect_stdout(printed):
                exec(source, names)
            cell["execution_count"] = number
            cell["outputs"] = outputs(printed.getvalue())
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def outputs(text: str) -> list[dict[str, Any]]:
    """What a cell has printed, as notebooks keep it."""
    lines = text.splitlines(keepends=True)
    return [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if different")
    check = parser.parse_args().check
    differ = False
    for path in sorted(FOLDER.glob("*.ipynb")):
        text = renewed(path)
        if text == path.read_text(encoding="utf-8"):
            continue
        differ = True
        if check:
            print(f"{path.name} prints something else now (run scripts/run_notebooks.py)")
        else:
            path.write_text(text, encoding="utf-8")
    return int(check and differ)


if __name__ == "__main__":
    sys.exit(main())
