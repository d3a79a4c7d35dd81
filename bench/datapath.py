"""What the datapath's programs cost, in units of one hash lookup (H) of the same run.

BPF_PROG_TEST_RUN repeats a program on one packet; a thin wrapper (bpf/tests/bench_*.bpf.c) makes
the packet new each time, and its own cost is taken off. All measurements are interleaved, so that
whatever else the machine does falls on all of them, and medians are compared. Test runs leave out
the redirect itself, the driver, and the making of packets.

Three nodes are measured: one with established flows, one whose half-open table only ever grows
(new flows), and one whose entries were used before, which lie scattered in memory as in a
long-lived table.
"""

from __future__ import annotations

import statistics
import struct
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
from fimbria.kernel.loader import LoadedObject, load_object
from fimbria.kernel.netns import run_in

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 15
REPEAT = 20_000
NEW = 4_000  # new flows per round; all rounds' fit the half-open table
MANY = 10_000
ENTRIES = 10_000
ALL_FLOWS = 8 << 16
TABLE, GROWING = 524_288, 262_144
SYN, ACK = 0x02, 0x10
PORT, PORT_SHAPE = 8080, 14  # 8080 to 8087, as the wrapper sends
NATIVE4 = "10.0.4.20"  # a pod of another node that is reached without a tunnel


def tcp(source: str, target: str, flags: int, dst_mac: str) -> bytes:
    """An Ethernet frame with a TCP segment without data."""
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


def allow(identity: int, egress: bool, rule: int) -> dict[abi.PolicyKey, abi.PolicyEntry]:
    """One rule for the ports that the wrapper sends to."""
    shape = PORT_SHAPE | (abi.PolicyShape.EGRESS if egress else 0)
    return {abi.PolicyKey(identity, PORT, 6, shape): abi.PolicyEntry(rule_id=rule)}


@dataclass
class Case:
    """One thing to measure; `ready` is called before each round, outside the measurement."""

    name: str
    netns: int
    program: int
    base: int
    packet: bytes
    ctx: bytes
    limit: float | None
    ready: Callable[[], object]
    repeat: int

    def measure(self, program: int, repeat: int) -> int:
        """Nanoseconds per repetition."""
        return run_in(
            self.netns,
            lambda: test_run(
                program, self.packet, ctx=self.ctx, repeat=repeat, data_out=0, ctx_out=0
            ),
        ).duration_ns


class Bench:
    """A node under measurement: one rule per direction, 250 addresses in the ipcache."""

    def __init__(self) -> None:
        self.node = Node(ct_size=TABLE, ct_new_size=GROWING)
        self.flows: dict[tuple[str, int], tuple[int, int]] = {}
        self._objects: list[LoadedObject] = []
        self.node.policy(3, INGRESS | EGRESS, allow(REMOTE_ID, True, 20) | allow(1002, True, 21))
        self.node.policy(4, INGRESS | EGRESS, allow(REMOTE_ID, False, 22) | allow(1001, False, 23))
        self.node.policy(5, INGRESS | EGRESS)
        own = allow(REMOTE_ID, True, 20)
        many = (allow(10_000 + i, True, 20) for i in range(ENTRIES - 1))
        self.node.policy(6, EGRESS, {k: e for part in (own, *many) for k, e in part.items()})
        open_egress = EGRESS | abi.PolicyFlags.EGRESS_OPEN
        self.node.policy(9, open_egress, allow(REMOTE_ID, True, 20))
        self.node.policy(8, open_egress, allow(10_000, True, 20), next_id=9)
        self.node.policy(7, open_egress, allow(10_000, True, 20), next_id=8)
        self.node.assign(B, 4)
        self.node.ipcache(NATIVE4, REMOTE_ID)
        for i in range(4, 250):
            self.node.ipcache(f"10.0.3.{i}", 2000 + i, PEER4)

    def programs(self, hook: str, flows: int) -> tuple[int, int]:
        """Wrapper and base program for one number of flows."""
        if (hook, flows) not in self.flows:
            loaded = load_object(
                objects_dir() / "tests" / f"bench_{hook}.o",
                constants={**self.node.constants, "bench_flows": flows},
                map_fds=self.node.maps,
                programs=(f"bench_{hook}", "bench_base"),
            )
            self._objects.append(loaded)
            by_name = loaded.programs
            self.flows[hook, flows] = by_name[f"bench_{hook}"].fd, by_name["bench_base"].fd
        return self.flows[hook, flows]

    def drain(self) -> None:
        """An empty ring buffer."""
        while self.node.ring.pending:
            self.node.ring.drain()

    def forget(self) -> None:
        """An empty half-open table."""
        table = self.node.maps["cilium_ct_new"]
        table.delete_many(list(table.keys()))

    def answer(self) -> None:
        """Every half-open connection moves, as with the other side's first packet."""
        rows = dict(sorted(self.node.maps["cilium_ct_new"].items().items()))
        self.node.maps["cilium_ct"].put_many(rows)
        self.forget()

    def case(
        self,
        name: str,
        limit: float | None,
        hook: str,
        packet: bytes,
        device: str,
        *,
        flows: int = 0,
        new: bool = False,
        reuse: bool = False,
        policy: int = 3,
        vni: int = 0,
        outer: str = "0.0.0.0",
    ) -> Case:
        """A case of established flows, or of `new` ones, on entries used before with `reuse`."""

        def ready() -> None:
            self.node.assign(A, policy)
            if reuse:
                self.forget()
            self.drain()
            if not new:
                case.measure(case.program, max(flows, 1) * 2)
                self.answer()

        program, base = self.programs(hook, flows)
        ctx = self.node.context(device, vni, outer)
        repeat = NEW if new else REPEAT
        case = Case(name, self.node.netns, program, base, packet, ctx, limit, ready, repeat)
        return case

    def established(self) -> list[Case]:
        """Cases of flows that the table has, and of policy drops."""
        remote, local = tcp(A.ip4, REMOTE4, ACK, A.node_mac), tcp(A.ip4, B.ip4, ACK, A.node_mac)
        inside, wire = tcp(REMOTE4, B.ip4, ACK, B.node_mac), tcp(NATIVE4, B.ip4, ACK, B.node_mac)
        syn = tcp(A.ip4, REMOTE4, SYN, A.node_mac)
        pod, device = "from_container", A.device
        many = "the same, 10,000 flows in turn"
        into = "established, to local pod"
        return [
            self.case("from_container, established, VXLAN", 4.5, pod, remote, device),
            self.case(many, 9, pod, remote, device, flows=MANY),
            self.case("from_container, established, same node", 4, pod, local, device),
            self.case(
                f"from_overlay, {into}",
                5,
                "from_overlay",
                inside,
                "cilium_vxlan",
                vni=REMOTE_ID,
                outer=PEER4,
            ),
            self.case(f"from_netdev, {into}", 5, "from_netdev", wire, "eth0"),
            self.case("policy drop with its event", 9, pod, syn, device, new=True, policy=5),
        ]

    def opening(self, *, reuse: bool) -> list[Case]:
        """Cases of new flows, with events; limits only for a table that was not used before."""
        remote, local = tcp(A.ip4, REMOTE4, SYN, A.node_mac), tcp(A.ip4, B.ip4, SYN, A.node_mac)
        tail = ", entries used before" if reuse else ""
        cases: list[tuple[str, float, bytes, int]] = [
            ("to another node", 22.0, remote, 3),
            ("on the same node", 26.0, local, 3),
        ]
        if not reuse:
            cases += [
                ("to another node, 10,000 policy entries", 24.0, remote, 6),
                ("to another node, three tiers", 26.0, remote, 7),
            ]
        return [
            self.case(
                f"new flow {where}{tail}",
                None if reuse else limit,
                "from_container",
                packet,
                A.device,
                flows=ALL_FLOWS,
                new=True,
                reuse=reuse,
                policy=policy,
            )
            for where, limit, packet, policy in cases
        ]

    def close(self) -> None:
        for loaded in self._objects:
            loaded.close()
        self.node.close()


