"""State files: what was written comes back; what is malformed is named and put aside."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from fimbria.agent import statefiles
from fimbria.agent.statefiles import EndpointFile, NodeFile, StateFileError

if TYPE_CHECKING:
    from pathlib import Path


def endpoint(number: int = 7, **changes: object) -> EndpointFile:
    file = EndpointFile(
        id=number,
        container_id=f"c{number}",
        container_ifname="eth0",
        namespace="default",
        pod=f"pod{number}",
        ifname="lxc0123456789ab",
        ifindex=12,
        mac="02:00:00:00:00:01",
        node_mac="02:00:00:00:00:02",
        ipv4=f"10.0.0.{number}",
        identity=4711,
        labels=("k8s:app=x",),
        named_ports=(("http", 80, "TCP"),),
    )
    return msgspec.structs.replace(file, **changes)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Endpoints come back equal and in order of their ids; removed ones do not."""
    for number in (12, 7, 300):
        statefiles.write_endpoint(tmp_path, endpoint(number, ipv4="10.0.0.9"))
    statefiles.remove_endpoint(tmp_path, 12)
    statefiles.remove_endpoint(tmp_path, 12)
    found = list(statefiles.endpoints(tmp_path))
    assert found == [endpoint(7, ipv4="10.0.0.9"), endpoint(300, ipv4="10.0.0.9")]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["300", "7"]


def test_node_file(tmp_path: Path) -> None:
    """The node's own file comes back too."""
    value = NodeFile(node_name="n", pod_cidrs=("10.0.1.0/24",), overrides={"mtu": "1400"})
    statefiles.write(tmp_path / statefiles.NODE_FILE, value)
    assert statefiles.read(tmp_path / statefiles.NODE_FILE, NodeFile) == value


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that dies before its rename changes nothing and leaves nothing that is read."""
    statefiles.write_endpoint(tmp_path, endpoint())

    def die(fd: int) -> None:
        raise RuntimeError("power is gone")

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(RuntimeError):
        statefiles.write_endpoint(tmp_path, endpoint(identity=1))
    monkeypatch.undo()
    assert list(statefiles.endpoints(tmp_path)) == [endpoint()]


MALFORMED = {
    "empty": b"",
    "truncated": statefiles.msgspec.json.encode(endpoint())[:60],
    "no JSON": b"\x00\xff",
    "other type": b"[1, 2]",
    "other version": json.dumps({**msgspec.to_builtins(endpoint()), "format": 99}).encode(),
    "missing field": b'{"format": 1, "id": 7}',
    "other id": msgspec.json.encode(endpoint(8)),
    "bad address": msgspec.json.encode(endpoint(ipv4="10.0.0.777")),
    "bad family": msgspec.json.encode(endpoint(ipv4="", ipv6="10.0.0.7")),
    "no address": msgspec.json.encode(endpoint(ipv4="")),
    "bad MAC": msgspec.json.encode(endpoint(mac="02:zz")),
    "bad ifindex": msgspec.json.encode(endpoint(ifindex=0)),
    "bad identity": msgspec.json.encode(endpoint(identity=1 << 24)),
    "no name": msgspec.json.encode(endpoint(ifname="")),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files_are_named_and_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """One malformed file is named in the log and moved aside; the others are restored."""
    statefiles.write_endpoint(tmp_path, endpoint(5))
    path = statefiles.endpoint_path(tmp_path, 7)
    path.parent.mkdir()
    path.write_bytes(MALFORMED[kind])
    with caplog.at_level(logging.ERROR):
        assert list(statefiles.endpoints(tmp_path)) == [endpoint(5)]
    assert str(path) in caplog.text
    assert not path.exists()
    assert path.with_name("endpoint.json.malformed").read_bytes() == MALFORMED[kind]
    caplog.clear()
    assert list(statefiles.endpoints(tmp_path)) == [endpoint(5)]
    assert not caplog.records


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_file_has_a_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """An endpoint whose file is damaged is restored from its copy, and the damage is named."""
    statefiles.write_endpoint(tmp_path, endpoint())
    path = statefiles.endpoint_path(tmp_path, 7)
    path.write_bytes(MALFORMED[kind])
    assert list(statefiles.endpoints(tmp_path)) == [endpoint()]
    assert str(path) in caplog.text
    assert not statefiles.lost_endpoints(tmp_path)
    assert statefiles.read(path, EndpointFile) == endpoint()
    caplog.clear()
    assert list(statefiles.endpoints(tmp_path)) == [endpoint()]
    assert not caplog.records


def test_a_lost_endpoint_is_known_until_its_id_is_used_again(tmp_path: Path) -> None:
    """Without file and copy, the damage stays visible: a device may belong to it."""
    statefiles.write_endpoint(tmp_path, endpoint())
    for path in (tmp_path / "7").iterdir():
        path.write_bytes(b"{")
    for _ in range(2):
        assert list(statefiles.endpoints(tmp_path)) == []
        assert statefiles.lost_endpoints(tmp_path)
    statefiles.write_endpoint(tmp_path, endpoint(ipv4="10.0.0.99"))
    assert not statefiles.lost_endpoints(tmp_path)
    assert list(statefiles.endpoints(tmp_path)) == [endpoint(ipv4="10.0.0.99")]


def test_a_folder_without_file_is_cleared(tmp_path: Path) -> None:
    """A crash between making the folder and writing the file leaves nothing to trip over."""
    (tmp_path / "9").mkdir()
    (tmp_path / "other").mkdir()
    assert list(statefiles.endpoints(tmp_path)) == []
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    """What cannot be read at all is an error of its own kind."""
    with pytest.raises(StateFileError, match="directory"):
        statefiles.read(tmp_path, NodeFile)
    assert list(statefiles.endpoints(tmp_path / "missing")) == []


def test_macs_as_text() -> None:
    """MAC addresses are written as people write them."""
    assert statefiles.mac_text(statefiles.mac_bytes("02:00:5e:10:00:01")) == "02:00:5e:10:00:01"
