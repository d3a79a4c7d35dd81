"""Loads BPF objects with nothing but bpf(2): ELF and BTF in, maps and programs out.

    file -> ElfFile -> Btf (fingerprints checked, patched) -> maps (found by pin, given, or made)
         -> global data (constants set, frozen) -> instructions -> programs

Each object carries an identity, a hash of the file and its constants. It is written into the
kernel as the name of the object's .rodata map (`ro.<identity>`), which is bound to each of its
programs: so a pinned program can be asked whether it is already what would be loaded, and that
answer lives and dies with the program itself.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from fimbria.kernel import mapdefs, objects_dir
from fimbria.kernel.bpf import (
    AttachType,
    BpfError,
    BpfMap,
    MapFlags,
    MapType,
    ProgInfo,
    ProgType,
    bind_map,
    btf_load,
    open_pin,
    pin,
    prog_info,
    prog_load,
)
from fimbria.kernel.btf import Kind
from fimbria.kernel.errors import ObjectError, VerifierError, undamaged
from fimbria.kernel.objectfile import ObjectFile
from fimbria.kernel.relocate import Assembler

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from fimbria.kernel.objectfile import Constant
    from fimbria.kernel.relocate import Code

__all__ = [
    "LoadedObject",
    "Program",
    "identity",
    "load_object",
    "loaded_identity",
    "objects_dir",
    "open_current",
]

_IDENTITY = "ro."
_LOG_SIZE = 4 << 20
_F_SLEEPABLE = 1 << 4

# Section name -> program type and expected attach type. Kernels from 6.17 on want the latter
# equal for a program and its tail calls, so "tc" stays 0 for all of them; TCX accepts it.
SECTIONS: dict[str, tuple[ProgType, int]] = {
    "tc": (ProgType.SCHED_CLS, 0),
    "tcx/ingress": (ProgType.SCHED_CLS, AttachType.TCX_INGRESS),
    "tcx/egress": (ProgType.SCHED_CLS, AttachType.TCX_EGRESS),
    "xdp": (ProgType.XDP, AttachType.XDP),
    "syscall": (ProgType.SYSCALL, 0),
    "cgroup/bind4": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_BIND),
    "cgroup/bind6": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_BIND),
    "cgroup/connect4": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT),
    "cgroup/connect6": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_CONNECT),
    "cgroup/sendmsg4": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP4_SENDMSG),
    "cgroup/sendmsg6": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP6_SENDMSG),
    "cgroup/recvmsg4": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP4_RECVMSG),
    "cgroup/recvmsg6": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP6_RECVMSG),
    "cgroup/getpeername4": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_GETPEERNAME),
    "cgroup/getpeername6": (ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_GETPEERNAME),
}


@dataclass(slots=True)
class Program:
    """A loaded program; owns its descriptor."""

    name: str
    fd: int
    type: ProgType
    attach_type: int

    def info(self) -> ProgInfo:
        """What the kernel says about it."""
        return prog_info(self.fd)

    def pin(self, path: Path) -> None:
        """Pins it; BpfError (is_exists) if the name is taken."""
        pin(self.fd, path)

    def close(self) -> None:
        """Closes the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True)
class LoadedObject:
    """What an object became.

    `maps` by definition name and, for global data, section name. `kept_sizes` names maps that
    were there already with another size than asked for: (size in force, size asked for).
    """

    path: Path
    identity: str
    maps: dict[str, BpfMap] = field(default_factory=dict[str, BpfMap])
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    kept_sizes: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    new_pins: list[Path] = field(default_factory=list["Path"])
    borrowed: frozenset[str] = frozenset()

    def close(self) -> None:
        """Closes all descriptors except those that were given; pins stay."""
        for program in self.programs.values():
            program.close()
        for name, held in self.maps.items():
            if name not in self.borrowed:
                held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_object(
    path: Path,
    *,
    constants: Mapping[str, Constant] | None = None,
    map_sizes: Mapping[str, int] | None = None,
    pins: Path | None = None,
    map_fds: Mapping[str, BpfMap] | None = None,
    programs: Collection[str] | None = None,
    log_to: Path | None = None,
) -> LoadedObject:
    """Loads an object file.

    `constants` sets `const volatile` globals by name (integers, little-endian in the symbol's
    size, or exact bytes); `map_sizes` overrides max_entries by map name; `pins` is the bpffs
    folder where maps defined with pinning are found or created; `map_fds` gives maps to use
    instead, which stay the caller's; `programs` names the only ones to load; `log_to` gets the
    verifier's whole log if a program is refused.

    Raises ObjectError (unreadable, unsupported, unknown constant or map), AbiMismatch,
    IncompatibleMap, VerifierError, BpfError. If it raises, pins it made are removed again.
    """
    source = ObjectFile(path, constants or {})
    loaded = LoadedObject(path, source.identity, borrowed=frozenset(map_fds or ()))
    btf_fd = _load_btf(source)
    try:
        _make_maps(source, loaded, btf_fd, map_sizes or {}, pins, map_fds or {})
        _make_data(source, loaded, btf_fd)
        _make_programs(source, loaded, btf_fd, programs, log_to)
    except BaseException:
        for made in loaded.new_pins:
            made.unlink(missing_ok=True)
        loaded.close()
        raise
    finally:
        os.close(btf_fd)
    return loaded


def identity(path: Path, constants: Mapping[str, Constant] | None = None) -> str:
    """Identity of a file with these constants, as `loaded_identity` gives it for its programs."""
    return ObjectFile(path, constants or {}).identity


