"""Which process a container of a manifest becomes.

A container with a command runs it as a process of this machine. Without one, its image must be one
that a built-in application stands in for, because the lab pulls no images.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.cni.install import interpreter
from fimbria.lab import apps, objects

if TYPE_CHECKING:
    from collections.abc import Mapping

Document = dict[str, Any]

IMAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fimbria/echo": ("echo", ("tcp:8080",)),
    "fimbria/lines": ("lines", ("tcp:7", "udp:7")),
    "fimbria/sleep": ("sleep", ()),
    "cilium/starwars": ("starwars", ("tcp:80",)),
    "cilium/json-mock": ("echo", ("tcp:8080",)),
    "cilium/echo": ("echo", ("tcp:8080",)),
    "cilium/alpine-curl": ("sleep", ()),
    "tgraf/netperf": ("sleep", ()),
    "curlimages/curl": ("sleep", ()),
    "nicolaka/netshoot": ("sleep", ()),
    "library/nginx": ("echo", ("tcp:80",)),
    "traefik/whoami": ("echo", ("tcp:80",)),
    "pause": ("sleep", ()),
}
"""Image, without registry and tag -> application, and its ports if the manifest names none."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoSuchImage(Exception):
    """Nothing here stands in for the image; the message says what to do."""


@dataclass(frozen=True)
class Process:
    """What to execute: words, environment, working directory."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str


def process(container: Document, pod: Document, environment: Mapping[str, str]) -> Process:
    """The process of one container; `environment` is what every container of the pod gets.

    Raises NoSuchImage, or ValueError naming the field that cannot be had here.
    """
    values = {"PATH": DEFAULT_PATH, "HOME": "/root"} | dict(environment)
    for one in objects.parts(container, "env"):
        values[str(one["name"])] = _expand(_value(one, pod, environment), values)
    directory = str(container.get("workingDir") or "/")
    words = [str(word) for word in objects.parts(container, "command")]
    arguments = [str(word) for word in objects.parts(container, "args")]
    if not words:
        return Process(_builtin(container, arguments), values, directory)
    return Process(tuple(_expand(word, values) for word in words + arguments), values, directory)


def _builtin(container: Document, arguments: list[str]) -> tuple[str, ...]:
    image = str(container.get("image") or "")
    short = _short(image)
    found = IMAGES.get(short) or IMAGES.get(short.rpartition("/")[2])
    if found is None:
        known = ", ".join(sorted(IMAGES))
        raise NoSuchImage(
            f"image {image!r}: the lab pulls no images; give the container a command, which runs "
            f"as a process of this machine, or use one of {known}"
        )
    app, ports = found
    named = [
        f"{str(port.get('protocol') or 'TCP').lower()}:{port['containerPort']}"
        for port in objects.parts(container, "ports")
    ]
    if app == "sleep":
        chosen: list[str] = []
    elif arguments and all(re.fullmatch(r"(tcp|udp):\d+", word) for word in arguments):
        chosen = arguments
    else:
        chosen = [word for word in named if not word.startswith("sctp")] or list(ports)
    return (str(interpreter()), "-IS", str(Path(apps.__file__)), app, *chosen)


def _short(image: str) -> str:
    """The repository without registry, tag and digest; Docker's own images are in `library`."""
    name = image.partition("@")[0]
    head, _, tail = name.rpartition("/")
    name = f"{head}/{tail.partition(':')[0]}" if head else f"library/{tail.partition(':')[0]}"
    first, slash, rest = name.partition("/")
    is_registry = slash and ("." in first or ":" in first or first == "localhost")
    return rest if is_registry else name


def _value(one: Document, pod: Document, environment: Mapping[str, str]) -> str:
    source: Document = objects.part(one, "valueFrom")
    if not source:
        return str(one.get("value") or "")
    path = str(objects.part(source, "fieldRef").get("fieldPath") or "")
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
        "status.podIP": environment.get("FIMBRIA_POD_IP", ""),
        "status.podIPs": environment.get("FIMBRIA_POD_IPS", ""),
        "status.hostIP": environment.get("FIMBRIA_HOST_IP", ""),
    }
    label = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if label:
        return str(objects.part(pod["metadata"], label[1]).get(label[2], ""))
    if path not in fields:
        raise ValueError(
            f"env {one['name']}: valueFrom: the lab knows fieldRef with one of {', '.join(fields)}"
        )
    return str(fields[path])


def _expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' $(NAME), with $$( for a literal one; an unknown name stays as it is."""

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return values.get(match[1], match[0])

    return re.sub(r"\$?\$\(([-._A-Za-z0-9]+)\)", replace, text)
