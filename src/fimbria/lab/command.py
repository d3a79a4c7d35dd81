"""`fimbria lab …`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.lab.client import Lab

NAME = click.option("--name", default="default", show_default=True, help="The lab's name.")


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the lab's errors in one line."""
    from functools import update_wrapper

    def run(*args: Any, **kwargs: Any) -> Any:
        from fimbria.lab.spec import LabError
        from fimbria.sources.files import ManifestError

        try:
            return function(*args, **kwargs)
        except (LabError, ManifestError) as error:
            raise click.ClickException(str(error)) from error

    return update_wrapper(run, function)


def _lab(name: str) -> Lab:
    from fimbria.lab.client import Lab

    return Lab(name)


@click.group()
def lab() -> None:
    """A cluster of namespaces on this machine."""


@lab.command()
@NAME
@click.option("--nodes", default=2, show_default=True, help="How many nodes.")
@click.option("--routing", type=click.Choice(["tunnel", "native"]), default="tunnel",
              show_default=True, help="How pods reach other nodes.")  # fmt: skip
@click.option("--ipv6", is_flag=True, help="IPv6 beside IPv4.")
@click.option("--host-routing", type=click.Choice(["bpf", "legacy"]), default="bpf",
              show_default=True, help="Past the kernel's stack, or through it.")  # fmt: skip
@click.option("--config", multiple=True, metavar="KEY=VALUE", help="Agents' configuration.")
@click.option("--kube-apiserver", type=click.Path(path_type=Path), metavar="PATH",
              help="Use this kube-apiserver, not the embedded API server.")  # fmt: skip
@click.option("--etcd", type=click.Path(path_type=Path), metavar="PATH",
              help="The etcd for it. Default: beside it, or on PATH.")  # fmt: skip
@click.option("-f", "--filename", "manifests", multiple=True, metavar="MANIFEST",
              help="File, folder or - to apply; waits until it is ready.")  # fmt: skip
@click.option("--timeout", default=60.0, show_default=True, help="Seconds until it must be ready.")
@_guarded
def up(
    name: str,
    nodes: int,
    routing: str,
    ipv6: bool,
    host_routing: str,
    config: tuple[str, ...],
    kube_apiserver: Path | None,
    etcd: Path | None,
    manifests: tuple[str, ...],
    timeout: float,
) -> None:
    """Start a lab, apply manifests, and wait until everything is ready."""
    from fimbria.lab.client import Lab
    from fimbria.lab.spec import LabSpec

    keys: dict[str, str] = {}
    for word in config:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{word!r}: write KEY=VALUE", param_hint="--config")
        keys[key] = value
    real = [str(path.absolute()) if path else "" for path in (kube_apiserver, etcd)]
    spec = LabSpec(name, nodes, routing, ipv6, host_routing, keys, *real)
    began = time.monotonic()
    Lab.up(spec, manifests, timeout=timeout, progress=lambda text: click.echo(text, err=True))
    click.echo(f"lab {name} is up after {time.monotonic() - began:.1f} s", err=True)


@lab.command()
@NAME
@click.option("--all", "every", is_flag=True, help="All labs of this machine.")
@_guarded
def down(name: str, every: bool) -> None:
    """End a lab, and leave nothing of it."""
    from fimbria.lab.launch import names, sweep

    sweep()
    for one in names() if every else [name]:
        _lab(one).down()
        click.echo(f"lab {one} is down", err=True)


@lab.command()
@NAME
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table",
              show_default=True, help="How to print.")  # fmt: skip
@_guarded
def status(name: str, output: str) -> None:
    """Show a lab's nodes and pods."""
    document = _lab(name).status()
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    else:
        _print_status(document)


def _print_status(document: dict[str, Any]) -> None:
    click.echo(
        f"Lab {document['name']}: routing {document['routing']}, host routing "
        f"{document['host_routing']}, kubeconfig {document['kubeconfig']}\n"
    )
    nodes = [
        (one["name"], _yes(one["ready"]), one["agent_pid"], " ".join(one["addresses"]))
        for one in document["nodes"]
    ]
    _table(("Node", "Ready", "Agent PID", "Addresses"), nodes)
    click.echo()
    pods = [
        (
            one["namespace"],
            one["name"],
            _yes(one["ready"]),
            one["phase"],
            one["node"],
            " ".join(one["addresses"]),
        )
        for one in document["pods"]
    ]
    _table(("Namespace", "Pod", "Ready", "Phase", "Node", "Addresses"), pods)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    lines = [columns, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("   ".join(cells).rstrip())


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@NAME
@click.argument("pod", metavar="[NAMESPACE/]POD")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@_guarded
def exec_(name: str, pod: str, command: tuple[str, ...]) -> None:
    """Run a command in a pod: its network, mounts, host name; our terminal and exit code."""
    from fimbria.lab.client import pod_environment

    lab = _lab(name)
    entry = lab.entry(pod)
    sys.stdout.flush()
    lab.enter(entry)
    try:
        os.execvpe(command[0], list(command), pod_environment(entry))
    except OSError as error:
        raise SystemExit(_not_started(command[0], error)) from None


def _not_started(command: str, error: OSError) -> int:
    """Say why, and give the exit code that shells give."""
    click.echo(f"Error: {command}: {error.strerror}", err=True)
    return 127 if isinstance(error, FileNotFoundError) else 126


@lab.command()
@NAME
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.argument("node")
@_guarded
def logs(name: str, node: str, follow: bool) -> None:
    """Print the log of a node's agent (or of apiserver, operator, supervisor)."""
    from fimbria.lab.spec import LabError

    lab = _lab(name)
    paths = lab.paths
    path = paths.log(node) if node in ("apiserver", "operator", "supervisor") else None
    path = path or lab.paths.agent_log(str(lab.node(node)["name"]))
    try:
        os.execvp("tail", ["tail", "-n", "+1", *(["-F"] if follow else []), str(path)])
    except OSError as error:
        raise LabError(f"tail: {error.strerror}") from None


@lab.command()
@NAME
@_guarded
def kubeconfig(name: str) -> None:
    """Print the path of the kubeconfig that kubectl needs."""
    lab = _lab(name)
    lab.status()
    click.echo(lab.paths.kubeconfig)
