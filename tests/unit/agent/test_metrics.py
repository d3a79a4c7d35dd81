"""The text that Prometheus reads, and durations that are noted as they happen."""

from __future__ import annotations

import math

import pytest

from fimbria.agent.exposition import BUCKETS, Family, Histogram, render
from fimbria.agent.metrics import Delays


def counts(histogram: Histogram) -> dict[str, float]:
    """Buckets by their upper bound."""
    return {
        dict(one.labels)["le"]: one.value for one in histogram.samples() if one.suffix == "_bucket"
    }


def test_the_text() -> None:
    """Help, type, then a line per sample; labels are quoted, empty families left out."""
    gauge = Family("cilium_endpoint_state", "gauge", "Endpoints\nby state.")
    gauge.add(2, endpoint_state="ready")
    gauge.add(0.5, endpoint_state='a "quote" and a \\')
    empty = Family("cilium_nothing", "counter", "Nothing.")
    assert render([gauge, empty]).splitlines() == [
        "# HELP cilium_endpoint_state Endpoints\\nby state.",
        "# TYPE cilium_endpoint_state gauge",
        'cilium_endpoint_state{endpoint_state="ready"} 2',
        'cilium_endpoint_state{endpoint_state="a \\"quote\\" and a \\\\"} 0.5',
    ]


def test_a_histogram_counts_what_is_below() -> None:
    """A bucket holds everything up to its bound; the last one holds all."""
    histogram = Histogram()
    for seconds in (0.005, 0.006, 3.0, 100.0):
        histogram.observe(seconds)
    found = counts(histogram)
    assert [found["0.005"], found["0.01"], found["2.5"], found["5"], found["10"]] == [1, 2, 2, 3, 3]
    assert found["+Inf"] == 4
    assert len(found) == len(BUCKETS) + 1
    total = {one.suffix: one.value for one in histogram.samples() if one.suffix != "_bucket"}
    assert total == {"_sum": pytest.approx(103.011), "_count": 4}


def test_delay_of_a_policy() -> None:
    """From the first word of a revision until the maps are as it, or a later one, wants them."""
    delays = Delays()
    delays.revised(1, 0.0)
    delays.realised(1, 9.0)
    assert counts(delays.implementation)["+Inf"] == 0, "what was there before is no change"
    delays.revised(2, 10.0)
    delays.revised(2, 10.5)
    delays.revised(3, 10.9)
    delays.realised(2, 11.0)
    delays.realised(3, 11.0)
    delays.revised(3, 12.0)
    delays.realised(3, 20.0)
    found = counts(delays.implementation)
    assert (found["0.25"], found["1"], found["+Inf"]) == (1, 2, 2)
    sums = [one.value for one in delays.implementation.samples() if one.suffix == "_sum"]
    assert math.isclose(sums[0], 1.1)
