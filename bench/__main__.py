"""make bench: run the benchmarks, print their tables, write build/bench.json.

Each module in `SUITES` has `rows() -> list[Row]`. A row carries its own baseline, measured in
the same run, because machines are shared and noisy: ratios count. `python -m bench NAME…` runs
some of them; the JSON then keeps the other suites' rows of the last run.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from bench.row import Row

SUITES = (
    "datapath",
    "endtoend",
    "load",
    "cni",
    "compile",
    "control",
    "churn",
    "replicas",
    "analysis",
)
OUT = Path(__file__).resolve().parent.parent / "build" / "bench.json"


def show(console: Console, suite: str, rows: list[Row]) -> None:
    table = Table(title=suite, title_justify="left")
    for column in ("what", "value", "unit", "baseline", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in ("what", "unit", "") else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.value:.4g}",
            row.unit,
            row.baseline_text(),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
            {True: "ok", False: "MISSED", None: ""}[row.met],
        )
    console.print(table)


def main(names: list[str]) -> int:
    unknown = set(names) - set(SUITES)
    if unknown:
        print(f"bench: no suite {', '.join(sorted(unknown))}; there are: {', '.join(SUITES)}")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 150)
    results: dict[str, list[dict[str, object]]] = {}
    if OUT.exists():
        results = json.loads(OUT.read_text())
    for suite in names or SUITES:
        console.print(f"[bold]{suite}[/bold]: measuring …")
        rows = importlib.import_module(f"bench.{suite}").rows()
        show(console, suite, rows)
        results[suite] = [row.to_json() for row in rows]
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written to {OUT.relative_to(OUT.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
