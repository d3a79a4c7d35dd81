"""One flow, explained from end to end: packet, half, map entry, rule, the lines of YAML, the cure.

Engine.eval ─► Result ─► a half each: map entry, rule, file and lines
additions.smallest ─► what would turn the verdict, tried out
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.analysis.additions import NoAddition, smallest
from fimbria.analysis.explain import policy_text
from fimbria.analysis.results import Because
from fimbria.model.policy import PolicyKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.additions import Addition, Edit
    from fimbria.analysis.diff import Change
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.flows import Flow
    from fimbria.analysis.results import Half, Result
    from fimbria.analysis.world import World

QUOTED = 15
"""Lines of a file that are quoted at most."""

_RULE = re.compile(r"spec(s\[\d+\])?\.\w+\[\d+\]")
_VERBS = {"create": "create", "add": "add to", "remove": "remove from"}


@dataclass(frozen=True, slots=True)
class Quote:
    """Lines of a file as they stand there. `more`: it goes on after the last one."""

    file: str
    line: int
    lines: tuple[str, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Explained:
    """A flow's explanation. Either `addition`, or why there is none in `never`."""

    flow: Flow
    result: Result
    quotes: tuple[Quote | None, Quote | None]
    addition: Addition | None
    never: str = ""


def explain(engine: Engine, flow: Flow) -> Explained:
    """Return why a flow's verdict is what it is, and what would turn it. Raises FlowError."""
    result = engine.eval(flow)
    quotes = quote(engine.world, result.egress), quote(engine.world, result.ingress)
    try:
        return Explained(flow, result, quotes, smallest(engine, flow))
    except NoAddition as error:
        return Explained(flow, result, quotes, None, str(error))


def quote(world: World, half: Half) -> Quote | None:
    """Return the lines that decided a half; of a default deny, the spec that closes."""
    if half.policy is None or half.rule is None or half.file is None:
        return None
    key = PolicyKey(half.policy.kind, half.policy.namespace, half.policy.name)
    manifest, path = world.manifests[key], half.rule
    rule = _RULE.match(path)
    if rule is not None:
        path = rule[0]
    first, last = manifest.lines(path)
    try:
        text = Path(manifest.file).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if last > len(text):
        return None  # it has changed since it was read
    if not path.endswith("]") and f"{path.rpartition('.')[2]}:" not in text[first - 1]:
        first -= 1  # the tree of a mapping in block style begins behind its key
    return Quote(
        manifest.file, first, tuple(text[first - 1 : last][:QUOTED]), last - first >= QUOTED
    )


def lines(world: World, one: Explained) -> Iterator[str]:
    """Yield the explanation as text."""
    flow, result = one.flow, one.result
    target = flow.destination + (f" ({result.backend})" if result.backend else "")
    yield f"{flow.source} => {target}, {flow.protocol.upper()} {flow.port}: {result.verdict}"
    ends = ("egress", flow.source, result.egress), ("ingress", target, result.ingress)
    for (way, name, half), quoted in zip(ends, one.quotes, strict=True):
        yield ""
        yield f"{way} of {name}: {str(half.verdict).lower()}, {half.reason}"
        yield from (f"    {line}" for line in _half(world, half, quoted))
    yield ""
    turn = "deny" if result.allowed else "allow"
    if one.addition is None:
        yield f"No policy can {turn} it: {one.never}"
        return
    yield from addition_lines(world, one.addition)


def addition_lines(world: World, addition: Addition) -> Iterator[str]:
    """Yield an addition as text: what to do where, the YAML, and what else it turns."""
    turn = "allow" if addition.result.allowed else "deny"
    for number, edit in enumerate(addition.edits):
        yield f"{'and' if number else f'To {turn} it,'} {_where(world, edit)}:"
        yield from (
            f"    {line}"
            for line in _yaml(edit.text if not edit.path else [edit.text]).splitlines()
        )
    verdict, changes = addition.result.verdict, addition.changes
    if not changes:  # what goes on between a pod and itself is not among what is compared
        yield f"Tried: {verdict} then."
    elif len(changes) == 1 and _is_one(changes[0]):
        yield f"Tried: {verdict} then; nothing else turns."
    else:
        yield f"Tried: {verdict} then. This is all that turns:"
        yield from (f"    {change_text(change)}" for change in changes[:QUOTED])
        if len(changes) > QUOTED:
            yield f"    ... and {len(changes) - QUOTED} more"


def _is_one(change: Change) -> bool:
    """Return whether it is about one kind of source, one of destination, and one port."""
    pairs = len(change.sources) * len(change.destinations)
    return (
        pairs == len(change.turns) == 1 and change.turns[0].atom.first == change.turns[0].atom.last
    )


def change_text(change: Change) -> str:
    """Return verdicts that turn in one line: `shop/web => shop/db: TCP 80 ALLOWED`."""
    ends = [
        str(group[0]) + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        for group in (change.sources, change.destinations)
    ]
    ports = ", ".join(f"{turn.atom} {turn.after}" for turn in change.turns)
    return f"{ends[0]} => {ends[1]}: {ports}"


def _half(world: World, half: Half, quoted: Quote | None) -> Iterator[str]:
    if half.entry is not None:
        yield f"map entry   {half.entry}"
    if half.policy is None:
        return
    key = PolicyKey(half.policy.kind, half.policy.namespace, half.policy.name)
    yield f"rule        {key}, {half.rule}"
    if half.reason is Because.REFUSED:
        refusal = world.policies[key].refusal
        yield f"refused     {': '.join(refusal or ())}"
    if quoted is None:
        policy = world.policies.get(key)
        text = "" if policy is None or half.rule is None else policy_text(policy, half.rule)
        yield from (f"    {line}" for line in text.splitlines()[:QUOTED])
        return
    yield f"written in  {half.file}:{half.line}"
    for number, line in enumerate(quoted.lines, quoted.line):
        mark = ">" if number == half.line else " "
        yield f"{mark}{number:>7} | {line}"
    if quoted.more:
        yield f"{'...':>8} |"


def _where(world: World, edit: Edit) -> str:
    """Return what to do where: `add to CiliumNetworkPolicy default/x, spec.ingress (x.yaml:9)`."""
    if not edit.path:
        return f"{edit.verb} {edit.policy}"
    section = edit.path[: edit.path.rindex("[")] if edit.verb == "add" else edit.path
    manifest = world.manifests.get(edit.policy)
    place = ""
    if manifest is not None and manifest.node is not None:
        place = f" ({manifest.file}:{manifest.line(section)})"
    return f"{_VERBS[edit.verb]} {edit.policy}, {section}{place}"


def _yaml(value: Any) -> str:
    import yaml  # here, because loading it takes as long as the rest

    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False)


def document(one: Explained) -> dict[str, Any]:
    """Return it as `fimbria policy explain -o json` prints it."""
    found: dict[str, Any] = msgspec.to_builtins(one.result)
    for way, quoted in zip(("egress", "ingress"), one.quotes, strict=True):
        if quoted is not None:
            found[way]["quote"] = {"line": quoted.line, "lines": list(quoted.lines)}
    if one.addition is None:
        found["addition"], found["noAddition"] = None, one.never
        return found
    found["addition"] = {
        "edits": [
            {
                "verb": edit.verb,
                "kind": edit.policy.kind,
                "namespace": edit.policy.namespace,
                "name": edit.policy.name,
                "path": edit.path,
                "part": edit.text,
                "object": edit.document,
            }
            for edit in one.addition.edits
        ],
        "verdict": str(one.addition.result.verdict),
        "turned": [change_text(change) for change in one.addition.changes],
    }
    return found
