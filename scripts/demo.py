"""make demo: two nodes, four pods, one policy, and why a packet was denied.

Every step is a command of `fimbria` or `kubectl` that a user could type; the script runs them,
shows what matters of their output, and takes the lab down whatever happens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from fimbria.cli import maptext, monitortext
from fimbria.cli.client import AgentClient
from fimbria.cli.errors import CliError

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
FIMBRIA = [sys.executable, "-m", "fimbria.cli.main"]
POLICY = DEMO / "policy.yaml"
WAIT = 20.0
BARE: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2), "header_style": "dim"}

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
Document = dict[str, Any]


class DemoError(Exception):
    """A step failed; the message is what its command said."""


def fimbria(*words: str) -> str:
    """Run a `fimbria` command; return what it printed."""
    done = subprocess.run([*FIMBRIA, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"fimbria {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def headline(text: str, command: str = "") -> None:
    """Start a step; `command` is how a user would do it."""
    console.print(f"\n[bold cyan]▸ {text}[/]")
    if command:
        console.print(f"  [dim]$ {command}[/]")


class Demo:
    """The demo in one lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status: Document = {}

    def up(self) -> None:
        """Bring up the lab with the scenario in it."""
        headline(
            "Two nodes, a Death Star with two replicas, a TIE fighter, an X-wing",
            f"fimbria lab up --name {self.name} --nodes 2 -f demo/starwars.yaml",
        )
        started = time.monotonic()
        with console.status("bringing up the lab"):
            fimbria(
                "lab", "up", "--name", self.name, "--nodes", "2", "-f", str(DEMO / "starwars.yaml")
            )
            self.status = json.loads(fimbria("lab", "status", "--name", self.name, "-o", "json"))
        console.print(f"  up and ready in {time.monotonic() - started:.1f} s")
        table = Table(
            "pod", "node", "address", "labels", box=None, pad_edge=False, header_style="dim"
        )
        for pod in self.pods():
            labels = {"tiefighter": "org=empire", "xwing": "org=alliance"}
            who = labels.get(pod["name"], "org=empire, class=deathstar")
            table.add_row(pod["name"], pod["node"], address(pod), who)
        indented(table)

    def pods(self) -> list[Document]:
        """Return the scenario's pods, Death Stars last."""
        mine = [pod for pod in self.status["pods"] if pod["namespace"] == "default"]
        return sorted(mine, key=lambda pod: (pod["name"].startswith("deathstar"), pod["node"]))

    def stars(self) -> list[Document]:
        """Return the Death Star's replicas."""
        return [pod for pod in self.pods() if pod["name"].startswith("deathstar")]

    def agent(self, node: str) -> AgentClient:
        """Return a client for a node's agent."""
        return AgentClient(next(n["socket"] for n in self.status["nodes"] if n["name"] == node))

    def attempt(self) -> dict[tuple[str, str, str], str | None]:
        """Let both ships try both replicas; return the answers by (ship, replica, what)."""
        tries = [(star, what) for star in self.stars() for what in ("land", "ping")]
        words = [f"{what}={address(star)}" for star, what in tries]
        source = (DEMO / "request.py").read_text()
        argv = [*FIMBRIA, "lab", "exec", "--name", self.name]
        running = {
            ship: subprocess.Popen(
                [*argv, ship, "--", sys.executable, "-c", source, *words],
                stdout=subprocess.PIPE,
                text=True,
            )
            for ship in ("tiefighter", "xwing")
        }
        answers: dict[tuple[str, str, str], str | None] = {}
        for ship, process in running.items():
            out, _ = process.communicate()
            if process.returncode:
                raise DemoError(f"{ship} could not run its requests")
            for (star, what), answer in zip(tries, json.loads(out), strict=True):
                answers[ship, star["name"], what] = answer
        return answers

    def apply_policy(self) -> None:
        """Apply the policy with kubectl and wait until both nodes enforce it."""
        headline("A CiliumNetworkPolicy", "kubectl apply -f demo/policy.yaml")
        kubeconfig = fimbria("lab", "kubeconfig", "--name", self.name).strip()
        command = ["kubectl", f"--kubeconfig={kubeconfig}", "apply", "-f", str(POLICY)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(done.stderr.strip())
        for node in self.status["nodes"]:
            agent = AgentClient(node["socket"])
            deadline = time.monotonic() + WAIT
            while "rule1" not in {one["name"] for one in agent.get("/v1/policy")["policies"]}:
                if time.monotonic() > deadline:
                    raise DemoError(f"{node['name']} has not heard of the policy in {WAIT:.0f} s")
                time.sleep(0.02)
            revision = agent.get("/v1/policy")["revision"]
            agent.wait("/v1/policy/wait", {"revision": revision}, WAIT)
        console.print(f"  {done.stdout.strip()}, enforced on both nodes")

    def denied_packet(self) -> tuple[Document, Document]:
        """Return the drop event of the X-wing's request to land, and the replica it was for."""
        for star in self.stars():
            for event in reversed(
                list(self.agent(star["node"]).lines("/v1/monitor", {"last": 4096, "follow": 0}))
            ):
                if (
                    event["type"] == "drop"
                    and event.get("dport") == 80
                    and event.get("daddr") == address(star)
                    and event.get("protocol") == 6
                ):
                    return event, star
        raise DemoError("no drop event for the X-wing's request: see `fimbria monitor`")

    def explain(self) -> None:
        """Show for one denied packet the event, the rule, the policy's lines, the map entries."""
        event, star = self.denied_packet()
        node = f"{self.name}/{star['node']}"
        headline(
            "Why was the X-wing denied?", f"fimbria --lab {node} monitor --type drop --last 1 -v"
        )
        short = {
            **event,
            "src_labels": told(event["src_labels"]),
            "dst_labels": told(event["dst_labels"]),
        }
        for line in monitortext.explained_lines(short):
            console.print(Text(f"  {line}", style="red" if line.startswith("xx") else ""))
        headline(
            "Rule by rule",
            f"fimbria --lab {node} policy trace --src-k8s-pod default:xwing "
            f"--dst-k8s-pod default:{star['name']} --dport 80/TCP",
        )
        request = {
            "src": {"pod": "default/xwing"},
            "dst": {"pod": f"default/{star['name']}"},
            "dport": "80/TCP",
        }
        trace = self.agent(star["node"]).post("/v1/policy/resolve", request)
        for line in str(trace["text"]).rstrip().splitlines():
            console.print(Text(f"  {line}"))
        self.show_policy()
        self.show_map(star, event)

    def show_policy(self) -> None:
        """Show the lines of the policy that closed the Death Star and that open it to others."""
        lines = POLICY.read_text().splitlines()
        first, last = lines.index("  endpointSelector:") + 1, len(lines)
        headline(
            f"The policy that decided: CiliumNetworkPolicy default/rule1, lines {first} to {last}"
        )
        syntax = Syntax(
            "\n".join(lines),
            "yaml",
            line_numbers=True,
            theme="ansi_dark",
            highlight_lines=set(range(first, last + 1)),
            background_color="default",
        )
        indented(syntax)

    def show_map(self, star: Document, event: Document) -> None:
        """Show the policy map in force, and what the lookup of the denied packet asked it."""
        node = f"{self.name}/{star['node']}"
        endpoint = event["source"]
        headline("The map entries that decided", f"fimbria --lab {node} bpf policy list {endpoint}")
        words = ("--lab", node, "bpf", "policy", "list", str(endpoint), "-o", "json")
        table = Table("verdict", "direction", "peer", "port", **BARE)
        table.add_column("rule", overflow="fold")
        table.add_column("key", no_wrap=True)
        for entry in json.loads(fimbria(*words))[0]["entries"]:
            peer = ", ".join(one.removeprefix("k8s:") for one in told(entry["labels"])) or "any"
            table.add_row(
                *(
                    entry["policy"],
                    entry["direction"],
                    f"{entry['identity']} [{peer}]".replace("[", r"\["),
                ),
                *(entry["port"], entry["rule_name"] or str(entry["rule"]), entry["key"]),
            )
        indented(table)
        who, reason = event["src_label"], event["reason_number"]
        console.print(
            f"\n  The packet asked for {{identity {who}, 80/TCP}} and {{any identity, 80/TCP}} in "
            f"policy map {event.get('policy_id')}:\n  neither is there, ingress is enforced: "
            f"[red]drop reason {reason}, {maptext.reason(reason)}[/]."
        )

    def down(self) -> None:
        """Take the lab down."""
        headline("Down again", f"fimbria lab down --name {self.name}")
        fimbria("lab", "down", "--name", self.name)
        console.print("  nothing is left behind")

    def farewell(self) -> None:
        """Say how to look around, and how to end it."""
        headline("The lab stays up. Look around:")
        for line in (
            f"lab status --name {self.name}",
            f"--lab {self.name}/{self.status['nodes'][0]['name']} status",
            f"--lab {self.name}/{self.status['nodes'][0]['name']} endpoint list",
            f"--lab {self.name}/{self.status['nodes'][1]['name']} monitor -v",
            f"connectivity test --lab {self.name}",
            f"lab kubeconfig --name {self.name}   # for kubectl",
        ):
            console.print(f"  .venv/bin/fimbria {line}")
        console.print(f"\n  End it with: [bold].venv/bin/fimbria lab down --name {self.name}[/]")


def address(pod: Document) -> str:
    """Return a pod's first address."""
    return str(pod["addresses"][0])


def told(labels: list[str]) -> list[str]:
    """Return the labels that the policy speaks of; a pod has five more."""
    return [one for one in labels if one.startswith(("k8s:org=", "k8s:class=", "reserved:"))]


def indented(thing: Any) -> None:
    """Print a rich renderable two columns in."""
    from rich.padding import Padding

    console.print(Padding(thing, (0, 0, 0, 2)))


def compare(
    before: dict[tuple[str, str, str], str | None],
    after: dict[tuple[str, str, str], str | None],
    stars: list[Document],
) -> None:
    """Print who reached whom, before and after."""
    headline("Who reaches the Death Star, before and after")
    table = Table("from", "to", "what", "before", "after", **BARE)
    places = {star["name"]: f"deathstar on {star['node']}" for star in stars}
    names = {"land": "POST :80/v1/request-landing", "ping": "ping"}
    for key, first in before.items():
        ship, star, what = key
        table.add_row(ship, places[star], names[what], cell(first), cell(after[key]))
    indented(table)


def cell(answer: str | None) -> Text:
    """Return an answer as a coloured cell."""
    return Text(answer, style="green") if answer else Text("no answer", style="red")


def check(after: dict[tuple[str, str, str], str | None], before: dict[Any, str | None]) -> None:
    """Fail if the network did not do what the policy says: a demo must not lie."""
    wrong = [
        f"{ship} to {star}, {what}"
        for (ship, star, what), answer in after.items()
        if (answer is not None) != (ship == "tiefighter" and what == "land")
    ] + [f"{' '.join(key)}, before the policy" for key, answer in before.items() if answer is None]
    if wrong:
        raise DemoError(f"the network did not do what the policy says: {'; '.join(wrong)}")


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="the demo scenario, on two nodes")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--name", help="of the lab (default: demo, or demo-PID without --keep)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        console.print("demo: needs root, for network namespaces and BPF", style="red")
        return 1
    demo = Demo(options.name or ("demo" if options.keep else f"demo-{os.getpid()}"))
    started, ended = time.monotonic(), False
    try:
        demo.up()
        before = demo.attempt()
        demo.apply_policy()
        after = demo.attempt()
        compare(before, after, demo.stars())
        check(after, before)
        demo.explain()
        if options.keep:
            demo.farewell()
        else:
            demo.down()
        ended = True
    except (DemoError, CliError) as error:
        console.print(f"demo: {error}", style="red")
        return 1
    finally:
        if not ended:
            subprocess.run([*FIMBRIA, "lab", "down", "--name", demo.name], check=False)
    console.print(f"\n[dim]{time.monotonic() - started:.1f} s[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
