"""Fixtures of the packet tests: nodes that live in network namespaces of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# bench.testnode is shared with the benchmark and is no part of the installed package
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.testnode import V4, V6, Addresses, Node

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with tunnel routing and BPF host routing, both families, no policy."""
    made = Node()
    yield made
    made.close()


@pytest.fixture
def native() -> Iterator[Node]:
    """A node with native routing and BPF host routing."""
    made = Node({"cfg_tunnel": 0})
    yield made
    made.close()


@pytest.fixture
def legacy() -> Iterator[Node]:
    """A node with native routing that leaves what leaves it to the kernel."""
    made = Node({"cfg_tunnel": 0, "cfg_host_routing": 0})
    yield made
    made.close()


@pytest.fixture(params=[V4, V6], ids=["ipv4", "ipv6"])
def at(request: pytest.FixtureRequest) -> Addresses:
    """Both families, one after the other."""
    return request.param
