"""`policy trace` from manifests: the ends of a question, found in an engine's world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.analysis.engine import loops
from fimbria.analysis.flows import FlowError
from fimbria.analysis.places import Place
from fimbria.analysis.trace import ANY, Trace, TraceEnd, TraceHalf, trace_halves
from fimbria.datapath.abi import Direction, EndpointIds
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelError, LabelSet, canonical
from fimbria.model.policy import Protocol
from fimbria.model.semantics import End

if TYPE_CHECKING:
    from fimbria.analysis.engine import Engine


def resolve(engine: Engine, request: dict[str, Any]) -> Trace:
    """Return the reasoning for `{"src", "dst", "dport"}` in the form of `/v1/policy/resolve`.

    Labels mean the pods that have them, which must be of one kind; if there are none, an end with
    these labels alone. Raises FlowError.
    """
    port, _, name = str(request.get("dport") or "0/ANY").partition("/")
    protocols = ANY if name in ("", "ANY") else (int(Protocol[name]),)
    source, destination = (_end(engine, request[side]) for side in ("src", "dst"))
    egress = _half(engine, Direction.EGRESS, source, destination)
    ingress = _half(engine, Direction.INGRESS, destination, source)
    return trace_halves(egress, ingress, int(port), protocols)


def _half(
    engine: Engine, direction: Direction, own: Place | TraceEnd, other: Place | TraceEnd
) -> TraceHalf:
    """Return what an end's policy is asked, as its node sees the other end."""
    if isinstance(own, TraceEnd):
        there = other if isinstance(other, TraceEnd) else TraceEnd(other.end)
        return TraceHalf(engine.compiler, direction, own, there)
    asked = own if isinstance(other, TraceEnd) else other
    view, mine, peer = engine.views.seen(own, asked)
    policed = mine.unit != 0 and not (isinstance(other, Place) and loops(mine, peer))
    host = mine.unit == EndpointIds.HOST
    there = other if isinstance(other, TraceEnd) else TraceEnd(peer.end)
    end = TraceEnd(mine.own, mine.unit or None, policed, host)
    return TraceHalf(view.compiler, direction, end, there)


def _end(engine: Engine, given: dict[str, Any]) -> Place | TraceEnd:
    """Return who is meant: an end of the world, or one that has labels and nothing else."""
    if "labels" not in given:
        name = given.get("pod") or given.get("ip") or f"identity:{given['identity']}"
        return engine.place(str(name))
    try:
        labels = canonical(given["labels"])
    except LabelError as error:
        raise FlowError(str(error)) from error
    kinds = {pod.unit: name for name, pod in engine.world.pods.items()
             if _has(LabelSet(pod.labels), LabelSet(labels))}  # fmt: skip
    if len(kinds) == 1:
        return _end(engine, {"pod": next(iter(kinds.values()))})
    if kinds:
        raise FlowError(f"{','.join(labels)}: these are {', '.join(sorted(kinds.values()))}")
    reserved = all(label.startswith("reserved:") for label in labels)
    number = next((int(n) for n, own in RESERVED.items() if tuple(own) == labels), 0)
    return TraceEnd(End(number, LabelSet(labels)), None, not reserved)


def _has(labels: LabelSet, wanted: LabelSet) -> bool:
    """Return whether all of `wanted` are among labels; source "any" is any source."""
    return all(
        set(values) <= set(labels.values.get(key, ())) for key, values in wanted.values.items()
    )
