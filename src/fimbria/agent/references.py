"""What policies refer to by name: CiliumCIDRGroups, Services, and the addresses of Services.

    CiliumCIDRGroup ─► read ─► state.groups
    Service, EndpointSlice ─► read ─► joined by name ─► state.services

A group that cannot be read stays as it was: without it, what denies its addresses would be open.
Of EndpointSlices only their addresses are kept, and only Services without selector get them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from fimbria.agent.held import Held
from fimbria.model.groups import read_group
from fimbria.model.policy import PolicyError, PolicyKey
from fimbria.model.services import read_service, service_of
from fimbria.sources.reflector import key_of
from fimbria.sources.resources import CILIUM_CIDR_GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.compile.state import ClusterState
    from fimbria.model.peers import Service, ServiceKey
    from fimbria.sources.reflector import Change
    from fimbria.sources.resources import Document

log = logging.getLogger(__name__)


class SliceRow(msgspec.Struct, frozen=True, gc=False):
    """The addresses that one EndpointSlice gives a Service."""

    service: tuple[str, str]
    backends: tuple[bytes, ...]


def service_row(item: Document) -> Service | None:
    """Return a Service as rules see it, without addresses; None if it cannot be read."""
    try:
        return read_service(item)
    except PolicyError as error:
        log.warning("Service %s left out: %s", "/".join(key_of(item)), error)
        return None


def slice_row(item: Document) -> SliceRow | None:
    """Return an EndpointSlice's addresses; None if it has none, or cannot be read."""
    try:
        key = service_of(item)
        if key is None:
            return None
        whose = {"metadata": {"namespace": key[0], "name": key[1]}}
        backends = read_service(whose, [item]).backends
    except PolicyError as error:
        log.warning("EndpointSlice %s left out: %s", "/".join(key_of(item)), error)
        return None
    return SliceRow(key, backends) if backends else None


class References:
    """Keeps `state.groups` and `state.services`. Each method returns whether the state changed."""

    def __init__(self, state: ClusterState) -> None:
        self.judged: Callable[[Held], None] = lambda held: None
        self.unreadable: dict[str, str] = {}
        """Groups that cannot be read, with field and reason."""
        self._state = state
        self._services: dict[ServiceKey, Service] = {}
        self._slices: dict[ServiceKey, dict[tuple[str, str], tuple[bytes, ...]]] = {}

    def groups(self, changes: Sequence[Change[Document]]) -> bool:
        """Take up changed CiliumCIDRGroups."""
        changed = False
        for change in changes:
            name = change.key[1]
            if change.new is None:
                self.unreadable.pop(name, None)
                changed |= self._state.groups.delete(name)
                continue
            held = Held(PolicyKey("CiliumCIDRGroup", "", name), CILIUM_CIDR_GROUPS, change.new)
            try:
                changed |= self._state.groups.put(name, read_group(change.new))
                self.unreadable.pop(name, None)
            except PolicyError as error:
                held.error = self.unreadable[name] = str(error)
                log.warning("%s stays as it was: %s", held.key, error)
            if change.old is None or _spec(change.old) != _spec(change.new):
                self.judged(held)
        return changed

    def services(self, changes: Sequence[Change[Service]]) -> bool:
        """Take up changed Services."""
        for change in changes:
            if change.new is None:
                self._services.pop(change.key, None)
            else:
                self._services[change.key] = change.new
        return any([self._join(change.key) for change in changes])

    def slices(self, changes: Sequence[Change[SliceRow]]) -> bool:
        """Take up changed EndpointSlices."""
        touched: set[ServiceKey] = set()
        for change in changes:
            if change.old is not None:
                touched.add(change.old.service)
                rows = self._slices.get(change.old.service, {})
                rows.pop(change.key, None)
                if not rows:
                    self._slices.pop(change.old.service, None)
            if change.new is not None:
                touched.add(change.new.service)
                self._slices.setdefault(change.new.service, {})[change.key] = change.new.backends
        return any([self._join(key) for key in sorted(touched)])

    def _join(self, key: ServiceKey) -> bool:
        service = self._services.get(key)
        if service is None:
            return self._state.services.delete(key)
        if service.selector is None:
            backends = {ip for rows in self._slices.get(key, {}).values() for ip in rows}
            service = replace(service, backends=tuple(sorted(backends)))
        return self._state.services.put(key, service)


def _spec(document: Document) -> object:
    return document.get("spec")
