"""Programs on devices, by TCX links that are pinned.

The pin is what keeps a program attached, so nothing that forwards depends on a process. Replacing
a program is one step on the same link: no packet sees the device without one. An ifindex means a
device of the calling thread's namespace, so callers are in the node's.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from fimbria.kernel import bpf
from fimbria.kernel.bpf import AttachType, BpfError, is_not_found
from fimbria.kernel.errors import UnsupportedKernel
from fimbria.kernel.syscall import kernel_version

if TYPE_CHECKING:
    from pathlib import Path


class Side(StrEnum):
    """Where on a device: packets that come out of it (ingress), or go into it (egress)."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Outcome(StrEnum):
    """What `attach` had to do."""

    UNCHANGED = "unchanged"
    UPDATED = "updated"
    CREATED = "created"


_TYPES = {Side.INGRESS: AttachType.TCX_INGRESS, Side.EGRESS: AttachType.TCX_EGRESS}
_TCX_SINCE = (6, 6)


@dataclass(frozen=True, slots=True)
class Attached:
    """A pinned link as found: device (0 when it is gone), side, and program id."""

    ifindex: int
    side: Side
    prog_id: int


def attach(prog_fd: int, ifindex: int, side: Side, pin: Path) -> Outcome:
    """Sees to it that the program is attached to that side of the device, pinned at `pin`.

    A pinned link that is alive on that device is updated in one step (0.1 ms); one whose device is
    gone, or another, is removed; one of this device that is pinned under another name, because the
    device was renamed, gets the new pin. A new link makes the kernel wait, with its network lock
    held, until all CPUs have seen it (about 8 ms): attach last, and not on an event loop.

    Raises BpfError (is_gone if there is no such device), UnsupportedKernel where there is no TCX.
    """
    found = inspect(pin)
    if found is not None and (found.ifindex, found.side) == (ifindex, side):
        if found.prog_id == bpf.prog_info(prog_fd).id:
            return Outcome.UNCHANGED
        link = bpf.open_pin(pin)
        try:
            bpf.link_update(link, prog_fd)
            return Outcome.UPDATED
        except BpfError as error:
            if error.errno != errno.ENOLINK:  # gone since we looked: make a new one
                raise
        finally:
            os.close(link)
    detach(pin)
    try:
        link = _create(prog_fd, ifindex, side)
    except BpfError as error:
        # The device has another name now: its link is pinned under the old one.
        if error.errno != errno.EEXIST or not _moved(pin, ifindex, side):
            raise
        return Outcome.UPDATED
    try:
        bpf.pin(link, pin)
    finally:
        os.close(link)
    return Outcome.CREATED


def _moved(pin: Path, ifindex: int, side: Side) -> bool:
    """Rename the pin of the link that is on that side of the device; False if there is none."""
    for other in pin.parent.iterdir():
        found = inspect(other)
        if found is not None and (found.ifindex, found.side) == (ifindex, side):
            other.rename(pin)
            return True
    return False


def inspect(pin: Path) -> Attached | None:
    """What is pinned there; None if nothing is, or it is no TCX link."""
    try:
        link = bpf.open_pin(pin)
    except BpfError as error:
        if is_not_found(error):
            return None
        raise
    try:
        info = bpf.link_info(link)
    finally:
        os.close(link)
    if info.type != bpf.LINK_TYPE_TCX:
        return None
    side = Side.INGRESS if info.attach_type == AttachType.TCX_INGRESS else Side.EGRESS
    return Attached(info.ifindex, side, info.prog_id)


def names(ifindex: int, side: Side) -> tuple[tuple[int, str], ...]:
    """Ids and names of all programs on one side of a device, others' too, in running order.

    Raises BpfError, is_gone if there is no such device.
    """
    found: list[tuple[int, str]] = []
    for prog_id in bpf.attached(ifindex, _TYPES[side]):
        try:
            program = bpf.prog_by_id(prog_id)
        except BpfError as error:
            if not is_not_found(error):
                raise
            continue  # detached since
        try:
            found.append((prog_id, bpf.prog_info(program).name))
        finally:
            os.close(program)
    return tuple(found)


def detach(pin: Path) -> bool:
    """Detaches at once and removes the pin; False if there was none."""
    try:
        link = bpf.open_pin(pin)
    except BpfError as error:
        if is_not_found(error):
            return False
        raise
    try:
        bpf.link_detach(link)
    except BpfError as error:
        if error.errno != errno.ENOLINK:  # its device is gone, and the attachment with it
            raise
    finally:
        os.close(link)
    return bpf.unpin(pin)


def remove_stale(pins: Path) -> list[str]:
    """Removes the pins of links whose device is gone; their names."""
    gone: list[str] = []
    for entry in sorted(pins.iterdir()):
        found = inspect(entry)
        if found is not None and found.ifindex == 0:
            bpf.unpin(entry)
            gone.append(entry.name)
    return gone


def require_tcx(prog_fd: int) -> None:
    """Raises UnsupportedKernel if the kernel has no TCX: asked for before anything is built."""
    try:
        os.close(_create(prog_fd, 0x7FFFFFFF, Side.INGRESS))
    except BpfError as error:
        if error.errno != errno.ENODEV:  # no such device is the answer of a kernel that has it
            raise


def _create(prog_fd: int, ifindex: int, side: Side) -> int:
    try:
        return bpf.link_create(prog_fd, ifindex, _TYPES[side])
    except BpfError as error:
        if error.errno == errno.EINVAL and kernel_version() < _TCX_SINCE:
            raise UnsupportedKernel(
                f"this kernel ({os.uname().release}) has no TCX: 6.6 or newer is needed"
            ) from error
        raise
