"""Several objects send one packet to different proxies: rules and maps choose the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import NodeConfig
from fimbria.model.policy import DIRECTIONS
from tests.property.judges import judge
from tests.property.strategies import PodRow
from tests.property.worlds import Packet, World

if TYPE_CHECKING:
    from tests.property.manifests import Document

NAMESPACE = "k8s:io.kubernetes.pod.namespace=red"
PODS = [
    PodRow(("k8s:app=web", NAMESPACE), 300, (("http", 6, 80),)),
    PodRow(("k8s:app=db", NAMESPACE), 301, (("http", 6, 81),)),
    PodRow(("k8s:app=db", NAMESPACE), 301, (("http", 6, 81),)),
]
PORTS: list[Document] = [
    {"port": "80"}, {"port": "81"}, {"port": "80", "endPort": 82}, {"port": "64", "endPort": 127},
    {"port": "http"}, {"port": "1", "endPort": 65535},
]  # fmt: skip
PARSERS: list[Document] = [
    {"rules": {"http": [{}]}}, {"rules": {"kafka": [{"topic": "t"}]}}, {"serverNames": ["a"]},
]  # fmt: skip


@st.composite
def policies(draw: st.DrawFn) -> list[Document]:
    """Policies with a rule each, all about the same few ports and peers."""
    found: list[Document] = []
    for index in range(draw(st.integers(2, 5))):
        egress = draw(st.booleans())
        end = "to" if egress else "from"
        whom: Document = draw(st.sampled_from([
            {}, {f"{end}Endpoints": [{}]}, {f"{end}CIDR": ["10.0.0.0/8"]},
            {f"{end}CIDR": ["10.0.2.0/24"]}, {f"{end}Entities": ["world"]},
            {f"{end}CIDR": ["192.0.2.0/24"]}, {f"{end}Entities": ["remote-node"]},
            {f"{end}CIDR": ["172.18.0.0/16"]},
        ]))  # fmt: skip
        parser = draw(st.sampled_from([*PARSERS, *PARSERS, {}]))
        port = {**draw(st.sampled_from(PORTS)), "protocol": "TCP"}
        rule = {**whom, "toPorts": [{"ports": [port], **parser}]}
        found.append({
            "kind": "CiliumNetworkPolicy", "metadata": {"name": f"p{index}", "namespace": "red"},
            "spec": {"endpointSelector": {}, "egress" if egress else "ingress": [rule]},
        })  # fmt: skip
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies(), st.sets(st.sampled_from(["nodes", "pods"])))
def test_one_proxy(documents: list[Document], match: set[str]) -> None:
    """The rule whose port is closest, then whose peer is; `judge` compares proxies."""
    peers = [bytes([10, 0, 2, 2]), bytes([10, 0, 2, 3]), bytes([192, 0, 2, 1]),
             bytes([198, 51, 100, 1]), bytes([172, 18, 0, 2])]  # fmt: skip
    packets = [
        Packet(1, peer, way, 6, port)
        for peer in peers
        for way in DIRECTIONS
        for port in (64, 80, 81, 82, 83, 128)
    ]
    config = NodeConfig(cidr_match=frozenset(match))
    world = World(config, PODS, 1, init=False, policies=documents, packets=packets)
    assert all(policy.refusal is None for policy in world.parsed())
    compiler = Compiler(world.state(), Ids())
    compiler.update()
    judge(compiler, world)
