"""The offline engine: flows per second in a large world, the first answer, memory.

The world is made up: 10,000 pods of 2,000 identities in 50 namespaces, 1,000 policies of all kinds
of peers and ports. The baseline of each row is the same judge asked flow by flow.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.row import Row, at_most
from fimbria.analysis import Engine, Flow, from_documents
from fimbria.analysis.diff import diff
from fimbria.analysis.jsonlines import Answers, blocks
from fimbria.analysis.prove import prove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.analysis import World

PODS, IDENTITIES, NAMESPACES, POLICIES = 10_000, 2_000, 50, 1_000
FLOWS, SCALAR_FLOWS = 400_000, 2_000
SMALL = 50
PORTS = (53, 80, 443, 5432, 6379, 8080, 9090, 9200)
Document = dict[str, Any]


def manifest(kind: str, version: str, name: str, namespace: str, **rest: Any) -> Document:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def pods(count: int = PODS, identities: int = IDENTITIES) -> Iterator[Document]:
    """Pods; `identities` distinct label sets, spread over the namespaces."""
    for number in range(count):
        kind = number % identities
        one = manifest("Pod", "v1", f"pod-{number}", f"ns-{kind % NAMESPACES}")
        one["metadata"]["labels"] = {"app": f"app-{kind}", "tier": f"tier-{kind % 7}"}
        one["spec"] = {"containers": [{"name": "main"}]}
        one["status"] = {"podIP": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}
        yield one


def policies(count: int, identities: int, dice: random.Random) -> Iterator[Document]:
    """Policies of which each is about one application or one tier of a namespace."""
    for number in range(count):
        kind = dice.randrange(identities)
        where = f"ns-{kind % NAMESPACES}"
        whom = {"app": f"app-{kind}"} if number % 4 else {"tier": f"tier-{kind % 7}"}
        peers = [
            {"matchLabels": {
                "app": f"app-{other}", "k8s:io.kubernetes.pod.namespace": f"ns-{other % NAMESPACES}"
            }} for other in (dice.randrange(identities) for _ in range(3))
        ]  # fmt: skip
        peers.append({"matchLabels": {"k8s:io.kubernetes.pod.namespace": f"ns-{number % 50}"}})
        ports: list[Document] = [
            {"port": str(dice.choice(PORTS)), "protocol": "TCP"} for _ in range(3)
        ]
        ports.append({"port": "30000", "endPort": 32767, "protocol": "TCP"})
        rule = [{"fromEndpoints": peers, "toPorts": [{"ports": ports}]}]
        spec: Document = {"endpointSelector": {"matchLabels": whom}, "ingress": rule}
        if number % 3 == 0:
            out = {"toEndpoints": peers, "toPorts": [{"ports": ports}]}
            spec["egress"] = [out, {"toCIDR": [f"{dice.randrange(1, 220)}.0.0.0/8"]}]
        if number % 10 == 0:
            spec["ingressDeny"] = [{"fromEndpoints": peers[:1]}]
        yield manifest("CiliumNetworkPolicy", "cilium.io/v2", f"policy-{number}", where, spec=spec)


def flows(world: World, count: int, dice: random.Random) -> list[Flow]:
    names = list(world.pods)
    outside = [f"{dice.randrange(1, 220)}.1.2.{n}" for n in range(250)]
    return [
        Flow(dice.choice(names), dice.choice(names if n % 10 else outside), "TCP",
             dice.choice(PORTS))
        for n in range(count)
    ]  # fmt: skip


def through(engine: Engine, text: bytes) -> int:
    """Answer lines as the command does; return how many bytes the answers have."""
    answers = Answers(engine)
    return sum(len(answers.block(block)) for block in blocks(io.BytesIO(text)))


def rate(count: int, work: Callable[[], object]) -> float:
    """Things per second, by this process's own time."""
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def first_answer() -> float:
    """CPU seconds of `fimbria policy eval` from its start to one answer about 50 manifests."""
    dice = random.Random(5)
    documents = [*pods(SMALL // 2, SMALL // 2), *policies(SMALL // 2, SMALL // 2, dice)]
    asked = {"source": "ns-1/pod-1", "destination": "ns-2/pod-2", "protocol": "TCP", "port": 80}
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(documents):
            (Path(folder) / f"{number}.json").write_text(json.dumps(one))
        command = [sys.executable, "-m", "fimbria.cli.main", "policy", "eval", "-f", folder]
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [*command, "--flows", "-"], input=json.dumps(asked).encode(), capture_output=True,
                check=True,
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            assert json.loads(done.stdout)["verdict"], done
    return sorted(times)[len(times) // 2]


def import_time() -> float:
    """CPU seconds that importing the engine takes, without Python's own start."""
    code = (
        "import time; start = time.process_time(); import fimbria.analysis.engine;"
        "print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    times = [float(subprocess.check_output(command)) for _ in range(5)]
    return sorted(times)[len(times) // 2]


def measure() -> list[Row]:
    """The large world, in a process of its own so that its memory is its own."""
    dice = random.Random(7)
    start = time.process_time()
    world = from_documents([*pods(), *policies(POLICIES, IDENTITIES, dice)])
    loaded = time.process_time()
    engine = Engine(world)
    compiled = time.process_time()
    asked = flows(world, FLOWS, dice)
    engine.bulk  # noqa: B018 - numpy and the table are made once, before the clock starts
    text = b"\n".join(map(_line, asked))
    maps = rate(FLOWS, lambda: sum(1 for _ in engine.eval_many(asked)))
    lines = rate(FLOWS, lambda: through(engine, text))
    few = asked[:SCALAR_FLOWS]
    by_one = rate(len(few), lambda: [engine.eval(flow) for flow in few])
    rows = [
        _rate("flows judged, values in and out", maps, by_one),
        _rate("flows judged, JSON lines in and out", lines, by_one),
        Row("world from decoded objects", loaded - start, "s"),
        at_most("compile 1,000 policies for every pod", compiled - loaded, "s", 5.0),
        at_most("memory, peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB",
                400.0),
    ]  # fmt: skip
    return rows


def space() -> list[Row]:
    """The whole packet space: two versions compared, assertions proven; a process of its own."""
    dice = random.Random(7)
    given, rules = [*pods()], [*policies(POLICIES, IDENTITIES, dice)]
    old = from_documents([*given, *rules])
    for number in range(0, POLICIES, 20):
        one = rules[number] = json.loads(json.dumps(rules[number]))
        one["spec"]["ingress"][0]["toPorts"][0]["ports"][0] = {"port": "4444", "protocol": "TCP"}
    new = from_documents([*given, *rules])
    start = time.process_time()
    changes = diff(old, new).changes
    compared = time.process_time()
    names = [f"ns=ns-{number}" for number in range(NAMESPACES)]
    asked = [
        f"no path from {dice.choice(names)} to {dice.choice(names)} on TCP/{dice.choice(PORTS)}"
        for _ in range(100)
    ]
    proofs = prove(Engine(new), asked)
    proven = time.process_time()
    assert changes
    assert len(proofs) == len(asked)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        at_most("policy diff, 1,000 policies, 50 changed, with both compiles", compared - start,
                "s", 5.0),
        at_most("policy prove, 100 assertions, with the compile", proven - compared, "s", 5.0),
        at_most("memory, peak, of these", memory, "MB", 400.0),
    ]  # fmt: skip


def matrix() -> float:
    """CPU seconds of `fimbria policy matrix -o html` of 200 workloads."""
    dice = random.Random(11)
    documents = [*pods(200, 200), *policies(100, 200, dice)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "all.json").write_text(json.dumps({"kind": "List", "items": documents}))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "fimbria.cli.main", "policy", "matrix", "-f", folder,
             "-o", "html"], capture_output=True, check=True,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert b"<html" in done.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _rate(name: str, value: float, baseline: float) -> Row:
    ratio = value / baseline
    return Row(name, value, "1/s", baseline, "one by one", ratio, "≥ 200000", value >= 200_000)


def _line(flow: Flow) -> bytes:
    return json.dumps({"source": flow.source, "destination": flow.destination,
                       "protocol": flow.protocol, "port": flow.port}).encode()  # fmt: skip


def rows() -> list[Row]:
    large: list[Row] = []
    for part in ("measure", "space"):
        command = [sys.executable, "-c", f"import bench.analysis as b; b.report(b.{part})"]
        done = subprocess.run(command, capture_output=True, check=True, env=os.environ)
        large += [Row(**row) for row in json.loads(done.stdout)]
    loading = at_most("import of the engine, CPU", import_time() * 1e3, "ms", 150.0)
    drawn = at_most("policy matrix of 200 workloads, HTML, CPU", matrix(), "s", 3.0)
    return [
        *large,
        drawn,
        loading,
        at_most("first answer, 50 manifests, CPU", first_answer(), "s", 0.5),
    ]


def report(part: Callable[[], list[Row]]) -> None:
    """Print what a part measures as JSON, for the process that asked."""
    print(json.dumps([row.to_json() for row in part()]))
