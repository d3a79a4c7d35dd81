"""`fimbria bpf …` on pinned maps, without an agent."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath import abi
from fimbria.kernel import bpffs
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

POD = bytes([10, 0, 0, 210]) + bytes(12)
ENTRY = (
    abi.PolicyKey(identity=300, dport=80, protocol=6, shape=17),
    abi.PolicyEntry(rule_id=16),
)


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


@pytest.fixture
def bpf_root() -> Iterator[str]:
    """A node's maps in a BPF file system that is mounted nowhere: one pod, one policy."""
    fd = bpffs.detached()
    folder = bpffs.folder(fd) / "tc" / "globals"
    folder.mkdir(parents=True)

    def make(name: str, type: MapType, key: int, value: int, inner: BpfMap | None = None) -> BpfMap:
        size = 1024 if type == MapType.PERCPU_ARRAY else 16
        made = BpfMap.create(
            type, key_size=key, value_size=value, max_entries=size, name=name[:15], inner=inner,
            flags=1 if type == MapType.LPM_TRIE else 0,
        )  # fmt: skip
        made.pin(folder / name)
        return made

    endpoint = abi.EndpointInfo(ifindex=5, lxc_id=7, sec_id=301)
    lxc = make("cilium_lxc", MapType.HASH, abi.EndpointKey.SIZE, abi.EndpointInfo.SIZE)
    lxc.put(abi.EndpointKey(ip=POD, family=1).pack(), endpoint.pack())
    ipcache = make("cilium_ipcache", MapType.LPM_TRIE, abi.IpcacheKey.SIZE, abi.IpcacheInfo.SIZE)
    ipcache.put(
        abi.IpcacheKey(prefixlen=64, family=1, ip=POD).pack(),
        abi.IpcacheInfo(sec_identity=301, tunnel_endpoint=0xAC120002).pack(),
    )
    connections = make("cilium_ct", MapType.LRU_HASH, abi.CtKey.SIZE, abi.CtEntry.SIZE)
    connections.put(abi.CtKey(protocol=6).pack(), abi.CtEntry(src_lxc=7).pack())
    half_open = make("cilium_ct_new", MapType.LRU_HASH, abi.CtKey.SIZE, abi.CtEntry.SIZE)
    half_open.put(abi.CtKey(protocol=17).pack(), abi.CtEntry(src_lxc=7).pack())
    metrics = make("cilium_metrics", MapType.PERCPU_ARRAY, 4, abi.MetricsValue.SIZE)
    stats = make("cilium_rule_stats", MapType.PERCPU_ARRAY, 4, abi.MetricsValue.SIZE)
    cpus = metrics.slot_size // abi.MetricsValue.SIZE
    one_each = abi.MetricsValue(count=1, bytes=100).pack() * cpus
    metrics.put(u32(133 | abi.Direction.INGRESS << 8), one_each)
    stats.put(u32(16), one_each)
    refs = make("cilium_policy_ref", MapType.ARRAY, 4, abi.PolicyRef.SIZE)
    refs.put(u32(7), abi.PolicyRef(policy_id=2).pack())
    infos = make("cilium_policy_info", MapType.ARRAY, 4, abi.PolicyInfo.SIZE)
    infos.put(u32(2), abi.PolicyInfo(flags=1, peer_shapes=(1 << 17, 0), next_id=3).pack())
    infos.put(u32(3), abi.PolicyInfo(flags=1, peer_shapes=(1 << 17, 0)).pack())
    inner = BpfMap.create(
        MapType.HASH, key_size=abi.PolicyKey.SIZE, value_size=abi.PolicyEntry.SIZE, max_entries=16
    )
    inner.put(ENTRY[0].pack(), ENTRY[1].pack())
    policies = make("cilium_policy", MapType.ARRAY_OF_MAPS, 4, 4, inner)
    following = BpfMap.create(
        MapType.HASH, key_size=abi.PolicyKey.SIZE, value_size=abi.PolicyEntry.SIZE, max_entries=16
    )
    following.put(ENTRY[0].pack(), ENTRY[1]._replace(flags=abi.PolicyEntryFlags.DENY).pack())
    policies.put_maps({u32(2): inner, u32(3): following})
    following.close()
    tables = (lxc, ipcache, connections, half_open)
    for made in (*tables, metrics, stats, refs, infos, inner, policies):
        made.close()
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@pytest.fixture
def bpf(run, bpf_root):
    """Run `fimbria bpf …` on these maps, with no agent in reach."""
    return lambda *words: run("--socket", "/nonexistent", "bpf", "--bpf-root", bpf_root, *words)


