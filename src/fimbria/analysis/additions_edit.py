"""What an addition is made of: one object edited, and the half of a flow that it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fimbria.analysis.engine import Engine
from fimbria.model.labels import CLUSTER
from fimbria.model.policy_parse import parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.analysis.additions_check import Scope
    from fimbria.analysis.additions_text import Document
    from fimbria.analysis.places import Place
    from fimbria.analysis.results import Half
    from fimbria.analysis.world import World
    from fimbria.datapath.abi import Direction
    from fimbria.model.policy import Policy, PolicyKey

STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
"""A step of a field's path: a name, or an index."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One object changed. `document` is what it becomes, None if it goes.

    `verb` is create, add or remove, `path` the field that is added or removed ("" for a whole
    object), and `text` the object, or the part, as plain JSON. `scope` is what it names. Edits of
    one addition follow each other: `path` is that in the object as those before have left it.
    """

    verb: str
    policy: PolicyKey
    path: str
    text: Any
    document: Document | None
    scope: Scope

    def applied(self, world: World) -> World:
        """Return the world with the object as the edit makes it."""
        policies, manifests = dict(world.policies), dict(world.manifests)
        manifests.pop(self.policy, None)
        policies.pop(self.policy, None)
        if self.document is not None:
            policies[self.policy] = parsed(world, self.document)
        return replace(world, policies=policies, manifests=manifests)


class NoAddition(Exception):
    """Nothing can be added that turns a verdict; the message says why."""


class Asked(NamedTuple):
    """One half of a flow: whose policy is asked about whom."""

    own: Place
    other: Place
    direction: Direction
    protocol: int
    port: int
    half: Half


def parsed(world: World, document: Document) -> Policy:
    """Return an object as a world's other policies were read."""
    return parse_policy(document, cluster=cluster(world), node_labels=world.node_labels)


def cluster(world: World) -> str:
    """Return the name of a world's cluster, from the labels of its pods."""
    start = f"k8s:{CLUSTER}="
    labels = (label for pod in world.pods.values() for label in pod.labels)
    return next((one.removeprefix(start) for one in labels if one.startswith(start)), "default")


def edited(engine: Engine, edits: Iterable[Edit]) -> Engine:
    """Return an engine like another, with the world as edits make it."""
    world = engine.world
    for edit in edits:
        world = edit.applied(world)
    match, firewall = engine.state.config.cidr_match, engine.host_firewall
    return Engine(world, engine.mode, match, host_firewall=firewall)


def at(document: Document, path: str) -> Any:
    """Return the field of an object that a path names."""
    value: Any = document
    for name, index in STEP.findall(path):
        value = value[name] if name else value[int(index)]
    return value
