"""A matrix as one page that needs nothing else: the picture, and the reasons for every cell.

    patterns, reasons ─► tables of distinct texts ─► JSON in the page ─► the script shows one cell

What many cells have in common (verdicts about ports, halves of reasons) is in the page once. The
script finds the cell below the pointer, or moves with the arrow keys, and draws the cells anew
when only one port is to count.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fimbria.analysis import matrix_svg
from fimbria.analysis.matrix import State
from fimbria.analysis.matrix_page import PAGE, SCRIPT, STYLE

if TYPE_CHECKING:
    from fimbria.analysis.atoms import Atom
    from fimbria.analysis.matrix import Matrix
    from fimbria.analysis.results import Half


class _Distinct(dict[Any, int]):
    """Numbers of values in the order in which they were first asked for."""

    def __missing__(self, value: Any) -> int:
        number = self[value] = len(self)
        return number


def html(matrix: Matrix, title: str = "Who can reach whom") -> str:
    """Return the page."""
    place = matrix_svg.layout(matrix)
    data = {
        "left": place.left, "top": place.top, "cell": place.cell, "at": place.at,
        **_data(matrix),
    }  # fmt: skip
    picture = (
        f'<svg id="picture" class="matrix" width="{place.width:.0f}" '
        f'height="{place.height:.0f}" tabindex="0" role="img" '
        f'aria-label="Matrix of {len(matrix.ends)} ends; arrow keys move, Enter pins">'
        f"{matrix_svg.body(matrix, place)}"
        '<g id="cross"><rect id="row"/><rect id="column"/><rect id="spot"/></g></svg>'
    )
    parts = {
        "@title@": title,
        "@style@": matrix_svg.STYLE + STYLE,
        "@picture@": picture,
        "@data@": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "@script@": SCRIPT,
    }
    page = PAGE
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def _data(matrix: Matrix) -> dict[str, Any]:
    """Return ends, atoms, patterns, cells and reasons as the script reads them."""
    halves, reasons = _Distinct(), _Distinct()
    count = len(matrix.ends)
    why = [[-1] * count for _ in range(count)]
    for source, target, found in matrix.reasons():
        row = tuple(
            (
                one.ports,
                str(one.result.verdict)[0],
                halves[half_text(one.result.egress)],
                halves[half_text(one.result.ingress)],
            )
            for one in found
        )
        why[source][target] = reasons[row]
    digits = -(-len(matrix.atoms) // 4)
    return {
        "ends": [str(end).removeprefix("entity:") for end in matrix.ends],
        "atoms": [[str(atom), *_ports(atom)] for atom in matrix.atoms],
        "patterns": [
            [f"{bits:0{digits}x}"[::-1] for bits in (one.passes, one.possible, one.redirects)]
            for one in matrix.patterns
        ],
        "ports": [
            matrix.ports(number) if one.state is State.SOME else ""
            for number, one in enumerate(matrix.patterns)
        ],
        "cells": matrix.cells.tolist(),
        "why": why,
        "reasons": list(reasons),
        "halves": list(halves),
    }


def _ports(atom: Atom) -> list[Any]:
    return [str(atom).partition(" ")[0].lower(), atom.first, atom.last]


def half_text(half: Half) -> str:
    """Return why a half is what it is: `deny rule: CiliumNetworkPolicy a/b spec… (file:line)`."""
    if half.policy is None:
        return str(half.reason)
    name = "/".join(filter(None, (half.policy.namespace, half.policy.name)))
    place = f"\n{half.file}:{half.line}" if half.file else ""
    return f"{half.reason}: {half.policy.kind} {name}, {half.rule}{place}"
