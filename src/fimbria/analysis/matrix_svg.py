"""A matrix as a picture: a square for every port, a triangle for some, bare ground for none.

The states differ in shape and in lightness, so colours are a help and not needed. Namespaces are
blocks with room between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, cast

from fimbria.analysis.matrix import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.matrix import Matrix

OUTSIDE = "not pods"
LETTER = 0.62
"""Width of a letter, as a part of the font's size."""

LEGEND = (
    (State.ALL, "every port"),
    (State.SOME, "some ports"),
    (State.NONE, "no port"),
    (State.NEVER, "no policy can be about it"),
)

LEGEND_WIDTH = 540

STYLE = """\
.matrix text { font-family: ui-sans-serif, system-ui, sans-serif; fill: #1b1f24 }
.matrix .space { font-weight: 600 }
.matrix .paper { fill: #fff }
.matrix .ground { fill: #e4e8ec }
.matrix .all { fill: #0b5cad }
.matrix .some { fill: #e08a00 }
.matrix .never { fill: #fff }
.matrix .proxy { fill: none; stroke: #fff; stroke-width: 1.5 }
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is, in pixels. `at` are the beginnings of rows, and of columns."""

    cell: float
    font: float
    left: float
    top: float
    at: tuple[float, ...]
    size: float

    @property
    def width(self) -> float:
        """Return the width of the picture."""
        return self.left + self.size + 4

    @property
    def height(self) -> float:
        """Return the height of the picture."""
        return self.top + self.size + 4


def layout(matrix: Matrix) -> Layout:
    """Return a layout in which up to 200 ends are legible."""
    count = len(matrix.ends)
    cell = 18.0 if count <= 40 else 13.0 if count <= 100 else 10.0
    font = min(cell, 12.0) * 0.92
    longest = max((len(name) for name in names(matrix)), default=0)
    longest = max(longest, *(len(name or OUTSIDE) for name, _, _ in matrix.namespaces), 11)
    edge = longest * font * LETTER + 16
    at: list[float] = []
    place = 0.0
    for _, first, behind in matrix.namespaces:
        place += font * 1.7
        for _ in range(first, behind):
            at.append(place)
            place += cell
    return Layout(cell, font, edge, edge, tuple(at), place)


def names(matrix: Matrix) -> list[str]:
    """Return what ends are called below their namespace."""
    return [
        str(end).partition("/")[2] if end.kind == "pods" else str(end).removeprefix("entity:")
        for end in matrix.ends
    ]


def svg(matrix: Matrix) -> str:
    """Return the picture as a document of its own, with a legend below."""
    place = layout(matrix)
    width, height = max(place.width, LEGEND_WIDTH), place.height + 34
    legend = "".join(_legend(place))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" class="matrix">\n'
        f'<style>{STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{body(matrix, place)}{legend}</svg>\n"
    )


def body(matrix: Matrix, place: Layout) -> str:
    """Return grounds, cells and names; the cells of a state are one path with the state's class."""
    return "\n".join((*_grounds(matrix, place), *_cells(matrix, place), *_texts(matrix, place)))


def _grounds(matrix: Matrix, place: Layout) -> Iterator[str]:
    blocks = [(place.at[first], (behind - first) * place.cell)
              for _, first, behind in matrix.namespaces]  # fmt: skip
    yield '<g class="ground">'
    for y, height in blocks:
        for x, width in blocks:
            yield (
                f'<rect x="{place.left + x:g}" y="{place.top + y:g}" '
                f'width="{width:g}" height="{height:g}"/>'
            )
    yield "</g>"


def _cells(matrix: Matrix, place: Layout) -> Iterator[str]:
    count = range(len(matrix.ends))
    states = [pattern.state for pattern in matrix.patterns]
    cells = cast("list[list[int]]", matrix.cells.tolist())
    for state in (State.NEVER, State.ALL, State.SOME):
        marks = [
            mark(state, place.left + place.at[column], place.top + place.at[row], place.cell)
            for row in count
            for column in count
            if states[cells[row][column]] is state
        ]
        yield f'<path class="{state}" d="{"".join(marks)}"/>'
    rings = [
        _ring(place.left + place.at[column], place.top + place.at[row], place.cell)
        for row in count
        for column in count
        if matrix.patterns[cells[row][column]].redirects
    ]
    yield f'<path class="proxy" d="{"".join(rings)}"/>'


def mark(state: State, x: float, y: float, cell: float) -> str:
    """Return a cell's shape as a piece of a path."""
    inner = cell - 1
    if state is State.SOME:
        return f"M{x:g} {y:g}v{inner:g}h{inner:g}z"
    return f"M{x:g} {y:g}h{inner:g}v{inner:g}h-{inner:g}z"


def _ring(x: float, y: float, cell: float) -> str:
    radius = cell / 5
    left, middle = x + cell / 2 - radius - 0.5, y + cell / 2 - 0.5
    return (
        f"M{left:g} {middle:g}a{radius:g} {radius:g} 0 1 0 {2 * radius:g} 0"
        f"a{radius:g} {radius:g} 0 1 0 -{2 * radius:g} 0"
    )


def _texts(matrix: Matrix, place: Layout) -> Iterator[str]:
    rows = [(place.at[at] + place.cell * 0.5, name, "") for at, name in enumerate(names(matrix))]
    rows += [
        (place.at[first] - place.font * 0.6, name or OUTSIDE, ' class="space"')
        for name, first, _ in matrix.namespaces
    ]
    size = f'font-size="{place.font:.1f}" dominant-baseline="central"'
    cover = '<rect class="paper" x="0" y="0" width="{:.0f}" height="{:.0f}"/>'
    yield f'<g id="sources" {size} text-anchor="end">{cover.format(place.left - 2, place.height)}'
    for y, name, kind in rows:
        yield f'<text x="{place.left - 5:g}" y="{place.top + y:g}"{kind}>{escape(name)}</text>'
    yield f'</g><g id="targets" {size}>{cover.format(place.width, place.top - 2)}'
    for x, name, kind in rows:
        turned = f"translate({place.left + x:g} {place.top - 5:g}) rotate(-90)"
        yield f'<text transform="{turned}"{kind}>{escape(name)}</text>'
    yield f'</g><g id="corner" {size}>{cover.format(place.left - 2, place.top - 2)}'
    for line, y in (("row: from", place.font * 2.2), ("column: to", place.font)):
        yield f'<text x="6" y="{place.top - y:g}">{line}</text>'
    yield "</g>"


def _legend(place: Layout) -> Iterator[str]:
    x, y = 8.0, place.height + 10
    for state, name in LEGEND:
        if state is not State.NEVER:
            yield f'<rect class="ground" x="{x}" y="{y}" width="13" height="13"/>'
        if state is not State.NONE:
            outline = ' stroke="#98a2ad"' if state is State.NEVER else ""
            yield f'<path class="{state}"{outline} d="{mark(state, x, y, 14)}"/>'
        yield f'<text x="{x + 19}" y="{y + 11}" font-size="12">{name}</text>'
        x += 34 + len(name) * 7
