"""Loading objects into the real kernel: maps, constants, calls, pins, identities, refusals."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath import abi
from fimbria.kernel import bpf
from fimbria.kernel.bpf import BpfMap, MapType
from fimbria.kernel.errors import AbiMismatch, IncompatibleMap, ObjectError, VerifierError
from fimbria.kernel.loader import identity, load_object, loaded_identity, open_current

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.root
GOOD = ("probe_constants", "probe_calls", "probe_drop", "probe_policy_lookup", "probe_emit")
PACKET = bytes(64)


def index(n: int) -> bytes:
    return struct.pack("=I", n)


def test_constants_and_data(probe: Path) -> None:
    """Constants are set by name, integers and bytes alike; other globals keep their values."""
    constants = {"cfg_answer": 40, "cfg_mac": b"\0\0\0\0\0\2", "cfg_wide": 1 << 32}
    with load_object(probe, constants=constants, programs=["probe_constants"]) as loaded:
        assert set(loaded.programs) == {"probe_constants"}
        run = bpf.test_run(loaded.programs["probe_constants"].fd, PACKET, repeat=5)
        assert run.retval == 40 + 2 + 1 + 3
        assert loaded.maps[".bss"].get(index(0)) == struct.pack("=I", 5)
        with pytest.raises(bpf.BpfError):
            loaded.maps[".rodata"].put(index(0), bytes(loaded.maps[".rodata"].value_size))


def test_calls_and_callbacks(probe: Path) -> None:
    """Global functions, static ones and callbacks are laid out behind the program."""
    with load_object(probe, programs=["probe_calls"]) as loaded:
        program = loaded.programs["probe_calls"]
        assert bpf.test_run(program.fd, PACKET).retval == 0 + 1 + 2 + 3 + 4 + 1
        slots = loaded.maps["probe_metrics"].get_percpu(index(2))
        assert slots
        assert sum(abi.MetricsValue.unpack(slot).count for slot in slots) == 1
        info = program.info()
        assert info.name == "probe_calls"
        assert info.verified_insns > 0
        assert loaded.maps["probe_metrics"].id in info.map_ids


def test_syscall_programs(probe: Path) -> None:
    """A SEC("syscall") program reads and writes its context, and sees inner maps."""
    with load_object(probe, programs=["probe_policy_lookup"]) as loaded:
        fd = loaded.programs["probe_policy_lookup"].fd
        key = abi.PolicyKey(identity=5, dport=80, protocol=6, shape=17).pack()
        case = index(1) + key + index(0)
        assert bpf.run_syscall(fd, case) == (0xFFFFFFFF, case)
        inner = BpfMap.create(MapType.HASH, key_size=8, value_size=16, max_entries=3)
        inner.put(key, abi.PolicyEntry(rule_id=99).pack())
        loaded.maps["probe_policy"].put_maps({index(1): inner})
        inner.close()
        assert bpf.run_syscall(fd, case) == (1, index(1) + key + index(99))


def test_pins_are_reused(probe: Path, pins: Path) -> None:
    """A pinned map is found again with what it holds; its size wins over the one asked for."""
    key = abi.EndpointKey(family=1).pack()
    with load_object(probe, pins=pins, programs=GOOD, map_sizes={"probe_lxc": 99}) as first:
        assert {path.name for path in pins.iterdir()} == {"probe_lxc", "probe_policy"}
        assert first.maps["probe_lxc"].max_entries == 99
        assert first.kept_sizes == {}
        first.maps["probe_lxc"].put(key, bytes(48))
    with load_object(probe, pins=pins, programs=GOOD) as second:
        assert second.maps["probe_lxc"].items() == {key: bytes(48)}
        assert second.kept_sizes == {"probe_lxc": (99, 16)}
        assert second.new_pins == []


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("value_size", (MapType.HASH, 20, 44, 0)),
        ("key_size", (MapType.HASH, 16, 48, 0)),
        ("type", (MapType.LRU_HASH, 20, 48, 0)),
        ("flags", (MapType.HASH, 20, 48, 1)),
    ],
)
def test_a_pin_of_another_shape_is_not_touched(
    probe: Path, pins: Path, field: str, shape: tuple[MapType, int, int, int]
) -> None:
    """A pinned map of another layout is an error that names pin and field; nothing is replaced."""
    kind, key_size, value_size, flags = shape
    place = pins / "probe_lxc"
    with BpfMap.create(
        kind, key_size=key_size, value_size=value_size, max_entries=8, flags=flags
    ) as other:
        other.pin(place)
        with pytest.raises(IncompatibleMap, match=f"probe_lxc: {field} is") as caught:
            load_object(probe, pins=pins, programs=GOOD)
        assert caught.value.field == field
        with BpfMap.open(place) as still:
            assert still.id == other.id
    assert [path.name for path in pins.iterdir()] == ["probe_lxc"]


def test_a_pin_of_another_layout_is_not_touched(
    probe: Path, pins: Path, tmp_path: Path, compiler: Callable[[Path, Path], Path]
) -> None:
    """A pinned map of the right sizes whose fields mean something else is refused, with the field;
    what is compatible goes on being used.
    """
    source = Path(__file__).with_name("probe.bpf.c")
    header = "struct probe_value { __u32 other, ifindex; __u8 rest[40]; };\n"
    text = source.read_text().replace('#include "../../bpf/abi.h"\n', '#include "abi.h"\n' + header)
    changed = tmp_path / "changed.bpf.c"
    changed.write_text(text.replace("struct endpoint_info", "struct probe_value"))
    other = compiler(changed, tmp_path / "changed.o")
    with load_object(other, pins=pins, programs=()) as held:
        with pytest.raises(IncompatibleMap, match=r"layout of its value is .*other@0:u32"):
            load_object(probe, pins=pins, programs=())
        (pins / "probe_lxc").unlink()
        with BpfMap.create(MapType.HASH, key_size=8, value_size=16, max_entries=3) as inner:
            held.maps["probe_policy"].put_maps({index(0): inner})
        load_object(probe, pins=pins, programs=()).close()


def test_the_inner_maps_are_looked_at(probe: Path, pins: Path) -> None:
    """A pinned map of maps whose inner maps have another shape is refused."""
    with (
        BpfMap.create(MapType.HASH, key_size=8, value_size=12, max_entries=3) as inner,
        BpfMap.create(
            MapType.ARRAY_OF_MAPS, key_size=4, value_size=4, max_entries=4, inner=inner
        ) as outer,
    ):
        outer.put_maps({index(2): inner})
        outer.pin(pins / "probe_policy")
        with pytest.raises(IncompatibleMap, match=r"inner map of .*probe_policy: value_size is 12"):
            load_object(probe, pins=pins, programs=())


def test_loading_at_the_same_time(probe: Path, pins: Path) -> None:
    """Two that load at once end up with the same maps."""
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_object(probe, pins=pins, programs=()), range(8)))
    assert len({held.maps["probe_lxc"].id for held in loaded}) == 1
    assert sum(len(held.new_pins) for held in loaded) == 2
    for held in loaded:
        held.close()


def test_given_maps_are_used(probe: Path) -> None:
    """Maps can be given instead; they are checked, used, and stay the giver's."""
    with BpfMap.create(MapType.HASH, key_size=20, value_size=48, max_entries=2) as mine:
        with load_object(probe, map_fds={"probe_lxc": mine}, programs=()) as loaded:
            assert loaded.maps["probe_lxc"] is mine
        assert mine.fd >= 0
    with (
        BpfMap.create(MapType.ARRAY, key_size=4, value_size=48, max_entries=2) as wrong,
        pytest.raises(IncompatibleMap),
    ):
        load_object(probe, map_fds={"probe_lxc": wrong}, programs=())


