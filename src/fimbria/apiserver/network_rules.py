"""What a NetworkPolicy may say beyond its schema, with Kubernetes' own messages.

Source: the API reference of networking.k8s.io/v1 (NetworkPolicyPeer, IPBlock, NetworkPolicyPort).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fimbria.apiserver.errors import cause
from fimbria.apiserver.labels import invalid, selector
from fimbria.model.cidr_parse import network
from fimbria.model.policy import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.apiserver.entry import Object
    from fimbria.apiserver.labels import Causes
    from fimbria.model.peers import Prefix

_PORT_NAME = re.compile(r"[-a-z0-9]+")
_NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def network_policy(document: Object, causes: Causes) -> None:
    """Check a NetworkPolicy of the right shape."""
    spec: dict[str, Any] = document.get("spec") or {}
    selector(spec.get("podSelector") or {}, "spec.podSelector", causes)
    for direction, field in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or []):
            for j, port in enumerate(rule.get("ports") or []):
                _port(port, f"spec.{direction}[{i}].ports[{j}]", causes)
            for j, peer in enumerate(rule.get(field) or []):
                _peer(peer, f"spec.{direction}[{i}].{field}[{j}]", causes)
    types: list[str] = spec.get("policyTypes") or []
    if len(types) > 2:
        invalid("spec.policyTypes", types, "may not specify more than two policyTypes", causes)


def _port(item: dict[str, Any], path: str, causes: Causes) -> None:
    port, end = item.get("port"), item.get("endPort")
    if isinstance(port, int):
        if not 1 <= port <= 65535:
            invalid(f"{path}.port", port, "must be between 1 and 65535, inclusive", causes)
        if end is not None and end < port:
            invalid(f"{path}.endPort", end, "must be greater than or equal to `port`", causes)
        return
    if end is not None:
        word = "not specified" if port is None else "non-numeric"
        invalid(f"{path}.endPort", end, f"may not be specified when `port` is {word}", causes)
    if port is not None:
        for rule in port_name(port):
            invalid(f"{path}.port", port, rule, causes)


def port_name(text: str) -> Iterator[str]:
    """Yield the rules for the names of ports (RFC 6335) that a text breaks."""
    if len(text) > 15:
        yield "must be no more than 15 characters"
    if not _PORT_NAME.fullmatch(text):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", text):
        yield "must contain at least one letter (a-z)"
    if "--" in text:
        yield "must not contain consecutive hyphens"
    if text.startswith("-") or text.endswith("-"):
        yield "must not begin or end with a hyphen"


def _peer(peer: dict[str, Any], path: str, causes: Causes) -> None:
    named = [one for one in ("podSelector", "namespaceSelector") if peer.get(one) is not None]
    for one in named:
        selector(peer[one], f"{path}.{one}", causes)
    block = peer.get("ipBlock")
    if block is not None:
        _block(block, f"{path}.ipBlock", causes)
        if named:
            text = "Forbidden: may not specify both ipBlock and another peer"
            causes.append(cause("FieldValueForbidden", path, text))
    elif not named:
        causes.append(cause("FieldValueRequired", path, "Required value: must specify a peer"))


def _block(block: dict[str, Any], path: str, causes: Causes) -> None:
    net = _cidr(block["cidr"], f"{path}.cidr", causes)
    for index, text in enumerate(block.get("except") or []):
        where = f"{path}.except[{index}]"
        out = _cidr(text, where, causes)
        if net and out and (net == out or not net.covers(out)):
            invalid(where, text, "must be a strict subset of `cidr`", causes)


def _cidr(text: str, path: str, causes: Causes) -> Prefix | None:
    try:
        return network(text, path)
    except PolicyError:
        invalid(path, text, _NO_CIDR, causes)
        return None