def load_time() -> float:
    """Milliseconds of CPU to load and verify all hooks' programs onto maps that are there."""
    node = Node()
    try:
        start = time.process_time()
        for name in PROGRAMS:
            node.load(name)
        return (time.process_time() - start) * 1e3
    finally:
        node.close()


def collect(cases: list[Case], unit: LoadedObject) -> tuple[dict[str, float], dict[str, float]]:
    """Units in ns, and net ns by case name: medians of interleaved rounds."""
    units: dict[str, list[int]] = {name: [] for name in unit.programs}
    times: dict[str, list[int]] = {case.name: [] for case in cases}
    for _ in range(ROUNDS):
        for name, program in unit.programs.items():
            units[name].append(cases[0].measure(program.fd, REPEAT))
        for case in cases:
            case.ready()
            base = case.measure(case.base, case.repeat)
            times[case.name].append(case.measure(case.program, case.repeat) - base)
    empty = statistics.median(units["empty"])
    return (
        {name: statistics.median(values) - empty for name, values in units.items()},
        {name: statistics.median(values) for name, values in times.items()},
    )


def row(name: str, value: float, unit: float, limit: float | None) -> Row:
    """A row in ns whose ratio is in H."""
    ratio = value / unit
    return Row(
        name=name,
        value=value,
        unit="ns",
        baseline=unit,
        baseline_name="H",
        ratio=ratio,
        target="" if limit is None else f"≤ {limit:g} H",
        met=None if limit is None else ratio <= limit,
    )


def rows() -> list[Row]:
    """The table's rows; values in ns net of an empty run, ratios in H."""
    steady, fresh, used = Bench(), Bench(), Bench()
    unit = load_object(objects_dir() / "tests" / "unit.o")
    for i in range(1000):  # the lookup that is H finds what it looks for, among others
        unit.maps["table"].put(struct.pack("=QQ", 1, 2 + i), bytes(8))
    try:
        cases = steady.established() + fresh.opening(reuse=False) + used.opening(reuse=True)
        units, net = collect(cases, unit)
    finally:
        unit.close()
        for bench in (steady, fresh, used):
            bench.close()
    h = units["one_lookup"]
    found = [row(case.name, net[case.name], h, case.limit) for case in cases]
    found.append(row("one insert into a table like conntrack's", units["one_insert"], h, None))
    loading = statistics.median(load_time() for _ in range(3))
    name = "programs loaded and verified, all hooks, CPU"
    found.append(Row(name, loading, "ms", target="≤ 150", met=loading <= 150))
    return found


if __name__ == "__main__":
    from rich.console import Console

    from bench.__main__ import show

    show(Console(width=150), "datapath", rows())
    sys.exit(0)
