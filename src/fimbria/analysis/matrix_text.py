"""A matrix for a terminal, as a graph for dot, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.analysis.matrix import State, namespace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.matrix import Matrix

SIGNS = {State.ALL: "#", State.SOME: "+", State.NONE: ".", State.NEVER: " "}
LISTED = 200
"""Cells whose ports are listed below a table."""


def lines(matrix: Matrix) -> Iterator[str]:
    """Yield a table of signs, and the ports of the cells where some pass."""
    names = [str(end) for end in matrix.ends]
    width = max(map(len, names), default=0)
    digits = len(str(len(names)))
    for place in range(digits):
        heads = (f"{number:>{digits}}"[place] for number in range(1, len(names) + 1))
        yield f"{'FROM' if not place else '':<{width + digits + 2}} {' '.join(heads)}".rstrip()
    partial: list[str] = []
    spaces = {first for _, first, _ in matrix.namespaces}
    for row, name in enumerate(names):
        if row and row in spaces:
            yield ""
        signs = [SIGNS[matrix.pattern(row, column).state] for column in range(len(names))]
        yield f"{row + 1:>{digits}}  {name:<{width}} {' '.join(signs)}".rstrip()
        partial += [
            f"{name} => {names[column]}: {matrix.ports(int(matrix.cells[row, column]))}"
            for column, sign in enumerate(signs)
            if sign == SIGNS[State.SOME]
        ]
    yield ""
    yield "#  every port    +  some ports    .  none    (columns have the numbers of the rows)"
    if partial:
        yield ""
        yield from partial[:LISTED]
    if len(partial) > LISTED:
        yield f"... and {len(partial) - LISTED} more: -o json has all"


def dot(matrix: Matrix) -> Iterator[str]:
    """Yield a graph in the language of Graphviz: an edge for every pair that has open ports."""
    yield "digraph reach {"
    yield "  rankdir=LR; node [shape=box, style=rounded];"
    for name, first, behind in matrix.namespaces:
        indent = "  "
        if name:
            yield f"  subgraph {_quoted('cluster_' + name)} {{ label={_quoted(name)};"
            indent = "    "
        for at in range(first, behind):
            shape = "" if name else ", shape=ellipse"
            yield f"{indent}n{at} [label={_quoted(str(matrix.ends[at]))}{shape}];"
        if name:
            yield "  }"
    for source in range(len(matrix.ends)):
        for target in range(len(matrix.ends)):
            number = int(matrix.cells[source, target])
            state = matrix.patterns[number].state
            if state is State.ALL:
                yield f"  n{source} -> n{target} [penwidth=2];"
            elif state is State.SOME:
                label = _quoted(matrix.ports(number))
                yield f"  n{source} -> n{target} [style=dashed, label={label}];"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def document(matrix: Matrix) -> dict[str, Any]:
    """Return it as `fimbria policy matrix -o json` prints it."""
    return {
        "ends": [
            {
                "name": str(end),
                "namespace": namespace_of(end),
                "kind": end.kind,
                "pods": list(end.members),
                "labels": list(end.labels),
            }
            for end in matrix.ends
        ],
        "cells": [
            {
                "from": source,
                "to": target,
                "state": str(matrix.pattern(source, target).state),
                "ports": matrix.ports(int(matrix.cells[source, target])),
                "why": [
                    {"ports": one.ports, "result": msgspec.to_builtins(one.result)}
                    for one in reasons
                ],
            }
            for source, target, reasons in matrix.reasons()
        ],
    }