def test_refused_program(probe: Path, pins: Path, tmp_path: Path) -> None:
    """The verifier's words reach the reader, and nothing that the attempt made stays."""
    log = tmp_path / "verifier.log"
    with pytest.raises(VerifierError, match="probe_unsafe") as caught:
        load_object(probe, pins=pins, programs=["probe_unsafe"], log_to=log)
    assert "invalid access to packet" in str(caught.value)
    assert "invalid access to packet" in log.read_text()
    assert list(pins.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"constants": {"cfg_nothing": 1}}, "has no constant cfg_nothing"),
        ({"constants": {"runs": 1}}, "has no constant runs"),
        ({"constants": {"cfg_mac": b"\0"}}, "cfg_mac has 6 bytes"),
        ({"constants": {"cfg_answer": 1 << 32}}, "cfg_answer has 4 bytes"),
        ({"map_sizes": {"probe_nothing": 5}}, "has no map probe_nothing"),
        ({"programs": ["probe_nothing"]}, "has no program probe_nothing"),
    ],
)
def test_arguments_must_fit(probe: Path, arguments: dict[str, object], reason: str) -> None:
    """A constant, map or program that the object does not have is an error, not a silence."""
    with pytest.raises(ObjectError, match=reason):
        load_object(probe, **arguments)


def test_identity(probe: Path, pins: Path) -> None:
    """A pinned program tells what it came from, and whether its maps are those pinned now."""
    wanted, other = identity(probe), identity(probe, {"cfg_answer": 8})
    assert wanted != other
    place = pins.parent / "probe_policy_lookup"
    with load_object(probe, pins=pins, programs=GOOD) as loaded:
        assert loaded.identity == wanted
        assert loaded_identity(loaded.programs["probe_calls"].fd) == wanted
        loaded.programs["probe_policy_lookup"].pin(place)
        loaded.programs["probe_emit"].pin(pins.parent / "probe_emit")
    for pin in (place, pins.parent / "probe_emit"):  # the latter uses a map that has no pin
        fd = open_current(pin, wanted, pins)
        assert fd is not None
        os.close(fd)
    assert open_current(place, other, pins) is None
    assert open_current(pins.parent / "nothing", wanted, pins) is None
    (pins / "probe_policy").unlink()
    assert open_current(place, wanted, pins) is None


def test_objects_of_another_abi(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object built from another abi.h is refused, with the types that differ."""
    monkeypatch.setitem(abi.FINGERPRINTS, "struct policy_key", "0" * 16)
    with pytest.raises(AbiMismatch, match="struct policy_key"):
        load_object(probe, programs=())


def test_nothing_leaks(probe: Path) -> None:
    """Loading and closing, also failing, leaves no descriptor open."""

    def descriptors() -> set[str]:
        return {
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        }

    before = descriptors()
    load_object(probe, programs=GOOD).close()
    with pytest.raises(VerifierError):
        load_object(probe)
    assert {name for name in descriptors() - before if "bpf" in name or "btf" in name} == set()
