"""Run scenarios: put a step's policies in force, try everything at once, judge.

Each pod is asked once per step: it gets all its attempts in one command and makes them side by
side. What must be answered has ANSWER_TIMEOUT to do so, what must not be is given up after
SILENCE_TIMEOUT; that the silence had the right reason is read from the drop events.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fimbria.connectivity import places
from fimbria.connectivity.cluster import PODS, ConnectivityError, Spot
from fimbria.connectivity.deploy import until
from fimbria.connectivity.model import Action, actions
from fimbria.connectivity.policies import filled_in
from fimbria.connectivity.verdicts import Outcome, judge
from fimbria.sources.errors import is_not_found
from fimbria.sources.resources import (
    CILIUM_CLUSTERWIDE_POLICIES,
    CILIUM_NETWORK_POLICIES,
    NETWORK_POLICIES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fimbria.connectivity.cluster import Cluster
    from fimbria.connectivity.model import Document, Scenario, Step
    from fimbria.sources.resources import Resource

ANSWER_TIMEOUT = 6.0
SILENCE_TIMEOUT = 0.8
KEPT_EVENTS = 4096
"""As many events as an agent keeps; a step makes a few hundred."""

KINDS: dict[str, Resource[Any]] = {
    "NetworkPolicy": NETWORK_POLICIES,
    "CiliumNetworkPolicy": CILIUM_NETWORK_POLICIES,
    "CiliumClusterwideNetworkPolicy": CILIUM_CLUSTERWIDE_POLICIES,
}


@dataclass
class ScenarioResult:
    """A scenario and the outcomes of its actions; `seconds` it took."""

    scenario: Scenario
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    skipped: int = 0
    seconds: float = 0.0

    @property
    def failures(self) -> list[Outcome]:
        """Return what went wrong."""
        return [one for one in self.outcomes if one.problem]


class Runner:
    """Runs scenarios on deployed places. Policies of the previous step go when the next comes."""

    def __init__(self, cluster: Cluster, spots: Mapping[str, Spot], namespace: str) -> None:
        self._cluster = cluster
        self._spots = spots
        self._namespace = namespace
        self._families = {name: spot.families for name, spot in spots.items()}
        self._in_force: dict[tuple[str, str], Document] = {}

    async def run(
        self, scenarios: Sequence[Scenario], done: Callable[[ScenarioResult], None]
    ) -> list[ScenarioResult]:
        """Run all; `done` hears of each as it ends. Takes the last policies away."""
        results: list[ScenarioResult] = []
        try:
            for scenario in scenarios:
                results.append(await self._scenario(scenario))
                done(results[-1])
        finally:
            await self._enforce(())
        return results

    async def _scenario(self, scenario: Scenario) -> ScenarioResult:
        clock = asyncio.get_running_loop().time
        result, started = ScenarioResult(scenario), clock()
        for step in scenario.steps:
            wanted = [one for check in step.checks for one in actions(check, self._families)]
            if wanted:
                result.outcomes += await self._step(step, wanted)
            everywhere = sum(
                len(check.sources) * len(check.destinations) * len(check.probes)
                for check in step.checks
            )
            result.skipped += everywhere if not wanted else 0
        result.seconds = clock() - started
        return result

    async def _step(self, step: Step, wanted: Sequence[Action]) -> list[Outcome]:
        await self._label(step.labels)
        try:
            await self._enforce(step.policies)
            earlier = await self._events(1)
            by_source: dict[str, list[Action]] = {}
            for action in wanted:
                by_source.setdefault(action.source, []).append(action)
            answers = await asyncio.gather(
                *(self._attempt(source, listed) for source, listed in by_source.items())
            )
            events = new_events(earlier, await self._events(KEPT_EVENTS))
            return [
                judge(action, result, self._spots, events)
                for listed, results in zip(by_source.values(), answers, strict=True)
                for action, result in zip(listed, results, strict=True)
            ]
        finally:
            await self._label({name: dict.fromkeys(new) for name, new in step.labels.items()})

    async def _attempt(self, source: str, listed: Sequence[Action]) -> list[Document]:
        """Make all attempts of one place; return their results in order."""
        attempts = [
            {
                "kind": action.probe.kind,
                "address": self._spots[action.destination].address(action.family),
                "port": action.probe.port,
                "timeout": ANSWER_TIMEOUT if action.expect.reached else SILENCE_TIMEOUT,
            }
            for action in listed
        ]
        argv = ["python3", "-c", places.source_of("probe"), json.dumps(attempts)]
        code, out, err = await self._cluster.command(self._spots[source], argv)
        if code:
            said = err.strip().splitlines()[-1:] or [f"exit code {code}"]
            raise ConnectivityError(f"{source}: the probe could not run: {said[0]}")
        return json.loads(out)

    async def _events(self, last: int) -> list[list[Document]]:
        """Return the last events of each agent."""
        return list(await asyncio.gather(*(agent.events(last) for agent in self._cluster.agents)))

    async def _enforce(self, policies: Sequence[Document]) -> None:
        """Make exactly these policies the test's, and wait until every node enforces them."""
        other = places.other_namespace(self._namespace)
        documents = [filled_in(one, self._namespace, other) for one in policies]
        wanted = {(one["kind"], one["metadata"]["name"]): one for one in documents}
        for (kind, name), old in self._in_force.items():
            if wanted.get((kind, name)) != old:
                await self._delete(kind, name)
        for (kind, name), new in wanted.items():
            if self._in_force.get((kind, name)) != new:
                namespace = new["metadata"].get("namespace")
                await self._cluster.api.create(KINDS[kind], new, namespace)
        gone = set(self._in_force) - set(wanted)
        changed = wanted != self._in_force
        self._in_force = wanted
        if changed:
            await asyncio.gather(
                *(self._wait_for(agent, set(wanted), gone) for agent in self._cluster.agents)
            )

    async def _delete(self, kind: str, name: str) -> None:
        namespace = None if kind.startswith("CiliumCluster") else self._namespace
        try:
            await self._cluster.api.delete(KINDS[kind], name, namespace)
        except Exception as error:
            if not is_not_found(error):
                raise

    async def _wait_for(
        self, agent: Any, present: set[tuple[str, str]], absent: set[tuple[str, str]]
    ) -> None:
        """Wait until an agent has heard of the policies, then until its endpoints enforce them."""
        revision = 0

        async def heard() -> bool:
            nonlocal revision
            document = await agent.policies()
            revision = document["revision"]
            there = {(one["kind"], one["name"]) for one in document["policies"]}
            return present <= there and not absent & there

        await until(heard, f"node {agent.node} to hear of {present or absent}")
        await agent.wait(revision)

    async def _label(self, changes: Mapping[str, Mapping[str, str | None]]) -> None:
        """Set (or with None remove) labels, and wait until every node knows the new identities."""
        for name, labels in changes.items():
            spot = self._spots[name]
            assert spot.pod
            body = {"metadata": {"labels": dict(labels)}}
            await self._cluster.api.patch(PODS, spot.pod, body, spot.namespace)
        for agent in self._cluster.agents if changes else ():
            await until(
                lambda agent=agent: self._knows(agent, changes),
                f"node {agent.node} to know the new labels of {', '.join(changes)}",
            )

    async def _knows(self, agent: Any, changes: Mapping[str, Mapping[str, str | None]]) -> bool:
        numbers = {
            str(row["cidr"]).partition("/")[0]: row["identity"] for row in await agent.addresses()
        }
        for name, labels in changes.items():
            address = self._spots[name].addresses[0]
            if address not in numbers:
                return False
            listed = {str(one) for one in (await agent.identity(numbers[address]))["labels"]}
            keys = {one.partition("=")[0] for one in listed}
            for key, value in labels.items():
                if f"k8s:{key}" in keys if value is None else f"k8s:{key}={value}" not in listed:
                    return False
        return True


def new_events(
    earlier: Sequence[Sequence[Document]], now: Sequence[Sequence[Document]]
) -> list[Document]:
    """Return the events of all agents that are younger than what each had before."""
    found: list[Document] = []
    for before, after in zip(earlier, now, strict=True):
        newest = max((one["time"] for one in before), default=None)
        found += [one for one in after if newest is None or one["time"] > newest]
    return found
