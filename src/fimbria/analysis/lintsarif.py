"""Findings as SARIF 2.1.0, which code scanners (GitHub's among them) show beside the lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.analysis.lint import CODES, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.analysis.lint import Finding

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(found: Iterable[Finding]) -> dict[str, Any]:
    """Return a SARIF log of one run. Files are relative as they were given."""
    rules = [
        {
            "id": name,
            "shortDescription": {"text": code.meaning},
            "defaultConfiguration": {"level": _LEVELS[code.severity]},
        }
        for name, code in CODES.items()
    ]
    places = {name: index for index, name in enumerate(CODES)}
    results = [
        {
            "ruleId": one.code,
            "ruleIndex": places[one.code],
            "level": _LEVELS[one.severity],
            "message": {"text": f"{one.message}. Fix: {one.fix}."},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": one.file},
                        "region": {"startLine": one.line},
                    }
                }
            ],
        }
        for one in found
    ]
    driver = {"name": "fimbria policy lint", "rules": rules}
    return {"$schema": _SCHEMA, "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": results}]}  # fmt: skip