def columns(line: str) -> list[str]:
    return re.split(r"\s{3,}", line.strip())


@pytest.mark.root
def test_endpoint_and_ipcache(bpf) -> None:
    """Addresses with what the datapath knows about them."""
    lines = bpf("endpoint", "list").output.splitlines()
    assert columns(lines[0]) == ["IP ADDRESS", "LOCAL ENDPOINT INFO"]
    assert re.match(r"10\.0\.0\.210 +id=7 +sec_id=301 +flags=0x0000 ifindex=5 ", lines[1])
    lines = bpf("ipcache", "list").output.splitlines()
    assert columns(lines[0]) == ["IP PREFIX/ADDRESS", "IDENTITY"]
    assert columns(lines[1]) == [
        "10.0.0.210/32",
        "identity=301 encryptkey=0 tunnelendpoint=172.18.0.2, flags=<none>",
    ]


@pytest.mark.root
def test_connections_and_metrics(bpf) -> None:
    """Connections, one per line; counters summed over CPUs."""
    answered, half_open = bpf("ct", "list").output.splitlines()
    assert answered.startswith("TCP OUT [::]:0 -> [::]:0 expires=")
    assert half_open.startswith("UDP OUT ")
    assert ("HalfOpen" in answered, "HalfOpen" in half_open) == (False, True)
    lines = bpf("metrics", "list").output.splitlines()
    assert columns(lines[0]) == ["REASON", "DIRECTION", "PACKETS", "BYTES"]
    assert columns(lines[1])[:2] == ["Policy denied", "INGRESS"]
    documents = json.loads(bpf("ct", "list", "-o", "json").output)
    assert [one["half_open"] for one in documents] == [False, True]


@pytest.mark.root
def test_policy(bpf) -> None:
    """What is in force per endpoint, tier by tier; a direction that is not enforced says so."""
    lines = bpf("policy", "list").output.splitlines()
    assert columns(lines[0])[:5] == ["ENDPOINT", "POLICY", "DIRECTION", "IDENTITY", "PORT/PROTO"]
    assert columns(lines[1])[:5] == ["7", "Allow", "Egress", "ANY", "ANY"]
    assert lines[1].endswith("not enforced")
    assert columns(lines[2])[:5] == ["7", "Allow", "Ingress", "300", "80/TCP"]
    document = json.loads(bpf("policy", "list", "7", "-o", "json").output)
    assert document[0]["policy"] == 2
    assert document[0]["entries"][0]["key"] == ENTRY[0].pack().hex(" ")
    assert [(one["tier"], one["policy"]) for one in document[0]["entries"]] == [
        (2, "Allow"),
        (3, "Deny"),
    ]


@pytest.mark.root
def test_policy_names(run, bpf_root, agent) -> None:
    """With an agent in reach, identities become labels and rules get their names."""
    agent.give("/v1/identity", [{"id": 300, "labels": ["k8s:a=b"]}])
    agent.give("/v1/rule/16", {"namespace": "default", "name": "rule1", "path": "spec.ingress[0]"})
    words = ("bpf", "--bpf-root", bpf_root, "policy", "list")
    lines = run("--socket", agent.path, *words).output.splitlines()
    assert columns(lines[2])[3] == "k8s:a=b"
    assert lines[2].endswith("default/rule1 spec.ingress[0]")


@pytest.mark.root
def test_unknown_endpoint(bpf) -> None:
    """An endpoint that is not here is named, with those that are."""
    result = bpf("policy", "list", "8")
    assert result.exit_code == 1
    assert "endpoint 8 is not on this node; there are: 7" in result.output


def test_no_maps(run, tmp_path) -> None:
    """Without pinned maps: the path, and what to do."""
    result = run("bpf", "--bpf-root", str(tmp_path), "ipcache", "list")
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert str(tmp_path / "tc/globals/cilium_ipcache") in result.output
