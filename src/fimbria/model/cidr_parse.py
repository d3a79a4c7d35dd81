"""Reading address prefixes. Host bits are cut off (Kubernetes, Cilium)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.model.fields import word
from fimbria.model.peers import Cidr, Prefix, prefix
from fimbria.model.policy import PolicyError

if TYPE_CHECKING:
    from fimbria.model.fields import Fields


def network(value: Any, path: str) -> Prefix:
    """Read "10.0.0.0/8" or "fd00::/8". Raises PolicyError."""
    return _read(value, path, "a CIDR", alone=False)


def network_or_address(value: Any, path: str) -> Prefix:
    """Read a CIDR, or an address as the prefix of itself alone. Raises PolicyError."""
    return _read(value, path, "a CIDR or an address", alone=True)


def block(fields: Fields, *, strict: bool = False) -> Cidr:
    """Take `cidr` and `except`. Raises PolicyError for an exception that is not inside.

    `strict`: nor may it be all of the CIDR (NetworkPolicy).
    """
    net = network(fields.text("cidr"), fields.at("cidr"))
    path = fields.at("except")
    excepts = fields.each("except", network) or ()
    for index, out in enumerate(excepts):
        if not net.covers(out):
            raise PolicyError(f"{path}[{index}]", f"{out} is not a part of {net}")
        if strict and out == net:
            raise PolicyError(f"{path}[{index}]", f"leaves nothing of {net}")
    return Cidr(net, tuple(sorted(set(excepts))))


def _read(value: Any, path: str, wanted: str, *, alone: bool) -> Prefix:
    text = word(value, path)
    ip, slash, bits = text.partition("/")
    # Python also takes masks, scopes and leading zeros here; the API does not.
    plain = bits.isdecimal() and bits.isascii() and len(bits) < 4 and str(int(bits)) == bits
    if "%" not in ip and (plain if slash else alone):
        try:
            return prefix(text)
        except ValueError:
            pass
    raise PolicyError(path, f"{text!r} is not {wanted}")
