"""Whatever manifests say: an error with its place, or a world in which every flow has an answer."""

from __future__ import annotations

import copy
from random import Random
from typing import TYPE_CHECKING, Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimbria.analysis import Engine, Flow, Result, from_documents
from tests.unit.analysis.test_analysis_eval import ROWS, WORLD

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE = """\
apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {name: x, namespace: d}
status:
  identity: {id: 4711, labels: ["k8s:app=x"]}
  networking: {addressing: [{ipv4: 10.1.1.1}], node: 1.2.3.4}
  named-ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: cilium.io/v2
kind: CiliumIdentity
metadata: {name: "4711"}
security-labels: {"k8s:app": x}
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1}
spec: {addresses: [{type: InternalIP, ip: 1.2.3.4}], ipam: {podCIDRs: [10.0.0.0/24]}}
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: g}
spec: {externalCIDRs: [9.0.0.0/8]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: k, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [1.1.1.1]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {a: b}}
"""
DOCUMENTS: list[Any] = [*yaml.safe_load_all(WORLD), *yaml.safe_load_all(MORE)]
JUNK: list[Any] = [
    None, "", 0, -1, 1 << 70, 1.5, True, [], {}, [None], {"": ""}, "\0", "x" * 300, {"a": None},
    ["a"], "10.0.0.0/33", "\u00e9=:",
]  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all fields and items."""
    rows = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in rows:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*path, key))


def damage(document: Any, dice: Random) -> None:
    """Take a field away, add one, or put something else into it."""
    *path, last = dice.choice(list(paths(document)))
    for key in path:
        document = document[key]
    way = dice.randrange(3) if isinstance(document, dict) else 2
    if way == 0:
        del document[last]
    else:
        document[last if way == 2 else dice.choice(["", "zz", 5])] = dice.choice(JUNK)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 32))
def test_any_manifest(seed: int) -> None:
    """A damaged document is an error with its place, or counts; flows are answered either way."""
    dice = Random(seed)
    documents = copy.deepcopy(DOCUMENTS)
    for _ in range(dice.randrange(1, 4)):
        damage(dice.choice(documents), dice)
    world = from_documents(documents, origin="here")
    assert all(str(one).startswith("here:1: ") for one in (*world.errors, *world.warnings))
    engine = Engine(world, cidr_match=("nodes", "pods"))
    answers = list(engine.eval_many(Flow(*row[:4]) for row in ROWS))
    assert len(answers) == len(ROWS)
    assert all(isinstance(one, Result) or str(one) for one in answers)
