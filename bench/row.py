"""One line of a benchmark's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """`value` in `unit`; `baseline` is what the same run measured beside it (same unit unless
    `baseline_name` says otherwise); `ratio` is value/baseline; `target` is the text of what to
    reach, `met` whether it was (None: no target)."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_name: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    def baseline_text(self) -> str:
        if self.baseline is None:
            return self.baseline_name
        return f"{self.baseline:.4g} {self.baseline_name}".rstrip()

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def at_most(name: str, value: float, unit: str, limit: float, baseline_name: str = "") -> Row:
    """A row whose target is an upper limit in its own unit."""
    return Row(name, value, unit, None, baseline_name, None, f"≤ {limit:g}", value <= limit)


def ratio_at_least(
    name: str, value: float, unit: str, baseline: float, baseline_name: str, least: float
) -> Row:
    """A row whose target is a least ratio to its baseline."""
    ratio = value / baseline
    return Row(name, value, unit, baseline, baseline_name, ratio, f"≥ {least:g}", ratio >= least)
