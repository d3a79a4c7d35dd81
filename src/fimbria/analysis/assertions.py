"""Assertions about who can reach whom, and how they are read.

    no path from ns=dev to app=etcd
    no path from entity:world to any on TCP/22, TCP/3389
    path from ns=shop and app=web to app=db on TCP/5432
    only ns=monitoring or app=gateway can reach app=db on TCP/9187
    ns=sandbox is isolated

    assertion = "no path from" ENDS "to" ENDS [ON]
              | "path from" ENDS "to" ENDS [ON]
              | "only" ENDS "can reach" ENDS [ON]
              | ENDS "is isolated" [ON]
    ENDS      = PART { "or" PART }
    PART      = WHO { "and" WHO }
    WHO       = "not" WHO | "(" ENDS ")" | "any" | "pods" | "pod=NS/NAME" | "ns=NAME"
              | "nodes" | "node=NAME" | KEY "=" VALUE | "entity:NAME" | "cidr:PREFIX"
    ON        = "on" PORTS { "," PORTS }
    PORTS     = PROTOCOL [ "/" PORT [ "-" PORT ] ] | "port" PORT [ "-" PORT ]

`path` demands that every source gets through to every destination on every port that is named (on
some port at all, if none is). "isolated" means that nobody outside the ends gets in, and they get
to nobody outside. It and "only" do not speak of the node that a pod runs on, which may reach its
pods in any case (`no path from entity:host to ...` does). Pods of one kind, nodes where policies
can tell them apart, entities and ranges of addresses are the ends (analysis.atoms). A node is
entity:host to the pods that run on it, and entity:remote-node to all others. What goes on between
two ends of which no policy can be about either is not asked.

    text ─► words ─► Assertion: demands between ends, on atoms ─► analysis.prove
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.atoms import SPACES, Atom
from fimbria.analysis.places import ENTITIES
from fimbria.model.identity import API_SERVER
from fimbria.model.labels import NAMESPACE, LabelSet
from fimbria.model.peers import Prefix, prefix
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.analysis.atoms import Group
    from fimbria.model.labels import Labels

    Ends = Callable[[Group], bool]

_AN_END = "an end: any, pods, nodes, ns=NAME, node=NAME, KEY=VALUE, entity:NAME, cidr:PREFIX"
_NODES = frozenset({"reserved:host", "reserved:remote-node"})
_WORDS = re.compile(r"\(|\)|,|[^\s(),]+")
_PORTS = re.compile(r"(?P<protocol>[A-Za-z0-9]+)(/(?P<first>\d+)(-(?P<last>\d+))?)?$")
_BARE = re.compile(r"(?P<first>\d+)(-(?P<last>\d+))?$")


class AssertionSyntaxError(ValueError):
    """An assertion that cannot be read; the message says where and what is expected."""


class Demand(NamedTuple):
    """No packet of `atoms` from `sources` to `destinations`; with `every`, all of them instead.

    `atoms` is empty for all; then `every` demands one for each pair.
    """

    sources: Ends
    destinations: Ends
    every: bool = False


@dataclass(frozen=True, slots=True)
class Assertion:
    """An assertion as written, and what it demands."""

    text: str
    demands: tuple[Demand, ...]
    atoms: tuple[Atom, ...] = ()
    prefixes: tuple[Prefix, ...] = ()


def parse(text: str) -> Assertion:
    """Return an assertion. Raises AssertionSyntaxError."""
    return _Reader(text).assertion()


class _Reader:
    """Reads one assertion word by word."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._words = _WORDS.findall(text)
        self._at = 0
        self._prefixes: list[Prefix] = []

    def assertion(self) -> Assertion:
        """Return the assertion."""
        if self._take("no", "path", "from"):
            demands = (Demand(*self._from_to()),)
        elif self._take("path", "from"):
            demands = (Demand(*self._from_to(), every=True),)
        elif self._take("only"):
            sources = self._ends()
            self._expect("can", "reach")
            demands = (Demand(_others(sources), self._ends()),)
        else:
            inside = self._ends()
            self._expect("is", "isolated")
            demands = Demand(_others(inside), inside), Demand(inside, _inverse(inside))
        atoms = tuple(self._on()) if self._take("on") else ()
        if self._at < len(self._words):
            raise self._wrong("the end")
        return Assertion(self._text, demands, atoms, tuple(self._prefixes))

    def _from_to(self) -> tuple[Ends, Ends]:
        sources = self._ends()
        self._expect("to")
        return sources, self._ends()

    def _ends(self) -> Ends:
        parts = [self._part()]
        while self._take("or"):
            parts.append(self._part())
        return lambda group: any(part(group) for part in parts)

    def _part(self) -> Ends:
        parts = [self._who()]
        while self._take("and"):
            parts.append(self._who())
        return lambda group: all(part(group) for part in parts)

    def _who(self) -> Ends:
        if self._take("not"):
            return _inverse(self._who())
        if self._take("("):
            found = self._ends()
            self._expect(")")
            return found
        word = self._next(_AN_END)
        if word == "any":
            return lambda _: True
        if word == "pods":
            return lambda group: group.kind == "pods"
        if word == "nodes":
            return lambda group: not _NODES.isdisjoint(group.labels)
        if word.startswith("entity:"):
            return self._entity(word.removeprefix("entity:"))
        if word.startswith("cidr:"):
            return self._cidr(word.removeprefix("cidr:"))
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            self._at -= 1
            raise self._wrong(_AN_END)
        if key == "pod":
            return lambda group: value in group.members
        if key == "node":
            return lambda group: group.kind == "node" and group.node == value
        return _labelled(f"k8s:{NAMESPACE}" if key == "ns" else key, value)

    def _entity(self, name: str) -> Ends:
        if name not in ENTITIES and name not in ("world", "cluster"):
            self._at -= 1
            raise self._wrong(f"an entity: {', '.join(ENTITIES)}, cluster")
        if name == "world":
            return lambda group: group.kind == "world"
        if name == "cluster":
            return lambda group: group.kind != "world" or API_SERVER in group.labels
        return _labelled(f"reserved:{name}", "")

    def _cidr(self, text: str) -> Ends:
        try:
            net = prefix(text)
        except ValueError:
            self._at -= 1
            raise self._wrong("a prefix such as cidr:10.0.0.0/8") from None
        self._prefixes.append(net)
        whole = 4 if len(net.ip) == 4 else 6
        if not net.bits:
            return lambda group: group.kind == "world" and group.family == whole
        return lambda group: group.net is not None and net.covers(group.net)

    def _on(self) -> Iterator[Atom]:
        yield from self._ports()
        while self._take(","):
            yield from self._ports()

    def _ports(self) -> Iterator[Atom]:
        if self._take("port"):
            word = self._next("a port")
            found, protocols = _BARE.match(word), [int(Protocol.TCP), int(Protocol.UDP)]
        else:
            word = self._next("ports such as TCP/443")
            found, protocols = _PORTS.match(word), []
            name = found["protocol"].upper() if found else ""
            protocols = [int(Protocol[name])] if name in Protocol.__members__ else []
        if found is None or not protocols:
            self._at -= 1
            raise self._wrong("ports such as TCP/443, UDP, TCP/30000-32767, port 53")
        for protocol in protocols:
            low, high = SPACES[protocol]
            first = int(found["first"]) if found["first"] else low
            last = int(found["last"] or first) if found["first"] else high
            if not low <= first <= last <= high:
                self._at -= 1
                raise self._wrong(f"ports from {low} to {high}")
            yield Atom(protocol, first, last)

    def _take(self, *words: str) -> bool:
        """Take these words if they come next."""
        end = self._at + len(words)
        if [word.lower() for word in self._words[self._at : end]] != list(words):
            return False
        self._at = end
        return True

    def _expect(self, *words: str) -> None:
        if not self._take(*words):
            raise self._wrong(f"{' '.join(words)!r}")

    def _next(self, wanted: str) -> str:
        if self._at >= len(self._words):
            raise self._wrong(wanted)
        self._at += 1
        return self._words[self._at - 1]

    def _wrong(self, wanted: str) -> AssertionSyntaxError:
        have = repr(self._words[self._at]) if self._at < len(self._words) else "the end"
        return AssertionSyntaxError(f"{self._text!r}: expected {wanted}, found {have}")


def _inverse(ends: Ends) -> Ends:
    return lambda group: not ends(group)


def _others(ends: Ends) -> Ends:
    """Return everyone else but the node that a pod runs on, which may always reach it."""
    return lambda group: "reserved:host" not in group.labels and not ends(group)


def _labelled(key: str, value: str) -> Ends:
    """Return who has a label; without source it is any:KEY."""
    name = key if ":" in key else f"any:{key}"
    return lambda group: value in _values(group.labels).get(name, ())


@lru_cache(maxsize=1 << 16)
def _values(labels: Labels) -> dict[str, tuple[str, ...]]:
    return LabelSet(labels).values
