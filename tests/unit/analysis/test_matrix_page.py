"""The matrix's page in a browser: a cell says why, and only one port counts if one is typed in."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from fimbria.analysis import Engine, load
from fimbria.analysis.matrix import State, matrix
from fimbria.analysis.matrix_html import html

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--dump-dom",
)  # fmt: skip
ASKED = """<script>
const box = document.getElementById('port');
box.value = '9000';
box.dispatchEvent(new Event('input'));
document.title = document.getElementById('count').textContent;
const spot = [left + at[COLUMN] + 3, above + at[ROW] + 3];
const corner = picture.getBoundingClientRect();
picture.dispatchEvent(new PointerEvent('pointermove',
  {clientX: corner.left + spot[0], clientY: corner.top + spot[1]}));
</script></html>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_page(tmp_path: Path) -> None:
    """The script counts as the matrix does, and shows the rules of the cell below the pointer."""
    assert CHROMIUM is not None
    found = matrix(Engine(load(["docs/examples/shop"])))
    names = [end.name for end in found.ends]
    page = tmp_path / "page.html"
    row, column = names.index("shop/web"), names.index("shop/orders")
    asked = ASKED.replace("ROW", str(row)).replace("COLUMN", str(column))
    page.write_text(html(found).replace("</html>", asked), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    at = next(n for n, atom in enumerate(found.atoms) if str(atom) == "TCP 9000")
    cells = [found.pattern(y, x) for y in range(len(names)) for x in range(len(names))]
    asked_of = [one for one in cells if one.state is not State.NEVER and one.possible >> at & 1]
    passing = sum(one.passes >> at & 1 for one in asked_of)
    assert title[1] == f"{passing} open, 0 in part, {len(asked_of) - passing} closed"
    pane = done.stdout.partition('<aside id="cell"')[2].partition("</aside>")[0]
    assert "shop/web → shop/orders" in pane
    assert "9000 passes." in pane
    assert "TCP 9000: passes" in pane
    assert re.search(r"docs/examples/shop/policy.yaml:\d+", pane)
