"""Map contents as text: each entry decoded by the ABI, in the words of the command line."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from fimbria.datapath import abi

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = 10_000
"""Entries shown of one map; nobody reads more, and a table may hold half a million."""


class _U32(NamedTuple):
    number: int

    @classmethod
    def unpack(cls, data: bytes) -> _U32:
        return cls(int.from_bytes(data, "little"))


LAYOUTS: dict[str, tuple[Any, Any]] = {
    "cilium_lxc": (abi.EndpointKey, abi.EndpointInfo),
    "cilium_devices": (abi.DeviceKey, abi.DeviceInfo),
    "cilium_ipcache": (abi.IpcacheKey, abi.IpcacheInfo),
    "cilium_cidr": (abi.IpcacheKey, abi.CidrInfo),
    "cilium_node_map": (abi.NodeKey, abi.NodeInfo),
    "cilium_policy_ref": (_U32, abi.PolicyRef),
    "cilium_policy_info": (_U32, abi.PolicyInfo),
    "cilium_ct": (abi.CtKey, abi.CtEntry),
    "cilium_ct_new": (abi.CtKey, abi.CtEntry),
    "cilium_runtime_config": (_U32, abi.Runtime),
}


def describe(name: str, entries: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    """Return entries as {"key", "value"}; bytes of maps without known layout in hexadecimal.

    Entries of arrays that are all zero are left out: an array has all its indices always.
    """
    key_type, value_type = LAYOUTS.get(name, (None, None))
    found: list[dict[str, Any]] = []
    for key, value in entries.items():
        if not any(value) and key_type is _U32:
            continue
        if len(found) >= LIMIT:
            break
        found.append({"key": _shown(key_type, key), "value": _shown(value_type, value)})
    return found


def _shown(kind: Any, data: bytes) -> Any:
    if kind is None or len(data) != getattr(kind, "SIZE", len(data)):
        return data.hex(" ")
    return {name: _field(name, value) for name, value in kind.unpack(data)._asdict().items()}


def _field(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex(":") if len(value) == 6 else _address(value)
    if name in ("tunnel_endpoint", "nexthop") and isinstance(value, int):
        return str(ip_address(value))
    if isinstance(value, tuple):
        items: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType] - nested records
        if hasattr(items, "_asdict"):
            return {n: _field(n, v) for n, v in items._asdict().items()}  # pyright: ignore
        return [_field(name, item) for item in items]
    return value


def _address(raw: bytes) -> str:
    if len(raw) == 16 and not any(raw[4:]) and any(raw[:4]):
        return str(ip_address(raw[:4]))
    address = ip_address(raw) if len(raw) in (4, 16) else None
    if address is None:
        return raw.hex(" ")
    return str(getattr(address, "ipv4_mapped", None) or address)
