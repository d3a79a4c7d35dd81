"""What the cluster's controllers look at, and what they want done.

Each is a pure function from one snapshot to actions, which `controllers` carries out. New objects
get names that the same snapshot always yields, so an action repeated because a watch lags behind
meets AlreadyExists and does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fimbria.lab.objects import Document

if TYPE_CHECKING:
    from fimbria.sources.resources import Resource

Rows = dict[tuple[str, str], Document]


@dataclass
class Snapshot:
    """The cluster's objects by (namespace, name)."""

    nodes: Rows = field(default_factory=dict[tuple[str, str], Document])
    pods: Rows = field(default_factory=dict[tuple[str, str], Document])
    deployments: Rows = field(default_factory=dict[tuple[str, str], Document])
    replica_sets: Rows = field(default_factory=dict[tuple[str, str], Document])
    daemon_sets: Rows = field(default_factory=dict[tuple[str, str], Document])
    services: Rows = field(default_factory=dict[tuple[str, str], Document])
    endpoints: Rows = field(default_factory=dict[tuple[str, str], Document])
    slices: Rows = field(default_factory=dict[tuple[str, str], Document])


@dataclass(frozen=True)
class Action:
    """One write: create, patch (merge), status (merge patch of it), delete, bind (body: node)."""

    verb: Literal["create", "patch", "status", "delete", "bind"]
    resource: Resource[Document]
    namespace: str
    name: str
    body: Any = None
