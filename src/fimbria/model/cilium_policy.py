"""Reading CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

    object ── spec, specs ── endpointSelector or nodeSelector, sections ── rules

Source of the rules: Cilium's policy language (control-plane reference). A list of rules that is
there makes its direction deny by default, unless enableDefaultDeny says otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fimbria.datapath.abi import Direction
from fimbria.model import select_parse
from fimbria.model.cilium_peers import cilium_peers
from fimbria.model.fields import UNSUPPORTED, Fields
from fimbria.model.policy import DIRECTIONS, Action, Peer, PolicyError, Rule, Spec
from fimbria.model.ports import cilium_ports
from fimbria.model.reading import Place
from fimbria.model.redirects import check_parsers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.model.reading import Reading
    from fimbria.model.selector import Selector

_SECTIONS = {
    "ingress": (Direction.INGRESS, False),
    "ingressDeny": (Direction.INGRESS, True),
    "egress": (Direction.EGRESS, False),
    "egressDeny": (Direction.EGRESS, True),
}
_MODES = ("disabled", "required", "test-always-fail")


def cilium_specs(document: Mapping[str, Any], reading: Reading) -> tuple[Spec, ...]:
    """Return the specs of an object. Raises PolicyError."""
    found: list[Spec] = []
    if document.get("spec") is not None:
        found.append(_spec(document["spec"], "spec", reading))
    if document.get("specs") is not None:
        top = Fields({"specs": document["specs"]}, "")
        found += top.each("specs", lambda v, p: _spec(v, p, reading)) or ()
    if not found:
        raise PolicyError("spec", "the object has neither spec nor specs")
    return tuple(found)


def _spec(value: Any, path: str, reading: Reading) -> Spec:
    fields = Fields(value, path)
    host = fields.has("nodeSelector")
    subject = _subject(fields, reading)
    reading = replace(reading, init=not host and select_parse.is_init(subject))
    fields.text("description")
    fields.items("labels")
    _log(fields)
    rules: list[Rule] = []
    present: dict[Direction, bool] = dict.fromkeys(DIRECTIONS, False)
    for name, (direction, deny) in _SECTIONS.items():
        place = Place(direction, deny, host)
        section = fields.each(name, lambda v, p, at=place: _rule(v, p, at, reading))
        present[direction] |= bool(section)
        rules += section or ()
    wanted = _default_deny(fields)
    fields.done()
    check_parsers(rules)
    # Saying `false` about a direction without rules says nothing.
    ingress, egress = (
        (True if wanted[d] is None else wanted[d]) if present[d] else (wanted[d] or None)
        for d in DIRECTIONS
    )
    if ingress is None and egress is None:
        raise PolicyError(path, "has none of ingress, ingressDeny, egress, egressDeny")
    return Spec(path, subject, ingress, egress, tuple(rules), host)


def _subject(fields: Fields, reading: Reading) -> Selector:
    names = ("endpointSelector", "nodeSelector")
    endpoints, nodes = (fields.at(name) for name in names)
    if fields.has(names[1]):
        if reading.namespace:
            raise PolicyError(nodes, "is for a clusterwide policy only")
        if fields.has(names[0]):
            raise PolicyError(
                nodes, "Combining EndpointSelector and NodeSelector is not supported yet"
            )
        return select_parse.node_selector(fields.any(names[1]), nodes)
    if not fields.has(names[0]):
        raise fields.missing(names[0])
    chosen = select_parse.label_selector(fields.any(names[0]), endpoints, select_parse.cilium_key)
    return select_parse.subject(chosen, reading.namespace, endpoints)


def _log(fields: Fields) -> None:
    log = fields.mapping("log")
    if log is not None:
        log.text("value")
        log.done()


def _default_deny(fields: Fields) -> dict[Direction, bool | None]:
    given = fields.mapping("enableDefaultDeny")
    found: dict[Direction, bool | None] = {Direction.INGRESS: None, Direction.EGRESS: None}
    if given is not None:
        found = {Direction.INGRESS: given.flag("ingress"), Direction.EGRESS: given.flag("egress")}
        given.done()
    return found


def _rule(value: Any, path: str, place: Place, reading: Reading) -> Rule:
    fields = Fields(value, path)
    _authentication(fields, place)
    peers = cilium_peers(fields, place, reading)
    ports = cilium_ports(fields, place, reading)
    fields.done()
    if peers is None:
        peers = (Peer(path, None),) if ports else ()
    action = Action.DENY if place.deny else Action.ALLOW
    return Rule(path, place.direction, action, peers, ports)


def _authentication(fields: Fields, place: Place) -> None:
    if place.deny:
        fields.refuse(["authentication"], "a denial authenticates nobody")
    given = fields.mapping("authentication")
    if given is None:
        return
    mode = given.text("mode")
    given.done()
    if mode not in _MODES:
        raise PolicyError(given.at("mode"), f"{mode!r} is none of {', '.join(_MODES)}")
    if mode != "disabled":
        raise PolicyError(given.at("mode"), f"mutual authentication is {UNSUPPORTED}")
