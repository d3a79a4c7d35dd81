"""Checks of whom and what rules name: pods, namespaces, addresses, names of ports.

A finding says that something names nothing *in these manifests*; so whatever compares with pods is
asked only where there are pods.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Direction, Identity
from fimbria.model.identity import RESERVED
from fimbria.model.labels import CLUSTER, NAMESPACE, NAMESPACE_LABELS, LabelSet
from fimbria.model.matching import named_services
from fimbria.model.peers import Cidr, CidrGroups, Services
from fimbria.model.policy import Action
from fimbria.model.selector import Operator, Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.lint import Finding, Linted
    from fimbria.model.peers import Prefix
    from fimbria.model.policy import NamedPort, Policy, PortSpec, Rule, Spec

_NAMES = tuple(
    f"{source}:{key}"
    for source in ("k8s", "any")
    for key in (NAMESPACE, f"{NAMESPACE_LABELS}.kubernetes.io/metadata.name")
)
"""Keys whose value is a namespace's name."""


def subjects(linted: Linted) -> Iterator[Finding]:
    """A policy about no pod, or about no node."""
    host = RESERVED[Identity.HOST]
    nodes = [LabelSet((*host, *node.labels)) for node in linted.world.nodes.values()]
    for policy in linted.policies:
        for spec in policy.specs:
            if spec.host:
                nobody = bool(nodes) and not any(spec.subject.matches(one) for one in nodes)
            else:
                nobody = bool(linted.world.pods) and not linted.units(spec)
            if nobody and not _strangers(linted, spec.subject):
                fix = "correct the selector or the namespace, or remove the policy"
                message = f"no {'node' if spec.host else 'pod'} is selected by {spec.subject}"
                path = _subject_path(policy, spec)
                yield linted.finding("subject-selects-nothing", policy, path, message, fix)


def peers(linted: Linted) -> Iterator[Finding]:
    """A peer that is nobody, while the rule's other peers may be somebody."""
    fix = "correct the peer, or remove it"
    for policy, _, rule in linted.rules():
        paths: dict[str, list[bool]] = {}
        for peer in rule.peers:
            paths.setdefault(peer.path, []).append(_somebody(linted, peer.whom))
        for path, found in paths.items():
            if not any(found):
                message = "no such peer in the manifests"
                yield linted.finding("peer-selects-nothing", policy, path, message, fix)


def _somebody(linted: Linted, whom: object) -> bool:
    context = linted.engine.state.context()
    if isinstance(whom, Selector):
        if whom.has_source("node") or whom.has_source("cidr") or not linted.world.pods:
            return True
        return bool(linted.chosen(whom) or _strangers(linted, whom))
    if isinstance(whom, CidrGroups):
        groups = context.groups.values()
        return any(whom.selector.matches(LabelSet(group.labels)) for group in groups)
    if isinstance(whom, Services):
        return not linted.world.pods or bool(named_services(whom, context))
    return True


def namespaces(linted: Linted) -> Iterator[Finding]:
    """A selector that wants a namespace by a name that none has; a policy's own is told once."""
    for policy in linted.policies:
        for spec in policy.specs:
            told = set[str]() if spec.host else _strangers(linted, spec.subject)
            yield from _unknown(linted, policy, _subject_path(policy, spec), told)
            for rule in spec.rules:
                for peer in rule.peers:
                    if isinstance(peer.whom, Selector):
                        names = _strangers(linted, peer.whom) - told
                        yield from _unknown(linted, policy, peer.path, names)


def _strangers(linted: Linted, chosen: Selector) -> set[str]:
    """Return the namespaces that a selector wants by name, and that are not there."""
    if not linted.known_namespaces:
        return set()
    wanted = {
        name
        for row in chosen.requirements
        if row.key in _NAMES and row.operator is Operator.IN
        for name in row.values
    }
    return wanted - linted.known_namespaces


def _unknown(linted: Linted, policy: Policy, path: str, names: set[str]) -> Iterator[Finding]:
    for name in sorted(names):
        message = f"there is no namespace {name!r}"
        fix = f"correct the name; there are {_few(linted.known_namespaces)}"
        yield linted.finding("unknown-namespace", policy, path, message, fix)


def port_names(linted: Linted) -> Iterator[Finding]:
    """A port by a name that nobody who could receive has."""
    if not linted.world.pods:
        return
    for policy, spec, rule in linted.rules():
        for part in rule.ports:
            if not part.name or spec.host or not linted.units(spec):
                continue
            known = list(_receiving(linted, spec, rule))
            if not any(_is(part, port) for port in known):
                named = {name for name, _, _ in known}
                message = f"no pod that receives names a port {part.name!r}"
                fix = f"correct the name; there are {_few(named)}" if named else "use the number"
                yield linted.finding("unknown-port-name", policy, part.path, message, fix)


