"""Metric families and the text in which Prometheus reads them (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram's buckets, in seconds."""

QUOTE = '"'
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """One number. `suffix` is what a histogram's parts add to the family's name."""

    value: float
    labels: Labels = ()
    suffix: str = ""


@dataclass
class Family:
    """All samples of one name."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    samples: list[Sample] = field(default_factory=list[Sample])

    def add(self, value: float, **labels: str) -> None:
        """Add a sample; labels keep their order."""
        self.samples.append(Sample(value, tuple(labels.items())))


class Histogram:
    """Durations in seconds, counted by BUCKETS."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def samples(self, *labels: tuple[str, str]) -> Iterator[Sample]:
        """Yield buckets (each with all below it), sum and count."""
        total = 0
        for bound, count in zip((*map(_number, BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            yield Sample(total, (*labels, ("le", bound)), "_bucket")
        yield Sample(self._sum, labels, "_sum")
        yield Sample(total, labels, "_count")


def render(families: Iterable[Family]) -> str:
    """Return the text; families without samples are left out."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{key}="{_escaped(text, QUOTE)}"' for key, text in sample.labels)
            shown = f"{{{labels}}}" if labels else ""
            lines.append(f"{family.name}{sample.suffix}{shown} {_number(sample.value)}")
    return "\n".join([*lines, ""])


def _escaped(text: str, also: str = "") -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace(also, f"\\{also}") if also else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
