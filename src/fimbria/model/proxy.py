"""Reading what a port rule wants from a proxy: layer 7 rules, TLS, server names, a listener.

    toPorts item ── proxy_of ──> Proxy (which parser, for which field) ── check_port ──> its ports

The contents are checked in full although no proxy runs yet, so that a policy does not turn out to
be wrong on the day one does. Source of the rules: Cilium's policy language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fimbria.datapath.abi import Direction
from fimbria.model.fields import Fields, word
from fimbria.model.layer7 import layer7, secret
from fimbria.model.policy import PolicyError, Protocol
from fimbria.model.redirects import DNS, TLS

if TYPE_CHECKING:
    from typing import Any

    from fimbria.model.policy import PortSpec
    from fimbria.model.reading import Place

_TLS = ("terminatingTLS", "originatingTLS")
_FIELDS = ("rules", *_TLS, "serverNames", "listener")
_LISTENERS = ("CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig")


class Proxy(NamedTuple):
    """Where a port rule's traffic goes (`PortSpec.parser`), and the field that says so."""

    parser: str
    path: str
    rules: bool
    """Whether there are layer 7 rules, which most parsers read over TCP only."""


def proxy_of(fields: Fields, place: Place) -> Proxy | None:
    """Take the fields of a port rule that need a proxy; None if there are none.

    Raises PolicyError.
    """
    if place.deny:
        fields.refuse(_FIELDS, "a denial has no layer 7")
    terminating = fields.has(_TLS[0])
    encrypted = ""
    for name in _TLS:
        context = fields.mapping(name)
        if context is not None:
            _tls(context)
            encrypted = encrypted or fields.at(name)
    names = fields.filled("serverNames", _server_name)
    if names:
        encrypted = encrypted or fields.at("serverNames")
    listener = fields.mapping("listener")
    rules = fields.mapping("rules")
    found = None if rules is None else layer7(rules)
    if found is not None and rules is not None:
        if names and not terminating:
            raise PolicyError(
                fields.at("serverNames"), "beside layer 7 rules it takes terminatingTLS"
            )
        proxy = Proxy(found.parser, rules.at(found.field), True)
    elif encrypted:
        proxy = Proxy(TLS, encrypted, False)
    else:
        proxy = None
    if listener is not None:
        if proxy is not None and proxy.rules:
            raise PolicyError(listener.path, "a listener takes no layer 7 rules beside it")
        proxy = Proxy(_listener(listener, place), listener.path, False)
    if proxy is not None:
        _check_place(proxy, place)
    return proxy


def check_port(port: PortSpec, proxy: Proxy) -> None:
    """Raise PolicyError if a port cannot carry what the proxy reads."""
    if not proxy.rules:
        return
    if port.ports is None and not port.name:
        raise PolicyError(f"{port.path}.port", "layer 7 rules take a port other than 0")
    if proxy.parser == DNS:
        if port.protocols == (Protocol.SCTP,):
            raise PolicyError(f"{port.path}.protocol", "DNS goes over UDP and TCP")
        if port.ports is not None and port.ports[0] != port.ports[1]:
            raise PolicyError(f"{port.path}.endPort", "rules for DNS take no range of ports")
    elif port.protocols != (Protocol.TCP,):
        raise PolicyError(f"{port.path}.protocol", f"rules for {proxy.parser} need TCP")


def _check_place(proxy: Proxy, place: Place) -> None:
    ingress = place.direction is Direction.INGRESS
    if place.host and (ingress or proxy.parser != DNS):
        wanted = "on ingress" if ingress else "other than DNS"
        raise PolicyError(proxy.path, f"a policy about nodes has no layer 7 {wanted}")
    if proxy.parser == DNS and ingress:
        raise PolicyError(proxy.path, "rules for DNS are about egress only")


def _tls(fields: Fields) -> None:
    secret(fields.any("secret"), fields.at("secret"))
    for name in ("trustedCA", "certificate", "privateKey"):
        fields.text(name)
    fields.done()


def _server_name(value: Any, path: str) -> str:
    if not word(value, path):
        raise PolicyError(path, "expected a text that is not empty")
    return value


def _listener(fields: Fields, place: Place) -> str:
    if place.direction is Direction.INGRESS:
        raise PolicyError(fields.path, "a listener is about egress only")
    config = Fields(fields.any("envoyConfig"), fields.at("envoyConfig"))
    kind = config.text("kind", _LISTENERS[0])
    if kind not in _LISTENERS:
        raise PolicyError(config.at("kind"), f"{kind!r} is none of {', '.join(_LISTENERS)}")
    owner = config.name("name")
    config.done()
    name = fields.name("name")
    priority = fields.integer("priority")
    if priority is not None and not 0 <= priority <= 100:
        raise PolicyError(fields.at("priority"), f"{priority} is not from 1 to 100")
    fields.done()
    return f"listener:{owner}/{name}"
