"""The lint of metrics finds what it is for."""

from __future__ import annotations

import pytest

from support.prometheus_lint import lint

GOOD = """# HELP a_seconds Time.
# TYPE a_seconds histogram
a_seconds_bucket{x="1",le="1.0"} 1
a_seconds_bucket{x="1",le="+Inf"} 2
a_seconds_count{x="1"} 2
a_seconds_sum{x="1"} 3.5
# HELP b_total Things.
# TYPE b_total counter
b_total{x="a"} 1
b_total{x="b\\\\\\"\\n"} 2
"""


def test_a_good_exposition_has_no_fault() -> None:
    """Histograms, counters and escaped labels."""
    assert lint(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# HELP b_total Things.\n", "", "no HELP"),
        ("# TYPE b_total counter\n", "", "no TYPE"),
        ("b_total", "b", "ends in _total"),
        ("b_total", "bTotal_total", "snake_case"),
        ("b_total", "b_ms_total", "base units"),
        ("b_total", "b_counter_total", "repeats its type"),
        ('b_total{x="b', 'b_total{y="b', "different labels"),
        ('{x="b\\\\\\"\\n"}', '{x="a"}', "twice"),
        ("} 2\n# HELP b", "} two\n# HELP b", "no sample"),
        ('le="1.0"} 1', 'le="1.0"} 3', "not cumulative"),
        ('le="+Inf"', 'le="0.5"', "not sorted"),
        ('a_seconds_count{x="1"} 2', 'a_seconds_count{x="1"} 3', "differs from its last bucket"),
        ("# TYPE b_total counter\n", "# TYPE b_total counter\n# TYPE b_total counter\n", "two lines"),
        ('b_total{x="a"} 1', 'b_total{x="a"} -1', "negative"),
    ],
)
def test_a_fault_is_named(old: str, new: str, fault: str) -> None:
    """One for each rule."""
    assert old in GOOD or "} two" in new
    text = GOOD.replace("} 3.5\n# HELP b", "} two\n# HELP b") if "} two" in new else GOOD.replace(old, new)
    assert any(fault in found for found in lint(text)), lint(text)


def test_a_label_without_bounds_is_named() -> None:
    """Its series are counted."""
    text = "# HELP b_total Things.\n# TYPE b_total counter\n" + "".join(f'b_total{{x="{n}"}} 1\n' for n in range(300))
    assert lint(text) == ["b_total has 300 series."]