def _receiving(linted: Linted, spec: Spec, rule: Rule) -> Iterator[NamedPort]:
    """Yield the ports that pods name at the end that a rule's traffic goes to."""
    if rule.direction is Direction.INGRESS:
        own = linted.units(spec)
        for unit, number in linted.world.units.items():
            if number in own:
                yield from unit.named
        return
    chosen = [peer.whom for peer in rule.peers]
    for identity, named in linted.world.named.items():
        if any(
            w is None or (isinstance(w, Selector) and identity in linted.chosen(w)) for w in chosen
        ):
            yield from named


def _is(part: PortSpec, port: NamedPort) -> bool:
    name, protocol, number = port
    return part.matches(protocol, number, frozenset([(name, protocol, number)]))


def cidrs(linted: Linted) -> Iterator[Finding]:
    """A CIDR that can match nothing."""
    match = linted.engine.state.config.cidr_match
    for policy, _, rule in linted.rules():
        for peer in rule.peers:
            if not isinstance(peer.whom, Cidr):
                continue
            net = peer.whom.net
            if _covered(net, peer.whom.excepts):
                message = f"its exceptions are all of {net}"
                fix = "narrow the exceptions, or remove the peer"
                yield linted.finding("empty-cidr", policy, peer.path, message, fix)
            elif not match and any(part.covers(net) for part in linted.cluster):
                message = f"{net} is inside the cluster, whose addresses no CIDR matches"
                fix = "name pods by their labels, or set policy-cidr-match-mode"
                yield linted.finding("cluster-cidr", policy, peer.path, message, fix)


def _covered(net: Prefix, excepts: Sequence[Prefix]) -> bool:
    """Return whether exceptions leave nothing of a prefix."""
    found = [ip_network((out.ip, out.bits)) for out in excepts]
    four = [one for one in found if isinstance(one, IPv4Network)]
    six = [one for one in found if isinstance(one, IPv6Network)]
    whole = ip_network((net.ip, net.bits))
    return whole in (*collapse_addresses(four), *collapse_addresses(six))


def broad(linted: Linted) -> Iterator[Finding]:
    """A rule that allows everybody, or all of a namespace, at every port."""
    for policy, spec, rule in linted.rules():
        if rule.action is not Action.ALLOW or spec.host or not _every_port(rule):
            continue
        for path in dict.fromkeys(peer.path for peer in rule.peers):
            whom = [peer.whom for peer in rule.peers if peer.path == path]
            if any(_anybody(one) for one in whom):
                message = "everybody, or the whole world, may use every port"
                fix = "name ports, or name the peers more closely"
                yield linted.finding("open-to-all", policy, path, message, fix)
            elif any(_by_place(one) for one in whom):
                message = "all pods of a namespace, or of more, may use every port"
                fix = "name ports, or the labels of the pods that need it"
                yield linted.finding("whole-namespace", policy, path, message, fix)


def _every_port(rule: Rule) -> bool:
    return any(not part.protocols and not part.name for part in rule.parts)


def _anybody(whom: object) -> bool:
    if isinstance(whom, Cidr):
        return not whom.net.bits and not whom.excepts
    if isinstance(whom, Selector):
        keys = {row.key for row in whom.requirements if row.operator is Operator.EXISTS}
        if len(keys) < len(whom.requirements):
            return False
        return keys <= {"reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"}
    return whom is None


def _by_place(whom: object) -> bool:
    """Return whether a peer is pods by their namespace or cluster alone."""
    if not isinstance(whom, Selector) or not whom.requirements:
        return False
    keys = [row.key.partition(":")[2] for row in whom.requirements]
    return all(key.startswith((NAMESPACE, NAMESPACE_LABELS, CLUSTER)) for key in keys)


def nobody(linted: Linted) -> Iterator[Finding]:
    """A rule without peers beside rules with peers; alone it is how a default deny is written."""
    for policy, spec, rule in linted.rules():
        same = [one for one in spec.rules if one.direction is rule.direction]
        if not rule.peers and len(same) > 1:
            fix = "name peers, or remove the rule"
            yield linted.finding("nobody", policy, rule.path, "the rule is about nobody", fix)


def _subject_path(policy: Policy, spec: Spec) -> str:
    """Return the path of a spec's selector, whatever the kind of policy calls it."""
    names = {"NetworkPolicy": "podSelector", "ClusterNetworkPolicy": "subject"}
    usual = "nodeSelector" if spec.host else "endpointSelector"
    return f"{spec.path}.{names.get(policy.key.kind, usual)}"


def _few(found: frozenset[str] | set[str]) -> str:
    """Return some names, sorted."""
    names = sorted(found)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


PEER_CHECKS = (subjects, peers, namespaces, port_names, cidrs, broad, nobody)
