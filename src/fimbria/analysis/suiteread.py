"""From files to suites: finding tests, reading them, and what their short forms stand for.

folders, files ─► find ─► read_suites ─► Suite ─► resources ─► the world's manifests
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fimbria.analysis.flows import Flow
from fimbria.analysis.objects import decode, group_of
from fimbria.analysis.suite import (
    GROUP,
    KIND,
    NOT_ASKED,
    WORDS,
    Case,
    Expected,
    Flows,
    PolicyTest,
    RuleWanted,
    Suite,
    Table,
)
from fimbria.model.labels import LabelError, label_filter
from fimbria.sources.files import SUFFIXES, ManifestError, scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fimbria.analysis.suite import Options
    from fimbria.sources.files import Manifest

ENDINGS = (".test.yaml", ".test.yml")
"""How files with tests are called; folders are searched for them."""

_PORT = re.compile(r"(\d{1,5})(?:/([A-Za-z0-9]+))?")
_RULE = re.compile(
    r"(?:(?P<kind>[A-Z]\w+) )?(?:(?P<namespace>[^/ ]+)/)?(?P<name>[^/ ]+)"
    r"(?: (?P<path>specs?\b\S*))?"
)


def is_test_file(path: Path) -> bool:
    """Return whether a file is called like one with tests."""
    return path.name.endswith(ENDINGS)


def find(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files with tests: files as they are, folders searched (hidden ones are not).

    Raises ManifestError for what does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ManifestError(str(path), 1, "", "No such file or directory")
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            inside = file.relative_to(path).parts
            if path.is_file() or (
                is_test_file(file) and not any(part.startswith(".") for part in inside)
            ):
                found[file] = None
    return list(found)


def read_suites(file: Path) -> Iterator[Suite | ManifestError]:
    """Yield the suites of a file, and what is wrong with it."""
    tests: list[Manifest] = []
    inline: list[Manifest] = []
    for one in scan([file]):
        if isinstance(one, ManifestError):
            yield one
        elif one.kind == KIND:
            tests.append(one)
        else:
            inline.append(one)
    if not tests:
        yield ManifestError(str(file), 1, "kind", f"no {KIND} in this file")
    for one in tests:
        try:
            yield _suite(one, file, tuple(inline))
        except ManifestError as error:
            yield error


def resources(suite: Suite) -> Iterator[Manifest | ManifestError]:
    """Yield the manifests of a suite's world."""
    yield from manifests(suite.paths)
    yield from suite.inline


