"""Every set of values renders objects that the schemas of Kubernetes and our own rules accept."""

from __future__ import annotations

from typing import Any

import pytest

from support.charts.rendering import EXAMPLES, find_lint, read_values, render
from support.charts.rules import find_faults
from support.charts.schemas import VERSIONS, find_problems

CASES = {path.stem: path for path in EXAMPLES}


@pytest.fixture(params=CASES, scope="module")
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_values(CASES[request.param])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("upgrade", [False, True], ids=["install", "upgrade"])
def test_objects_meet_the_schemas(values: dict[str, Any], version: str, upgrade: bool) -> None:
    assert find_problems(render(values, upgrade=upgrade), version) == []


def test_objects_meet_our_rules(values: dict[str, Any]) -> None:
    assert find_faults(render(values)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_lint(values: dict[str, Any], version: str) -> None:
    assert find_lint(values, version) == []
