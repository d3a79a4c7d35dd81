"""Whose an address is: the C in the kernel says the same as the lookup over map bytes.

That the lookup says what the first judge is told, `test_places` proves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from fimbria.compile.delta import CIDR, IPCACHE, LXC
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from tests.property.judges import seen
from tests.property.worlds import World, worlds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fimbria.kernel.loader import LoadedObject

BATCH = 256
CASE: np.dtype[np.void] = np.dtype(
    [("address", "V16"), ("family", "<u4"), ("identity", "<u4"), ("cidr", "<u4"), ("pad", "<u4")]
)
"""struct identify_case."""
Settings = tuple[bool, bool, bool]
"""IPv6, and policy-cidr-match-mode nodes and pods."""


class Identifier:
    """The C, loaded once for each of its settings."""

    def __init__(self) -> None:
        self._loaded: dict[Settings, LoadedObject] = {}

    def ask(
        self, chosen: Settings, maps: Mapping[str, Mapping[bytes, bytes]], ips: list[bytes]
    ) -> list[tuple[int, int]]:
        """Return identity and CIDR identity of each address, with these maps."""
        from fimbria.kernel.bpf import test_run

        loaded = self._load(chosen)
        for name in (IPCACHE, LXC, CIDR):
            held = loaded.maps[name]
            held.delete_many(list(held.keys()))
            held.put_many(maps[name])
        cases = np.zeros(BATCH, CASE)
        mapped = [ip if len(ip) == 16 else bytes(10) + b"\xff\xff" + ip for ip in ips]
        cases["address"][: len(ips)] = np.frombuffer(b"".join(mapped), "V16")
        cases["family"][: len(ips)] = [1 if len(ip) == 4 else 2 for ip in ips]
        batch = loaded.maps["identify_cases"]
        batch.put(bytes(4), len(ips).to_bytes(8, "little") + cases.tobytes())
        assert test_run(loaded.programs["identify"].fd, bytes(14)).retval == 0
        done = batch.get(bytes(4))
        assert done is not None
        rows = np.frombuffer(done, CASE, len(ips), 8)
        return list(zip(rows["identity"].tolist(), rows["cidr"].tolist(), strict=True))

    def _load(self, chosen: Settings) -> LoadedObject:
        from fimbria.kernel import objects_dir
        from fimbria.kernel.loader import load_object

        if chosen not in self._loaded:
            names = ("cfg_ipv6", "cfg_cidr_nodes", "cfg_cidr_pods")
            constants: dict[str, int | bytes] = dict(zip(names, map(int, chosen), strict=True))
            path = objects_dir() / "tests" / "identify.o"
            self._loaded[chosen] = load_object(path, constants=constants)
        return self._loaded[chosen]

    def close(self) -> None:
        for loaded in self._loaded.values():
            loaded.close()


@pytest.fixture(scope="module")
def identifier() -> Iterator[Identifier]:
    made = Identifier()
    yield made
    made.close()


@pytest.mark.root
@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(world=worlds(packets=0))
def test_identities(identifier: Identifier, world: World) -> None:
    """Every address of a world, and around its prefixes, has one identity in both."""
    compiler = Compiler(world.state(), Ids())
    compiler.update()
    maps, config = compiler.desired().maps, world.config
    ips = sorted(set(world.addresses()))
    chosen = config.ipv6, "nodes" in config.cidr_match, "pods" in config.cidr_match
    assert identifier.ask(chosen, maps, ips) == [
        seen(maps, ip, config.ipv6, config.cidr_match) for ip in ips
    ]
