"""`fimbria`: the root of the command line.

Everything that talks to an agent takes `--socket` or `--lab`, and every command that prints data
takes `-o json|yaml|table`. An error is one line that says what to do next, and exit code 1 (2 for
a wrong argument, which is named).
"""

from __future__ import annotations

import os
import sys

import click

from fimbria.cli.lazy import LazyGroup, Place
from fimbria.cli.target import Target, lab_option

PLACES = {
    "status": Place("fimbria.cli.status:command", "How the node's agent is, requested and real."),
    "endpoint": Place("fimbria.cli.endpoint:group", "The pods that this node connects."),
    "identity": Place("fimbria.cli.identity:group", "Identities: numbers that labels stand for."),
    "ip": Place("fimbria.cli.ip:group", "Which address belongs to which identity."),
    "node": Place("fimbria.cli.node:group", "The cluster's nodes as this node knows them."),
    "policy": Place("fimbria.cli.policy:group", "Policies, their selectors, and why they decide."),
    "map": Place("fimbria.cli.maps:group", "The BPF maps as the agent keeps them."),
    "bpf": Place("fimbria.cli.bpf:group", "The pinned BPF maps themselves, without the agent."),
    "monitor": Place("fimbria.cli.monitor:command", "What the datapath does, as it happens."),
    "metrics": Place("fimbria.cli.metrics:group", "The agent's metrics, as Prometheus gets them."),
    "config": Place("fimbria.cli.config:group", "The configuration: requested, effective, source."),
    "connectivity": Place("fimbria.cli.connectivity:group", "Prove that the network works."),
    "lab": Place("fimbria.lab.command:lab", "A cluster of namespaces on this machine."),
    "agent": Place("fimbria.agent.command:command", "Run the node's agent."),
    "operator": Place("fimbria.operator.command:command", "Run the cluster's operator."),
    "apiserver": Place("fimbria.apiserver.command:command", "Run the embedded API server."),
    "completion": Place("fimbria.cli.completion:command", "Print a shell's completion script."),
}


@click.group(
    cls=LazyGroup,
    places=PLACES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="fimbria")
@click.option("--socket", metavar="PATH", help="The agent's socket.")
@lab_option
@click.pass_context
def root(ctx: click.Context, socket: str | None, lab: str | None) -> None:
    """Fimbria: pods on a network of eBPF, and every verdict explained."""
    Target.remember(ctx, socket=socket, lab=lab)


def main() -> None:
    """Run the command line; the entry point of the `fimbria` script."""
    try:
        root.main(prog_name="fimbria")
    except BrokenPipeError:
        # The reader of our pipe left (`| head`); Python must not complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
