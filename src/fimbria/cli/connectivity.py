"""`fimbria connectivity test`: prove that the network does what its policies say."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.connectivity.cluster import Cluster
    from fimbria.connectivity.model import Scenario
    from fimbria.connectivity.runner import ScenarioResult

NAMESPACE = "fimbria-test"


@click.group()
def group() -> None:
    """Prove that the network works."""


@group.command("list")
@agent_command
def list_scenarios(target: Target, form: Format) -> None:
    """List the scenarios and what each claims."""
    from fimbria.connectivity.suite import SUITE

    table = Table(["TEST", "CLAIM"])
    for scenario in SUITE:
        table.add(scenario.name, scenario.claim)
    emit(form, [{"name": one.name, "claim": one.claim} for one in SUITE], lambda: table)


@group.command("test")
@agent_command
@click.option("--kubeconfig", metavar="PATH", help="A cluster that is no lab (or KUBECONFIG).")
@click.option("--test", "patterns", multiple=True, metavar="REGEX", help="Only these; !X: not X.")
@click.option("--namespace", default=NAMESPACE, show_default=True, help="Made for the test.")
@click.option("--image", help="Of the test's pods; it must have python3.")
@click.option("--junit", type=click.Path(dir_okay=False), help="Write a JUnit report there.")
@click.option("--keep", is_flag=True, help="Leave the pods there afterwards.")
def test(
    target: Target,
    form: Format,
    kubeconfig: str | None,
    patterns: tuple[str, ...],
    namespace: str,
    image: str | None,
    junit: str | None,
    keep: bool,
) -> None:
    """Deploy pods, apply policies one after the other, and try who reaches whom.

    Runs in the lab that --lab names, or in the cluster of --kubeconfig.
    """
    from fimbria.connectivity import report
    from fimbria.connectivity.places import IMAGE
    from fimbria.connectivity.suite import SUITE, select

    try:
        scenarios = select(patterns)
    except re.error as error:
        raise click.UsageError(f"--test: '{error.pattern}' is no regular expression") from error
    if not scenarios:
        raise click.UsageError("--test: no scenario has such a name: see `connectivity list`")
    say = _progress(form)
    results = asyncio.run(_run(target, kubeconfig, scenarios, namespace, image or IMAGE, keep, say))
    if junit:
        Path(junit).write_text(report.junit(results))
    document = report.document(results)
    emit(form, document, lambda: report.summary(results, len(SUITE) - len(scenarios)))
    if not document["ok"]:
        raise SystemExit(1)


def _progress(form: Format) -> Callable[[str], None]:
    """Return what prints progress: to standard error if standard output is for a document."""

    def say(text: str) -> None:
        click.echo(text, err=form is not Format.TABLE)

    return say


async def _run(
    target: Target,
    kubeconfig: str | None,
    scenarios: Sequence[Scenario],
    namespace: str,
    image: str,
    keep: bool,
    say: Callable[[str], None],
) -> list[ScenarioResult]:
    from fimbria.cli import connectivity_lab, monitortext
    from fimbria.connectivity import report
    from fimbria.connectivity.cluster import ConnectivityError
    from fimbria.connectivity.deploy import deployed
    from fimbria.connectivity.runner import Runner
    from fimbria.sources.errors import KubeconfigError, KubeError, KubeUnreachable

    try:
        cluster = (
            connectivity_lab.open_lab(target.lab)
            if target.lab
            else await _open_cluster(_kubeconfig(kubeconfig))
        )
        async with cluster.api:
            say(f"✨ [{cluster.name}] deploying the pods in {namespace}")
            async with deployed(cluster, namespace, image, keep=keep) as spots:
                if target.lab:
                    connectivity_lab.learn_paths(cluster, target.lab)
                say(f"🏃 {len(scenarios)} tests between {len(spots)} places")
                runner = Runner(cluster, spots, namespace)
                return await runner.run(
                    scenarios, lambda one: say(report.line(one, monitortext.explained_lines))
                )
    except (ConnectivityError, KubeconfigError, KubeError, KubeUnreachable) as error:
        raise CliError(str(error)) from error


async def _open_cluster(path: Path) -> Cluster:
    from fimbria.connectivity.cluster import KubectlCluster
    from fimbria.sources.kube import KubeClient

    cluster = KubectlCluster(
        path.name, KubeClient.from_kubeconfig(path), ["kubectl", f"--kubeconfig={path}"]
    )
    await cluster.find_agents()
    return cluster


def _kubeconfig(given: str | None) -> Path:
    """Return the kubeconfig to use: the option's, KUBECONFIG's, or the user's own."""
    named = given or os.environ.get("KUBECONFIG")
    path = Path(named).expanduser() if named else Path.home() / ".kube" / "config"
    if not path.exists():
        raise CliError(
            f"{path} does not exist: name a cluster with --lab NAME or --kubeconfig PATH"
        )
    return path
