"""An endpoint whose state file and its copy cannot be read, put together from what the kernel has.

    cilium_lxc (pinned)   addresses, MACs, identity, device's number
    the device            its name; its alias: container, interface, namespace, pod

Its labels are those of its identity, which the API tells. Until then nothing is written, so what is
pinned holds: an endpoint without labels would be one that no policy selects.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.agent.statefiles import EndpointFile, mac_text
from fimbria.datapath.abi import EndpointInfo, EndpointKey, Family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.kernel.netrows import Link

ALIAS_MAX = 255
"""Bytes of a device's alias (IFALIASZ, less the zero)."""


def alias(container_id: str, ifname: str, namespace: str, pod: str) -> str:
    """Return what a device's alias says about whose it is; without the pod if that is too long."""
    text = f"{container_id}/{ifname}"
    whole = f"{text}/{namespace}/{pod}"
    return whole if pod and len(whole.encode()) <= ALIAS_MAX else text


def endpoint(
    number: int, links: Mapping[int, Link], rows: Mapping[bytes, bytes]
) -> EndpointFile | None:
    """Return the endpoint of that number, without labels; None if the kernel does not know it.

    `rows` are those of cilium_lxc.
    """
    addresses = {4: "", 6: ""}
    found: EndpointInfo | None = None
    for key, value in rows.items():
        info, row = EndpointInfo.unpack(value), EndpointKey.unpack(key)
        if info.lxc_id == number:
            found = info
            raw = row.ip[:4] if row.family == Family.IPV4 else row.ip
            address = ip_address(raw)
            addresses[address.version] = str(address)
    link = links.get(found.ifindex) if found is not None else None
    if found is None or link is None:
        return None
    owner = link.alias.split("/")
    if len(owner) not in (2, 4) or not all(owner):
        return None
    container_id, ifname, namespace, pod = (*owner, "", "")[:4]
    return EndpointFile(
        id=number,
        container_id=container_id,
        container_ifname=ifname,
        namespace=namespace,
        pod=pod,
        ifname=link.name,
        ifindex=link.ifindex,
        mac=mac_text(found.mac),
        node_mac=mac_text(found.node_mac),
        ipv4=addresses[4],
        ipv6=addresses[6],
        identity=found.sec_id,
    )
