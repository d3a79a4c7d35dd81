"""Read Kubernetes manifests from files, folders and standard input, with the line of every field.

A manifest is a document with apiVersion, kind and metadata.name. What is wrong with one is told as
`file:line: field: reason`, so that an editor can jump there; `Manifest.line` gives the line of any
field for whoever checks the document further.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SUFFIXES = (".yaml", ".yml", ".json")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ManifestError(Exception):
    """A manifest that cannot be used. `file`, `line` (from 1) and `field` say where."""

    def __init__(self, file: str, line: int, field: str, reason: str) -> None:
        super().__init__(f"{file}:{line}: {field + ': ' if field else ''}{reason}")
        self.file = file
        self.line = line
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Manifest:
    """One document: plain values, where it came from, and its syntax tree for line numbers.

    One that was never text (an object of an API) has no tree, and every field is on line 1.
    """

    document: dict[str, Any]
    file: str
    node: Any

    @property
    def kind(self) -> str:
        """Return the object's kind."""
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        """Return metadata.name."""
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Return metadata.namespace, "" if none is given."""
        return str(self.document["metadata"].get("namespace") or "")

    def line(self, field: str) -> int:
        """Return the line of `field` (`spec.ingress[0].toPorts`), or of its nearest parent."""
        return 1 if self.node is None else self._at(field).start_mark.line + 1

    def lines(self, field: str) -> tuple[int, int]:
        """Return the first and the last line of `field`, or of its nearest parent."""
        if self.node is None:
            return 1, 1
        node: Any = self._at(field)
        last = node
        # A collection in block style ends where the next token begins; its last value does not.
        while not isinstance(last, yaml.ScalarNode) and last.value:
            last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
        end: Any = last.end_mark
        return node.start_mark.line + 1, end.line + bool(end.column)

    def _at(self, field: str) -> Any:
        """Return the tree of `field`, or of its nearest parent."""
        node: Any = self.node
        for step in field.replace("[", ".[").split("."):
            found = _child(node, step)
            if found is None:
                break
            node = found
        return node

    def error(self, field: str, reason: str) -> ManifestError:
        """Return an error about one field of this manifest."""
        return ManifestError(self.file, self.line(field), field, reason)


def read(paths: Iterable[str | Path]) -> list[Manifest]:
    """Read files, folders (their *.yaml, *.yml, *.json, by name) and "-" for standard input.

    Raises ManifestError; a `List` is taken apart into its items.
    """
    return [_raised(one) for one in scan(paths)]


def scan(paths: Iterable[str | Path]) -> Iterator[Manifest | ManifestError]:
    """Read as `read` does, one document at a time; what is wrong is yielded and the rest goes on.

    After a text that is no YAML the next file is read.
    """
    for path in paths:
        if str(path) == "-":
            try:
                text = sys.stdin.read()
            except UnicodeDecodeError as error:
                yield ManifestError("<stdin>", 1, "", str(error))
                continue
            yield from scan_text(text, "<stdin>")
            continue
        try:
            files = _files(Path(path))
        except ManifestError as error:
            yield error
            continue
        for file in files:
            try:
                text = file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                yield ManifestError(str(file), 1, "", reason)
                continue
            yield from scan_text(text, str(file))


def parse(text: str, file: str) -> list[Manifest]:
    """Parse one text, named `file` in errors. Empty documents are skipped. Raises ManifestError."""
    return [_raised(one) for one in scan_text(text, file)]


def scan_text(text: str, file: str) -> Iterator[Manifest | ManifestError]:
    """Parse one text as `scan` does."""
    try:
        for node, value in _documents(text, file):
            if value is not None:
                yield from _manifests(node, value, file)
    except ManifestError as error:
        yield error


def _manifests(node: Any, value: object, file: str) -> Iterator[Manifest | ManifestError]:
    """Yield the manifests of one document: itself, or the items of a List."""
    pairs: Iterable[tuple[object, Any]] = [(value, node)]
    if isinstance(value, dict):
        document = cast("dict[str, Any]", value)
        items = document.get("items")
        if document.get("kind") == "List" and isinstance(items, list):
            nodes: Sequence[Any] = _child(node, "items").value
            pairs = zip(cast("list[Any]", items), nodes, strict=True)
    for item, item_node in pairs:
        try:
            yield checked(item, file, item_node)
        except ManifestError as error:
            yield error


def _raised(one: Manifest | ManifestError) -> Manifest:
    if isinstance(one, ManifestError):
        raise one
    return one


def checked(document: object, file: str, node: Any = None) -> Manifest:
    """Return a document that is a manifest; `file` is its name in errors. Raises ManifestError."""
    if not isinstance(document, dict):
        line = 1 if node is None else node.start_mark.line + 1
        raise ManifestError(file, line, "", "a manifest is a mapping")
    manifest = Manifest(cast("dict[str, Any]", document), file, node)
    for field in ("apiVersion", "kind"):
        value = manifest.document.get(field)
        if not isinstance(value, str) or not value:
            raise manifest.error(field, "is missing" if value is None else "is no text")
    meta = manifest.document.get("metadata")
    if not isinstance(meta, dict):
        raise manifest.error("metadata", "is missing" if meta is None else "is no mapping")
    name = cast("dict[str, Any]", meta).get("name")
    if not isinstance(name, str) or not name:
        raise manifest.error("metadata.name", "is missing" if name is None else "is no text")
    return manifest


def _documents(text: str, file: str) -> Iterator[tuple[Any, Any]]:
    """Yield (syntax tree, value) of each document."""
    loader: Any = None
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            _check_keys(node, file)
            yield node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ManifestError(file, line, "", f"not YAML: {error.problem or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(file, 1, "", f"not YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _check_keys(root: Any, file: str) -> None:
    """Raise ManifestError if a mapping has a key twice: one of its values would be lost."""
    left = [] if isinstance(root, yaml.ScalarNode) else [root]
    seen = {id(root)}
    for node in left:
        children = node.value
        if isinstance(node, yaml.MappingNode):
            keys = [key.value if isinstance(key, yaml.ScalarNode) else id(key)
                    for key, _ in node.value]  # fmt: skip
            if len(set(keys)) < len(keys):
                at = next(index for index, key in enumerate(keys) if key in keys[:index])
                line = node.value[at][0].start_mark.line + 1
                raise ManifestError(file, line, "", f"key {keys[at]!r} is there twice")
            children = [value for _, value in node.value]
        for child in children:
            # An alias is the same node again.
            if not isinstance(child, yaml.ScalarNode) and id(child) not in seen:
                seen.add(id(child))
                left.append(child)


def _child(node: Any, step: str) -> Any:
    """Return the node of a key (`ingress`) or an index (`[0]`), None if it is not there."""
    if step.startswith("["):
        index = int(step[1:-1]) if step[1:-1].isdigit() else -1
        items: Any = node.value if isinstance(node, yaml.SequenceNode) else []
        return items[index] if 0 <= index < len(items) else None
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value
    return None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise ManifestError(str(path), 1, "", f"no {', '.join(SUFFIXES)} in this folder")
    return files
