"""Why a verdict is what it is: offline, importable, without root, kernel or cluster.

    from fimbria.analysis import Engine, load

    engine = Engine(load(["manifests/"]))
    result = engine.eval({"source": "default/web", "destination": "default/db",
                          "protocol": "TCP", "port": 5432})
    print(result.verdict, result.ingress.reason, result.ingress.rule)

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fimbria.analysis.engine import Engine, JudgesDiffer, KernelUnavailable
    from fimbria.analysis.flows import Flow, FlowError
    from fimbria.analysis.report import run_tests
    from fimbria.analysis.results import Because, Half, Outcome, Result
    from fimbria.analysis.world import World, from_documents, load

__all__ = [
    "Because",
    "Engine",
    "Flow",
    "FlowError",
    "Half",
    "JudgesDiffer",
    "KernelUnavailable",
    "Outcome",
    "Result",
    "World",
    "from_documents",
    "load",
    "run_tests",
]

_PLACES = {
    "Because": "results",
    "Engine": "engine",
    "Flow": "flows",
    "FlowError": "flows",
    "Half": "results",
    "JudgesDiffer": "engine",
    "KernelUnavailable": "engine",
    "Outcome": "results",
    "Result": "results",
    "World": "world",
    "from_documents": "world",
    "load": "world",
    "run_tests": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
