"""What the datapath's programs cost, in units of one hash lookup (H) of the same run.

BPF_PROG_TEST_RUN repeats a program on one packet; a thin wrapper (bpf/tests/bench_*.bpf.c) makes
the packet new each time, and its own cost is taken off. All measurements are interleaved, so that
whatever else the machine does falls on all of them, and medians are compared. Test runs leave out
the redirect itself, the driver, and the making of packets.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from bench.row import Row
from bench.testnode import (
    EGRESS,
    INGRESS,
    PEER4,
    PROGRAMS,
    REMOTE4,
    REMOTE_ID,
    A,
    B,
    Node,
    mac,
)
from fimbria.datapath import abi
from fimbria.kernel import objects_dir
from fimbria.kernel.bpf import test_run
from fimbria.kernel.loader import load_object
from fimbria.kernel.netns import run_in

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 15
REPEAT = 20_000
MANY = 10_000
SYN, ACK = 0x02, 0x10
PORT = 8080
NATIVE4 = "10.0.4.20"  # a pod of another node that is reached without a tunnel


def tcp(source: str, target: str, flags: int, dst_mac: str) -> bytes:
    """An Ethernet frame with a TCP segment without data; source port 1024."""
    ip = bytearray(20)
    ip[0], ip[8], ip[9] = 0x45, 64, 6
    ip[2:4] = (40).to_bytes(2, "big")
    ip[12:16], ip[16:20] = ip_address(source).packed, ip_address(target).packed
    total = sum(int.from_bytes(ip[i : i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = ((~total) & 0xFFFF).to_bytes(2, "big")
    ports = (1024).to_bytes(2, "big") + PORT.to_bytes(2, "big")
    head = ports + bytes(8) + bytes([0x50, flags]) + bytes(6)
    return mac(dst_mac) + mac(A.mac) + b"\x08\x00" + bytes(ip) + head


@dataclass
class Case:
    """One thing to measure; `ready` is called before each round, outside the measurement."""

    name: str
    program: int
    base: int
    packet: bytes
    ctx: bytes
    limit: float
    ready: Callable[[], object]
    repeat: int = REPEAT


def allow(identity: int, egress: bool, rule: int) -> dict[abi.PolicyKey, abi.PolicyEntry]:
    shape = abi.PolicyShape.PORT | (abi.PolicyShape.EGRESS if egress else 0)
    return {abi.PolicyKey(identity, PORT, 6, shape): abi.PolicyEntry(rule_id=rule)}


class Bench:
    """The node under measurement and its cases."""

    def __init__(self) -> None:
        self.node = Node(ct_size=524_288)
        self.flows: dict[int, dict[str, tuple[int, int]]] = {}
        self._objects = [load_object(objects_dir() / "tests" / "unit.o")]
        unit = self._objects[0].programs
        self.empty, self.lookup = unit["empty"].fd, unit["one_lookup"].fd
        self.node.policy(3, INGRESS | EGRESS, allow(REMOTE_ID, True, 20) | allow(1002, True, 21))
        self.node.policy(4, INGRESS | EGRESS, allow(REMOTE_ID, False, 22) | allow(1001, False, 23))
        self.node.policy(5, INGRESS | EGRESS)
        self.node.assign(A, 3)
        self.node.assign(B, 4)
        self.node.ipcache(NATIVE4, REMOTE_ID)
        for i in range(4, 250):
            self.node.ipcache(f"10.0.3.{i}", 2000 + i, PEER4)

    def programs(self, name: str, flows: int) -> tuple[int, int]:
        """Wrapper and base program for one number of flows."""
        known = self.flows.setdefault(flows, {})
        if name not in known:
            constants = {**self.node.constants, "bench_flows": flows}
            loaded = load_object(
                objects_dir() / "tests" / f"bench_{name}.o",
                constants=constants,
                map_fds={k: v for k, v in self.node.maps.items() if k != "flow_scratch"},
                programs=(f"bench_{name}", "bench_base"),
            )
            self._objects.append(loaded)
            by_name = loaded.programs
            known[name] = by_name[f"bench_{name}"].fd, by_name["bench_base"].fd
        return known[name]

    def drain(self) -> None:
        while self.node.ring.pending:
            self.node.ring.drain()

    def forget(self) -> None:
        """An empty conntrack table."""
        table = self.node.maps["cilium_ct"]
        table.delete_many(list(table.keys()))
        self.drain()

    def case(
        self, name: str, limit: float, hook: str, packet: bytes, device: str, *, flows: int = 0,
        new: bool = False, policy: int = 3, vni: int = 0, outer: str = "0.0.0.0",
    ) -> Case:  # fmt: skip
        program, base = self.programs(hook, flows)
        ctx = self.node.context(device, vni, outer)

        def ready() -> None:
            self.node.assign(A, policy)
            if new:
                self.forget()
            else:
                self.drain()
                self.measure(program, packet, ctx, max(flows, 1) * 2)

        return Case(name, program, base, packet, ctx, limit, ready)

    def measure(self, program: int, packet: bytes, ctx: bytes, repeat: int) -> int:
        """Nanoseconds per repetition."""
        return run_in(
            self.node.netns,
            lambda: test_run(program, packet, ctx=ctx, repeat=repeat, data_out=0, ctx_out=0),
        ).duration_ns

    def cases(self) -> list[Case]:
        remote, local = tcp(A.ip4, REMOTE4, ACK, A.node_mac), tcp(A.ip4, B.ip4, ACK, A.node_mac)
        arriving = tcp(REMOTE4, B.ip4, ACK, B.node_mac)
        syn, syn_local = tcp(A.ip4, REMOTE4, SYN, A.node_mac), tcp(A.ip4, B.ip4, SYN, A.node_mac)
        tunnel = {"vni": REMOTE_ID, "outer": PEER4}
        pod, wire, overlay = "from_container", "from_netdev", "from_overlay"
        return [
            self.case("from_container, established, VXLAN", 4.5, pod, remote, A.device),
            self.case(
                "the same, 10,000 flows in turn", 9, pod, remote, A.device, flows=MANY
            ),
            self.case("from_container, established, same node", 4, pod, local, A.device),
            self.case(
                "from_overlay, established, to local pod", 5, overlay, arriving,
                "cilium_vxlan", **tunnel,
            ),
            self.case("from_netdev, established, to local pod", 5, wire,
                tcp(NATIVE4, B.ip4, ACK, B.node_mac), "eth0"),
            self.case(
                "new flow to another node", 22, pod, syn, A.device, flows=2 * REPEAT, new=True
            ),
            self.case(
                "new flow on the same node", 26, pod, syn_local, A.device, flows=2 * REPEAT,
                new=True,
            ),
            self.case("policy drop with its event", 9, pod, syn, A.device, new=True, policy=5),
        ]  # fmt: skip

    def close(self) -> None:
        for loaded in self._objects:
            loaded.close()
        self.node.close()


def load_time() -> float:
    """Milliseconds to load and verify all hooks' programs onto maps that are there."""
    node = Node()
    try:
        start = time.perf_counter()
        for name in PROGRAMS:
            node.load(name)
        return (time.perf_counter() - start) * 1e3
    finally:
        node.close()


