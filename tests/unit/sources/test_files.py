"""Manifests: many documents, folders, and errors that an editor can jump to."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from fimbria.sources import files
from fimbria.sources.files import ManifestError

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rule1
  namespace: default
spec:
  ingress:
  - fromEndpoints:
    - matchLabels: {org: empire}
    toPorts:
    - ports:
      - {port: "80", protocol: TCP}
"""


def test_documents_lists_and_folders(tmp_path: Path) -> None:
    """Several documents, a List, and every YAML and JSON file of a folder are read in order."""
    (tmp_path / "b.yaml").write_text(POLICY + "---\n---\n" + POLICY.replace("rule1", "rule2"))
    (tmp_path / "a.json").write_text(
        '{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod",'
        '"metadata":{"name":"x"}}]}'
    )
    (tmp_path / "notes.txt").write_text("no manifest")
    found = files.read([tmp_path])
    assert [(one.kind, one.name) for one in found] == [
        ("Pod", "x"),
        ("CiliumNetworkPolicy", "rule1"),
        ("CiliumNetworkPolicy", "rule2"),
    ]
    assert found[1].namespace == "default"


def test_keys_that_are_there_twice() -> None:
    """One of the two rules would be lost in silence; kubectl refuses this as well."""
    twice = POLICY + "  ingress: []\n"
    with pytest.raises(ManifestError, match=r"^p.yaml:13: key 'ingress' is there twice$"):
        files.parse(twice, "p.yaml")
    shared = "a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, x: 2}\n"
    head = POLICY.partition("spec:")[0]
    (one,) = files.parse(head + shared, "p.yaml")
    assert one.document["c"] == {"x": 2}


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "-" is standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(POLICY))
    assert [one.file for one in files.read(["-"])] == ["<stdin>"]


def test_lines_of_fields() -> None:
    """A field's line is known, also through lists; of a field that is not there, its parent's."""
    (one,) = files.parse("# comment\n" + POLICY, "p.yaml")
    assert one.line("kind") == 3
    assert one.line("spec.ingress[0].toPorts[0].ports[0].port") == 13
    assert one.line("spec.ingress[0].toPorts[0].rules") == one.line("spec.ingress[0].toPorts[0]")
    assert str(one.error("spec.ingress[0]", "wrong")) == "p.yaml:9: spec.ingress[0]: wrong"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Pod\nmetadata: {name: a}\n", "f:1: apiVersion: is missing"),
        ("apiVersion: v1\nkind: 7\nmetadata: {name: a}\n", "f:2: kind: is no text"),
        ("apiVersion: v1\nkind: Pod\n", "f:1: metadata: is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: []\n", "f:3: metadata: is no mapping"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", "f:3: metadata.name: is missing"),
        ("- 1\n", "f:1: a manifest is a mapping"),
        ("a: [1\nb: 2\n", "f:2: not YAML"),
        ("a: &x [*x]\nb: *y\n", "f:2: not YAML"),
        ("a: 2020-99-99\n", "f:1: not YAML"),
    ],
)
def test_mistakes_name_file_line_and_field(text: str, message: str) -> None:
    """What is wrong is told as file:line: field: reason."""
    with pytest.raises(ManifestError) as caught:
        files.parse(text, "f")
    assert str(caught.value).startswith(message)


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing files, empty folders and bytes that are no text are errors with their path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "empty", "binary.yaml"):
        with pytest.raises(ManifestError, match=name):
            files.read([tmp_path / name])
