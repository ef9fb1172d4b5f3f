"""Jobs over texts of many kinds make the embedder embed nearly nothing in vain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from bench_vain import MOST_IN_VAIN, measure_kind
from many_texts import DEMO, MIXED, TEXTS


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", [*TEXTS, MIXED])
def test_under_one_percent_of_inference_is_in_vain(kind: str, exact: bool) -> None:
    """Whether tokens are counted or estimated; what is counted is never refused."""
    found = measure_kind(kind, 8 if kind == MIXED else 2, 9_000, batch=16, exact=exact)
    assert found["chunks"] > 12
    assert found["share_in_vain"] < MOST_IN_VAIN
    assert found["refused"] <= (0 if exact else found["chunks"] * 0.05)


def test_the_demo_corpus_is_embedded_without_a_refusal() -> None:
    """Its 338 chunks once cost 28 refused requests and 220 texts in vain."""
    assert measure_kind(DEMO, 0, 0, batch=16, exact=True)["refused"] == 0
