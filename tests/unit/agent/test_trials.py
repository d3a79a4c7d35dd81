"""A trial and its file: what an agent that starts makes of it, and what confirming can meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from fimbria.agent import statefiles
from fimbria.agent.api import ApiError
from fimbria.agent.hostports import HostPorts
from fimbria.agent.trials import Trials
from fimbria.compile.state import ClusterState
from fimbria.model.policy import PolicyKey
from fimbria.model.policy_parse import parse_policy
from fimbria.sources.errors import KubeError, KubeUnreachable
from fimbria.sources.options import Config

if TYPE_CHECKING:
    from pathlib import Path

    from fimbria.model.policy import Policy

KEY = PolicyKey("NetworkPolicy", "default", "closed")
CLOSED: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "closed"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}
HZ = 250


@dataclass
class Clock:
    """A clock that somebody sets."""

    now: float = 1000.0
    boot: str = "this"
    hz: int = HZ

    def boottime(self) -> float:
        return self.now

    def boot_id(self) -> str:
        return self.boot

    def jiffies(self) -> int:
        return (1 << 33) + round(self.now * HZ)


@dataclass
class Cluster:
    """As much of the agent's cluster as trials use; `answers` comes with the watch."""

    state: ClusterState = field(default_factory=lambda: ClusterState("node1"))
    revision: int = 1
    answers: Policy | None = None
    policies: dict[PolicyKey, Any] = field(default_factory=dict[PolicyKey, Any])

    def __post_init__(self) -> None:
        self.host_ports = HostPorts(Config(), self.state, (frozenset(), 0))

    def parse(self, document: Any, kind: str) -> Policy:
        return parse_policy(document, kind)

    def revise(self) -> None:
        self.revision += 1

    async def reached(self, revision: int) -> None:
        assert self.answers is not None
        self.state.policies.put(self.answers.key, self.answers)
        self.revision = revision


class Applier:
    """Applies at once."""

    compiler = None

    async def flush(self) -> None:
        pass


class Api:
    """An API server with one place, or one that says no."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.trouble: Exception | None = None
        self.conflicts = 0

    async def get(self, resource: Any, name: str, namespace: str | None = None) -> Any:
        if self.trouble:
            raise self.trouble
        if self.stored is None:
            raise KubeError(404, "NotFound", "not found")
        return self.stored

    async def create(self, resource: Any, body: Any, namespace: str | None = None) -> Any:
        self.stored = {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}
        return self.stored

    async def update(self, resource: Any, name: str, body: Any, namespace: str | None) -> Any:
        if self.conflicts:
            self.conflicts -= 1
            raise KubeError(409, "Conflict", "changed meanwhile")
        self.stored = body
        return body


@dataclass
class Bench:
    """A trial's surroundings, and another agent on the same folder."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    api: Api = field(default_factory=Api)

    def agent(self) -> tuple[Trials, Cluster]:
        cluster = Cluster()
        parts: Any = cluster, Applier(), self.api, self.clock
        return Trials(*parts, self.folder), cluster

    @property
    def path(self) -> Path:
        return self.folder / statefiles.TRIAL_FILE


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def begun(bench: Bench, seconds: float = 60) -> tuple[Trials, Cluster]:
    trials, cluster = bench.agent()
    shown = await trials.begin({"documents": [CLOSED], "seconds": seconds})
    assert shown["policies"] == [
        {"kind": "NetworkPolicy", "namespace": "default", "name": "closed"}
    ]
    return trials, cluster


async def test_a_trial_is_on_disk_before_it_is_in_force(bench: Bench) -> None:
    """File and row say the same deadline, in the clocks of each."""
    _, cluster = await begun(bench)
    file = statefiles.read(bench.path, statefiles.TrialFile)
    trial = cluster.state.trials.get(KEY)
    assert trial is not None
    assert (file.boot_id, file.deadline) == ("this", 1060)
    assert trial.until == file.until == 1060 * HZ
    assert trial.policy is not None
    assert KEY not in cluster.state.policies


async def test_the_next_agent_goes_on(bench: Bench) -> None:
    """With the same jiffies, so that nothing in the kernel changes."""
    _, before = await begun(bench)
    bench.clock.now += 20
    trials, after = bench.agent()
    trials.restore()
    assert after.state.trials.get(KEY) == before.state.trials.get(KEY)
    assert trials.left() == 40
    await trials.rollback()
    assert not list(after.state.trials.items())
    assert not bench.path.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: setattr(bench.clock, "now", 1061.0),
        lambda bench: setattr(bench.clock, "boot", "another"),
        lambda bench: bench.path.write_text("{"),
        lambda bench: bench.path.write_text(bench.path.read_text().replace("NetworkP", "P")),
    ],
    ids=["over", "another boot", "damaged", "not a policy"],
)
async def test_what_the_next_agent_does_not_go_on_with(bench: Bench, change: Any) -> None:
    """A trial of another boot, one that is over, and what cannot be read end, and their file."""
    await begun(bench)
    change(bench)
    trials, cluster = bench.agent()
    trials.restore()
    assert trials.document() is None
    assert not list(cluster.state.trials.items())
    assert not bench.path.exists()