def manifests(paths: Iterable[str | Path]) -> Iterator[Manifest | ManifestError]:
    """Read as `scan` does; the tests in a folder are left out."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield from scan([path])
            continue
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        yield from scan(file for file in files if not is_test_file(file))


def _suite(one: Manifest, file: Path, inline: tuple[Manifest, ...]) -> Suite:
    if group_of(one) != GROUP:
        raise one.error("apiVersion", f"a {KIND} is of {GROUP}/v1")
    spec: Any = one.document.get("spec")
    if isinstance(spec, dict):
        # One by one first, so that what is wrong has a line of its own.
        for name, kind in (("cases", Case), ("tables", Table)):
            items = cast("dict[str, Any]", spec).get(name)
            for index, item in enumerate(cast("list[Any]", items) if items else ()):
                given = "nothing" if item is None else item
                decode(one, kind, given, f"spec.{name}[{index}]")
    test = decode(one, PolicyTest)
    _check_options(one, test.spec.options)
    return Suite(
        test.metadata.name,
        str(file),
        test.spec.options,
        tuple(str(Path(file.parent, text)) for text in test.spec.resources),
        inline,
        (*_cases(one, test), *_tables(one, test)),
    )


def _check_options(one: Manifest, options: Options) -> None:
    path = "spec.options"
    if options.enable_policy not in ("default", "always", "never"):
        reason = f"{options.enable_policy!r} is none of default, always, never"
        raise one.error(f"{path}.enable-policy", reason)
    unknown = sorted(set(options.policy_cidr_match_mode) - {"nodes", "pods"})
    if unknown:
        reason = f"{unknown[0]!r} is none of nodes, pods"
        raise one.error(f"{path}.policy-cidr-match-mode", reason)
    try:
        label_filter(options.labels)
    except LabelError as error:
        raise one.error(f"{path}.labels", str(error)) from error


def _cases(one: Manifest, test: PolicyTest) -> Iterator[Expected]:
    for index, case in enumerate(test.spec.cases):
        path = f"spec.cases[{index}]"
        given = {word: getattr(case, word) for word in WORDS if getattr(case, word) is not None}
        if len(given) != 1:
            raise one.error(path, f"takes exactly one of {', '.join(WORDS)}")
        ((word, said),) = given.items()
        flows = _flows(one, f"{path}.{word}", said, test.metadata.namespace)
        name = case.name or _title(word, said)
        wanted = _wanted(one, f"{path}.rule", case.rule) if case.rule else None
        yield Expected(name, one.line(path), WORDS[word], flows, wanted)


def _tables(one: Manifest, test: PolicyTest) -> Iterator[Expected]:
    for index, table in enumerate(test.spec.tables):
        path = f"spec.tables[{index}]"
        for source, cells in table.source.items():
            at = f"{path}.from.{source}"
            if len(cells) != len(table.to):
                reason = f"{len(cells)} cells under {len(table.to)} columns"
                raise one.error(at, reason)
            for column, (target, cell) in enumerate(zip(table.to, cells, strict=True)):
                if cell in NOT_ASKED:
                    continue
                if cell not in WORDS:
                    reason = f"{cell!r} is none of {', '.join(WORDS)}, -"
                    raise one.error(f"{at}[{column}]", reason)
                asked = Flows(to=target, ports=table.ports, source=source)
                flows = _flows(one, path, asked, test.metadata.namespace)
                title = _title(cell, asked)
                name = f"{table.name}: {title}" if table.name else title
                yield Expected(name, one.line(at), WORDS[cell], flows)


def _flows(one: Manifest, path: str, said: Flows, namespace: str) -> tuple[Flow, ...]:
    """Return the flows that a case is about. Raises ManifestError for a port that is none."""
    ports = [_port(one, f"{path}.ports", port) for port in _listed(said.ports)]
    sources = [_end(name, namespace) for name in _listed(said.source)]
    targets = [_end(name, namespace) for name in _listed(said.to)]
    for field, given in (("from", sources), ("to", targets), ("ports", ports)):
        if not given:
            raise one.error(f"{path}.{field}", "is empty")
    return tuple(
        Flow(source, target, protocol, port)
        for source in sources
        for target in targets
        for port, protocol in ports
    )


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _end(name: str, namespace: str) -> str:
    """Return an end as flows name it: with its namespace, if it is a pod or a Service."""
    if name.startswith("svc:") and "/" not in name:
        return f"svc:{namespace}/{name.removeprefix('svc:')}"
    if "/" in name or ":" in name:
        return name
    try:
        ip_address(name)
    except ValueError:
        return f"{namespace}/{name}"
    return name


def _port(one: Manifest, path: str, given: int | str) -> tuple[int, str]:
    match = _PORT.fullmatch(str(given))
    if match is None:
        raise one.error(path, f"{given!r} is no port: write 443, 53/UDP or 8/ICMP")
    return int(match[1]), (match[2] or "TCP").upper()


def _wanted(one: Manifest, path: str, text: str) -> RuleWanted:
    match = _RULE.fullmatch(" ".join(text.split()))
    if match is None:
        raise one.error(path, f"{text!r} is not [KIND ][NAMESPACE/]NAME[ PATH]")
    return RuleWanted(text, **{name: part or "" for name, part in match.groupdict().items()})


def _title(word: str, said: Flows) -> str:
    """Return the name of a case that has none."""
    ends = (" or ".join(map(str, _listed(value))) for value in (said.source, said.to, said.ports))
    source, target, ports = ends
    return f"{word} {source} to {target} at {ports}"
