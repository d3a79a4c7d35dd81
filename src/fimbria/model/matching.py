"""Whether a rule's peer is an end of a packet: by labels, by address, by group, by service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.model.labels import LabelSet
from fimbria.model.peers import Cidr, CidrGroups, Services, host_prefix
from fimbria.model.selector import Selector

if TYPE_CHECKING:
    from fimbria.model.peers import Context, Service
    from fimbria.model.policy import Peer
    from fimbria.model.semantics import End


def names(peer: Peer, end: End, context: Context) -> bool:
    """Return whether a rule's peer is this end."""
    whom = peer.whom
    if whom is None:
        return True
    if isinstance(whom, Selector):
        return whom.matches(end.labels)
    if isinstance(whom, Cidr):
        return end.net is not None and whom.covers(end.net)
    if isinstance(whom, CidrGroups):
        groups = [g for g in context.groups.values() if whom.selector.matches(LabelSet(g.labels))]
        return end.net is not None and any(
            Cidr(net, whom.excepts).covers(end.net) for group in groups for net in group.prefixes
        )
    if isinstance(whom, Services):
        return any(_serves(service, end) for service in named_services(whom, context))
    return False  # no proxy has learned an address for a name yet


def named_services(whom: Services, context: Context) -> list[Service]:
    """Return the services that a rule names."""
    return [
        service
        for service in context.services.values()
        if whom.namespace in ("", service.namespace)
        and (
            service.name == whom.name
            if whom.selector is None
            else whom.selector.matches(LabelSet(service.labels))
        )
    ]


def _serves(service: Service, end: End) -> bool:
    """Return whether an end is behind a service: one of its pods, or one of its addresses.

    An address of a Service without selector is a CIDR of one address: it matches what CIDRs match.
    """
    if service.selector is not None:
        return service.selector.matches(end.labels)
    return end.net is not None and any(host_prefix(ip).covers(end.net) for ip in service.backends)