def collect(bench: Bench) -> tuple[list[Case], float, dict[str, float]]:
    """Cases, H in ns, and net ns per case: medians of interleaved rounds."""
    cases = bench.cases()
    packet, ctx = cases[0].packet, cases[0].ctx
    units: dict[str, list[int]] = {"empty": [], "lookup": []}
    times: dict[str, list[int]] = {case.name: [] for case in cases}
    for _ in range(ROUNDS):
        units["empty"].append(bench.measure(bench.empty, packet, ctx, REPEAT))
        units["lookup"].append(bench.measure(bench.lookup, packet, ctx, REPEAT))
        for case in cases:
            case.ready()
            base = bench.measure(case.base, case.packet, case.ctx, case.repeat)
            whole = bench.measure(case.program, case.packet, case.ctx, case.repeat)
            times[case.name].append(whole - base)
    unit = statistics.median(units["lookup"]) - statistics.median(units["empty"])
    return cases, unit, {name: statistics.median(values) for name, values in times.items()}


def rows() -> list[Row]:
    """The table's rows; values in ns net of an empty run, ratios in H."""
    bench = Bench()
    try:
        cases, unit, net = collect(bench)
    finally:
        bench.close()
    found = [
        Row(
            name=case.name,
            value=net[case.name],
            unit="ns",
            baseline=unit,
            baseline_name="H",
            ratio=net[case.name] / unit,
            target=f"≤ {case.limit:g} H",
            met=net[case.name] / unit <= case.limit,
        )
        for case in cases
    ]
    loading = statistics.median(load_time() for _ in range(3))
    found.append(
        Row(
            "programs loaded and verified, all hooks",
            loading,
            "ms",
            target="≤ 150",
            met=loading <= 150,
        )
    )
    return found


if __name__ == "__main__":
    from rich.console import Console

    from bench.__main__ import show

    show(Console(width=150), "datapath", rows())
    sys.exit(0)
