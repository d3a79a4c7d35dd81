"""Reading whom a rule of a Cilium policy names: fromEndpoints, toCIDRSet, toServices and the like.

Source of the rules: Cilium's policy language (control-plane reference, selectors and fields). A
rule names its peers in one way only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.datapath.abi import Direction
from fimbria.model import cidr_parse, select_parse
from fimbria.model.entities import NAMES, entity
from fimbria.model.fields import UNSUPPORTED, Fields, word
from fimbria.model.fqdn import fqdn
from fimbria.model.peers import GROUP_NAME, Cidr, CidrGroups, Services
from fimbria.model.policy import Peer, PolicyError
from fimbria.model.selector import EVERYTHING, exists, selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.model.reading import Place, Reading

    Read = Callable[[Any, str, Reading], tuple[Peer, ...]]


def cilium_peers(rule: Fields, place: Place, reading: Reading) -> tuple[Peer, ...] | None:
    """Take the peer fields of a rule; None if there are none. Raises PolicyError.

    An empty list names nobody, and may stand beside another.
    """
    end = place.end
    endpoints, nodes = f"{end}Endpoints", f"{end}Nodes"
    rule.refuse([f"{end}Requires"], f"is not supported: put the demands into every {endpoints}")
    rule.refuse([f"{end}Groups"], f"groups of a cloud provider are {UNSUPPORTED}")
    if not reading.node_labels:
        rule.refuse([nodes], "needs enable-node-selector-labels")
    readers: dict[str, Read] = {
        endpoints: _endpoint, f"{end}CIDR": _cidr, f"{end}CIDRSet": _cidr_set,
        f"{end}Entities": _entity, nodes: _node,
    }  # fmt: skip
    if place.direction is Direction.EGRESS:
        if place.deny:
            rule.refuse(["toFQDNs"], "a denial cannot name names of the DNS")
        readers |= {"toServices": _service, "toFQDNs": _name}
    before: str = ""
    found: tuple[Peer, ...] | None = None
    for name, read in readers.items():
        groups = rule.each(name, lambda v, p, r=read: r(v, p, reading))
        if groups is None:
            continue
        if groups and before:
            both = f"{_title(before)} and {_title(name)}"
            raise PolicyError(rule.at(name), f"Combining {both} is not supported yet")
        before = name if groups else before
        found = (*(found or ()), *(peer for group in groups for peer in group))
    return found


def _endpoint(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    chosen = select_parse.label_selector(value, path, select_parse.cilium_key)
    whom = select_parse.peer(chosen, reading.namespace, init=reading.init)
    return (Peer(path, None if whom == EVERYTHING else whom),)


def _cidr(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    return (Peer(path, Cidr(cidr_parse.network_or_address(value, path))),)


def _cidr_set(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    fields = Fields(value, path)
    given = fields.only_one("cidr", "cidrGroupRef", "cidrGroupSelector")
    if given == "cidr":
        whom = cidr_parse.block(fields)
    else:
        if given == "cidrGroupRef":
            name = fields.name(given)
            chosen = selector([exists(f"{GROUP_NAME}/{name}")])
        else:
            chosen = select_parse.label_selector(
                fields.any(given), fields.at(given), select_parse.group_key
            )
        excepts = fields.each("except", cidr_parse.network) or ()
        whom = CidrGroups(chosen, tuple(sorted(set(excepts))))
    fields.done()
    return (Peer(path, whom),)


def _entity(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    name = word(value, path)
    if name not in NAMES:
        raise PolicyError(path, f"{name!r} is none of {', '.join(NAMES)}")
    return tuple(Peer(path, chosen) for chosen in entity(name, reading.cluster))


def _node(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    return select_parse.node_peers(select_parse.node_selector(value, path), path)


def _service(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    fields = Fields(value, path)
    given = fields.only_one("k8sService", "k8sServiceSelector")
    inner = Fields(fields.any(given), fields.at(given))
    namespace = inner.text("namespace")
    if given == "k8sService":
        whom = Services(inner.name("serviceName"), namespace)
    else:
        at = inner.at("selector")
        chosen = select_parse.label_selector(inner.any("selector"), at, select_parse.cilium_key)
        whom = Services("", namespace, chosen)
    inner.done()
    fields.done()
    return (Peer(path, whom),)


def _name(value: Any, path: str, reading: Reading) -> tuple[Peer, ...]:
    found = fqdn(value, path)
    reading.needs_proxy(path)
    return (Peer(path, found),)


def _title(name: str) -> str:
    return name[0].upper() + name[1:]
