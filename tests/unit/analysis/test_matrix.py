"""Who can reach whom as a table: cells are what the engine says, blocks stand together."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from click.testing import CliRunner

from fimbria.analysis import Engine, Flow, from_documents
from fimbria.analysis.atoms import OTHER, Atom
from fimbria.analysis.matrix import Matrix, State, matrix
from fimbria.analysis.matrix_html import html
from fimbria.analysis.matrix_svg import svg
from fimbria.analysis.matrix_text import document, dot, lines
from fimbria.cli.main import root
from fimbria.cli.policy_matrix import atom_of
from fimbria.model.policy import Protocol

SHOP = "docs/examples/shop"


def pod(name: str, namespace: str, **labels: str) -> Any:
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta}


def closing(name: str, namespace: str, **spec: Any) -> Any:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta,
            "spec": {"policyTypes": ["Ingress"], "podSelector": {}, **spec}}  # fmt: skip


def world(*more: Any) -> Engine:
    pods = [pod(f"{kind}-{number}", "red", app=f"{kind}{number}", kind=kind)
            for number in range(3) for kind in ("a", "b")]  # fmt: skip
    inside = {"from": [{"podSelector": {"matchLabels": {"kind": "a"}}}], "ports": [{"port": 80}]}
    return Engine(
        from_documents([
            *pods, pod("x", "blue", app="x"), closing("in", "red", ingress=[inside]), *more,
        ])
    )  # fmt: skip


def cell(found: Matrix, source: str, target: str) -> State:
    names = [end.name for end in found.ends]
    return found.pattern(names.index(source), names.index(target)).state


def test_cells_are_what_the_engine_says() -> None:
    """For every pair and every range of ports the cell has the verdict of a flow."""
    engine = world()
    found = matrix(engine)
    for row, source in enumerate(found.ends):
        for column, target in enumerate(found.ends):
            pattern = found.pattern(row, column)
            for at, atom in enumerate(found.atoms):
                if atom.protocol == OTHER or not pattern.possible >> at & 1:
                    continue
                flow = Flow(source.name, target.name, Protocol(atom.protocol).name, atom.first)
                assert engine.eval(flow).allowed is bool(pattern.passes >> at & 1), flow


def test_states() -> None:
    """All, some, none, and what no policy can be about."""
    found = matrix(world())
    assert cell(found, "red/a-0", "blue/x") is State.ALL
    assert cell(found, "red/a-0", "red/b-1") is State.SOME
    assert cell(found, "red/b-0", "red/b-1") is State.NONE
    assert cell(found, "red/b-0", "red/b-0") is State.NEVER
    assert cell(found, "entity:host", "entity:world-ipv4") is State.NEVER


def test_only_some_ports() -> None:
    """Where only one port is asked about, there is no cell in between."""
    found = matrix(world(), [atom_of("80")], outside=False)
    assert found.atoms == [Atom(Protocol.TCP, 80, 80)]
    assert cell(found, "red/a-0", "red/b-1") is State.ALL
    assert cell(found, "red/b-0", "red/b-1") is State.NONE
    assert {end.kind for end in found.ends} == {"pods"}


def test_blocks_stand_together() -> None:
    """Namespaces in order, what is no pod last, and in a namespace alike beside alike."""
    found = matrix(world())
    assert [name for name, _, _ in found.namespaces] == ["blue", "red", ""]
    kinds = [end.name[4] for end in found.ends if end.name.startswith("red/")]
    assert sum(one != other for one, other in pairwise(kinds)) == 1


def test_reasons_name_the_rule() -> None:
    """A cell with some ports says why these pass, and why the rest does not."""
    found = matrix(world())
    names = [end.name for end in found.ends]
    place = names.index("red/a-0"), names.index("red/b-1")
    reasons = next(why for *at, why in found.reasons() if tuple(at) == place)
    assert [(one.ports, str(one.result.verdict)) for one in reasons] == [
        ("TCP 80", "ALLOWED"),
        ("everything else", "DENIED"),
    ]
    assert reasons[0].result.ingress.rule == "spec.ingress[0].ports[0]"


def test_text_and_graph() -> None:
    """The table has a sign for each cell; the graph an edge for each that has open ports."""
    found = matrix(world(), outside=False)
    text = list(lines(found))
    row = next(line for line in text if "red/a-0" in line)
    assert row.split()[2:].count("+") == 5
    assert "red/a-0 => red/b-1: TCP 80" in text
    edges = [line for line in dot(found) if "->" in line]
    states = [found.pattern(r, c).state for r in range(7) for c in range(7)]
    assert len(edges) == states.count(State.ALL) + states.count(State.SOME)


def test_page_and_picture() -> None:
    """The page needs nothing from elsewhere, escapes names, and has each reason once."""
    page = html(matrix(world(pod("x", "green", app="</script>"))))
    assert not re.search(r"(src|href)=|@import|url\(|https?://(?!www\.w3\.org)", page)
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert len(data["cells"]) == len(data["ends"]) == len(data["why"])
    assert len(set(data["halves"])) == len(data["halves"])
    assert svg(matrix(world())).startswith("<svg ")


def test_document() -> None:
    """JSON has every cell that policies can be about, with ports and reasons."""
    found = matrix(world())
    cells = document(found)["cells"]
    count = sum(found.pattern(r, c).state is not State.NEVER
                for r in range(len(found.ends)) for c in range(len(found.ends)))  # fmt: skip
    assert len(cells) == count
    assert all(one["why"] for one in cells)


def test_command() -> None:
    """`fimbria policy matrix` prints all forms; a wrong port is told."""
    for form, start in (("table", "FROM"), ("json", "{"), ("dot", "digraph"), ("svg", "<svg"),
                        ("html", "<!doctype html>")):  # fmt: skip
        run = CliRunner().invoke(root, ["policy", "matrix", "-f", SHOP, "-o", form])
        assert run.exit_code == 0, run.output
        assert run.stdout.startswith(start)
    run = CliRunner().invoke(root, ["policy", "matrix", "-f", SHOP, "--port", "80/QUIC"])
    assert run.exit_code == 2


@pytest.mark.parametrize(
    ("text", "atom"),
    [
        ("80", (6, 80, 80)),
        ("53/udp", (17, 53, 53)),
        ("1-100/SCTP", (132, 1, 100)),
        ("UDP", (17, 1, 65535)),
        ("8/ICMP", (1, 8, 8)),
    ],
)
def test_ports(text: str, atom: tuple[int, int, int]) -> None:
    """Ports are written as everywhere else."""
    assert atom_of(text) == atom