def loaded_identity(prog_fd: int) -> str | None:
    """Identity of the object that a program in the kernel came from; None if not one of ours."""
    for map_id in prog_info(prog_fd).map_ids:
        with BpfMap.by_id(map_id) as held:
            if held.name.startswith(_IDENTITY):
                return held.name.removeprefix(_IDENTITY)
    return None


def open_current(program_pin: Path, wanted: str, pins: Path) -> int | None:
    """Descriptor of a pinned program if it came from the object of identity `wanted` and uses
    the maps that are pinned in `pins` now (and private ones); else None.
    """
    try:
        fd = open_pin(program_pin)
    except BpfError:
        return None
    try:
        current = _came_from(fd, pins) == wanted
    except BaseException:
        os.close(fd)
        raise
    if current:
        return fd
    os.close(fd)
    return None


def _came_from(prog_fd: int, pins: Path) -> str | None:
    """The program's identity; None also if a map that it uses is not the one pinned now."""
    pinned: set[int] = set()
    for entry in pins.iterdir():
        with BpfMap.open(entry) as held:
            pinned.add(held.id)
    found = None
    for map_id in prog_info(prog_fd).map_ids:
        with BpfMap.by_id(map_id) as held:
            if held.name.startswith(_IDENTITY):
                found = held.name.removeprefix(_IDENTITY)
            elif map_id not in pinned and not held.name.startswith("."):
                return None
    return found


def _load_btf(source: ObjectFile) -> int:
    try:
        return btf_load(bytes(source.btf.raw))
    except BpfError as error:
        tail = "\n".join(error.log.rstrip().splitlines()[-10:])
        raise ObjectError(
            source.elf.path, f"the kernel refuses its BTF: {error}\n{tail}"
        ) from error


def _make_maps(
    source: ObjectFile,
    loaded: LoadedObject,
    btf_fd: int,
    sizes: Mapping[str, int],
    pins: Path | None,
    given: Mapping[str, BpfMap],
) -> None:
    if unknown := set(sizes) - set(source.definitions):
        raise ObjectError(source.elf.path, f"has no map {', '.join(sorted(unknown))}")
    for name, definition in source.definitions.items():
        want = sizes.get(name, definition.max_entries)
        if name in given:
            loaded.maps[name] = mapdefs.check(given[name], definition, name)
        else:
            place = pins / name if pins and definition.pinned else None
            sized = mapdefs.resized(definition, want)
            loaded.maps[name], new = mapdefs.find_or_create(sized, btf_fd, place)
            if new and place:
                loaded.new_pins.append(place)
        if loaded.maps[name].max_entries != want:
            loaded.kept_sizes[name] = (loaded.maps[name].max_entries, want)


def _make_data(source: ObjectFile, loaded: LoadedObject, btf_fd: int) -> None:
    for name, data in source.data.items():
        constant = name.startswith(".rodata")
        section = source.btf.find(Kind.DATASEC, name)
        flags = MapFlags.RDONLY_PROG if constant else MapFlags.MMAPABLE
        made = loaded.maps[name] = BpfMap.create(
            MapType.ARRAY,
            key_size=4,
            value_size=len(data),
            max_entries=1,
            flags=flags,
            name=_IDENTITY + source.identity if name == ".rodata" else name,
            btf=(btf_fd, 0, section) if section else (0, 0, 0),
        )
        made.put(bytes(4), bytes(data))
        if constant:
            made.freeze()


def _make_programs(
    source: ObjectFile,
    loaded: LoadedObject,
    btf_fd: int,
    only: Collection[str] | None,
    log_to: Path | None,
) -> None:
    fds = {name: held.fd for name, held in loaded.maps.items()}
    with undamaged(source.elf.path):
        assembler = Assembler(source.elf, source.btf, fds)
    entries = {
        function.name: function
        for function in assembler.functions.values()
        if source.elf.section_name(function.section) != ".text"
    }
    if only is not None and (missing := set(only) - set(entries)):
        raise ObjectError(source.elf.path, f"has no program {', '.join(sorted(missing))}")
    for name, function in entries.items():
        if only is not None and name not in only:
            continue
        section = source.elf.section_name(function.section)
        if section not in SECTIONS:
            raise ObjectError(source.elf.path, f"program {name}: unknown section {section}")
        kind, attach_type = SECTIONS[section]
        program = Program(name, -1, kind, attach_type)
        with undamaged(source.elf.path):
            code = assembler.assemble(function)
        program.fd = _load(source, program, code, btf_fd, log_to)
        loaded.programs[name] = program
        if ".rodata" in loaded.maps:
            bind_map(program.fd, loaded.maps[".rodata"].fd)


def _load(
    source: ObjectFile, program: Program, code: Code, btf_fd: int, log_to: Path | None
) -> int:
    """Loads one program; only if it is refused, once more with the verifier's log."""

    def attempt(log_size: int) -> int:
        return prog_load(
            program.type,
            code.instructions,
            name=program.name,
            license=source.license,
            attach_type=program.attach_type,
            flags=_F_SLEEPABLE if program.type is ProgType.SYSCALL else 0,
            btf_fd=btf_fd,
            func_info=code.func_info,
            line_info=code.line_info,
            log_size=log_size,
        )[0]

    try:
        return attempt(0)
    except BpfError as error:
        if error.errno in (errno.EPERM, errno.ENOMEM):
            raise
    try:
        return attempt(_LOG_SIZE)
    except BpfError as error:
        if log_to is not None:
            log_to.write_text(error.log)
        raise VerifierError(source.elf.path, program.name, error, error.log) from error