async def test_deadline(bench: Bench) -> None:
    """Before it nothing happens, at it the rows go."""
    trials, cluster = await begun(bench)
    bench.clock.now += 59
    await trials.expire()
    assert KEY in cluster.state.trials
    bench.clock.now += 1
    await trials.expire()
    assert KEY not in cluster.state.trials
    with pytest.raises(ApiError, match="no trial is running"):
        await trials.confirm()


async def test_confirmed(bench: Bench) -> None:
    """The object is written, the watch shows it, and then the rows go."""
    trials, cluster = await begun(bench)
    cluster.answers = parse_policy(CLOSED)
    done = await trials.confirm()
    assert done["policies"][0]["result"] == "created"
    assert bench.api.stored is not None
    assert KEY in cluster.state.policies
    assert KEY not in cluster.state.trials
    assert not bench.path.exists()


@pytest.mark.parametrize(
    ("trouble", "hint"),
    [
        (KubeUnreachable("nobody there"), "try again"),
        (KubeError(403, "Forbidden", "no"), "use kubectl apply"),
    ],
)
async def test_an_api_that_does_not_take_it(bench: Bench, trouble: Exception, hint: str) -> None:
    """The trial goes on as if nobody had confirmed it, to its own deadline."""
    trials, cluster = await begun(bench)
    before = cluster.state.trials.get(KEY)
    bench.api.trouble = trouble
    with pytest.raises(ApiError) as caught:
        await trials.confirm()
    assert hint in caught.value.hint
    assert cluster.state.trials.get(KEY) == before
    assert trials.left() == 60
    assert not statefiles.read(bench.path, statefiles.TrialFile).confirmed


async def test_an_agent_that_dies_while_confirming(bench: Bench) -> None:
    """The next one finds the object in the API, and ends the trial without a gap."""
    trials, _ = await begun(bench)
    file = statefiles.read(bench.path, statefiles.TrialFile)
    document = {**cast("Any", statefiles.msgspec.to_builtins(file)), "confirmed": True}
    statefiles.write(bench.path, statefiles.TrialFile(**document))
    trials, cluster = bench.agent()
    policy = parse_policy(CLOSED)
    cluster.state.policies.put(policy.key, policy)
    trials.restore()
    await trials.expire()
    assert trials.document() is None
    assert KEY in cluster.state.policies


async def test_an_object_that_is_there_is_updated(bench: Bench) -> None:
    """It keeps its uid and whatever else it has; a conflict is tried again."""
    meta = {"name": "closed", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}}
    bench.api.stored = {**CLOSED, "metadata": meta, "spec": {"podSelector": {}}, "status": {}}
    bench.api.conflicts = 2
    trials, _ = bench.agent()
    done = await trials.apply({"documents": [CLOSED]})
    assert done["policies"][0]["result"] == "configured"
    assert bench.api.stored["metadata"] == meta
    assert bench.api.stored["spec"] == CLOSED["spec"]
    assert (await trials.apply({"documents": [CLOSED]}))["policies"][0]["result"] == "unchanged"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ([], 400, ""),
        ({"documents": []}, 400, "documents"),
        ({"documents": [7]}, 400, "documents[0]"),
        ({"documents": [{"kind": "Pod"}]}, 400, "documents[0].kind"),
        ({"documents": [{"kind": "NetworkPolicy"}]}, 400, "documents[0].metadata"),
        ({"documents": [CLOSED, CLOSED], "seconds": 5}, 400, "documents"),
        ({"documents": [CLOSED]}, 400, "seconds"),
        ({"documents": [CLOSED], "seconds": 0.5}, 400, "seconds"),
        ({"documents": [CLOSED], "seconds": True}, 400, "seconds"),
        ({"documents": [CLOSED], "seconds": float("nan")}, 400, "seconds"),
        ({"documents": [{**CLOSED, "spec": {"podSelector": 3}}], "seconds": 5}, 422,
         "spec.podSelector"),
    ],
)  # fmt: skip
async def test_requests_that_are_none(bench: Bench, body: Any, status: int, field: str) -> None:
    """Each is answered with what is wrong, and nothing is on trial."""
    trials, cluster = bench.agent()
    with pytest.raises(ApiError) as caught:
        await trials.begin(body)
    assert (caught.value.status, caught.value.field) == (status, field)
    assert not list(cluster.state.trials.items())
    assert not bench.path.exists()


async def test_one_at_a_time(bench: Bench) -> None:
    """A second trial waits for the end of the first."""
    trials, _ = await begun(bench)
    with pytest.raises(ApiError, match="a trial is running"):
        await trials.begin({"documents": [CLOSED], "seconds": 5})
