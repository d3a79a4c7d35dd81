"""`fimbria policy explain`: why one may reach the other or not, and what would turn it."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, emit
from fimbria.cli.policy_eval import told
from fimbria.cli.target import Target, agent_command
from fimbria.cli.worldoptions import files_option, settings_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.analysis import Engine
    from fimbria.cli.worldoptions import Settings

_PORT = re.compile(r"(\d{1,5})(?:/([A-Za-z0-9]+))?")


def world_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `-f` and how agents are configured; they make an engine (`engine_of`)."""
    return files_option(required=False)(settings_options(function))


def engine_of(files: tuple[str, ...], settings: Settings) -> Engine:
    """Return an engine over manifests; what is wrong with them is told on standard error.

    Raises CliError if nothing at all could be read.
    """
    world = settings.load(files)
    told(world.errors, "error")
    told(world.warnings, "warning")
    if world.errors and not world.pods and not world.policies:
        raise CliError(f"nothing to go by in {', '.join(files)}")
    return settings.engine(world)


@click.command("explain")
@agent_command
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.argument("port", metavar="PORT[/PROTO]")
@world_options
def explain(
    target: Target,
    form: Format,
    source: str,
    destination: str,
    port: str,
    files: tuple[str, ...],
    settings: Settings,
) -> None:
    """Say why SRC may reach DST on a port or not: map entry, rule, lines of YAML, and the cure.

    With -f from manifests, without a cluster and without root; otherwise a node is asked, as
    `policy trace` does. SRC and DST are [NAMESPACE/]POD, an address, identity:NUMBER, with -f also
    node:NAME, entity:NAME and (DST) svc:NAMESPACE/NAME. Every cure is tried before it is shown.
    """
    number, protocol = port_of(port)
    if not files:
        request = {
            "src": end_of(source),
            "dst": end_of(destination),
            "dport": f"{number}/{protocol}",
        }
        answer: dict[str, Any] = target.client().post("/v1/policy/resolve", request)
        emit(form, answer, lambda: str(answer["text"]).rstrip())
        return
    from fimbria.analysis import Flow, FlowError, explain_path

    engine = engine_of(files, settings)
    flow = Flow(end_name(source), end_name(destination), protocol, number)
    try:
        found = explain_path.explain(engine, flow)
    except FlowError as error:
        raise CliError(str(error)) from error
    emit(
        form,
        explain_path.document(found),
        lambda: "\n".join(explain_path.lines(engine.world, found)),
    )


def traced(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Return what a node would answer to `POST /v1/policy/resolve`, from manifests."""
    from fimbria.analysis import FlowError
    from fimbria.analysis.trace_world import resolve

    try:
        return resolve(engine, request).document()
    except FlowError as error:
        raise CliError(str(error)) from error


def port_of(text: str) -> tuple[int, str]:
    """Return PORT[/PROTO] in its parts, TCP if no protocol is given. Raises UsageError."""
    found = _PORT.fullmatch(text)
    if found is None or int(found[1]) > 0xFFFF:
        raise click.UsageError(f"'{text}': write it as PORT or PORT/PROTO: 80, 53/UDP, 8/ICMP")
    return int(found[1]), (found[2] or "TCP").upper()


def end_name(text: str) -> str:
    """Return an end as flows name it; a name alone is a pod of namespace default."""
    if "/" in text or ":" in text or _is_address(text):
        return text
    return f"default/{text}"


def end_of(text: str) -> dict[str, Any]:
    """Return an end as a node is asked about it. Raises UsageError for what it does not know."""
    if _is_address(text):
        return {"ip": text}
    if text.startswith("identity:") and text[9:].isdecimal():
        return {"identity": int(text[9:])}
    if text.startswith(("node:", "entity:", "svc:")):
        raise click.UsageError(f"'{text}' can be asked about with -f only")
    return {"pod": end_name(text)}


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
