"""The dashboard: every query finds its metric, every metric has a panel, and Grafana can load it anywhere."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from support.charts.rendering import CHART
from support.exported_metrics import find_exported
from support.promql import find_faults, find_selectors

TEXT = (CHART / "files" / "dashboard.json").read_text("utf-8")
DASHBOARD: dict[str, Any] = json.loads(TEXT)
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$namespace": ".*", "$engine": ".*"}
UNITS = {"short", "s", "ops", "reqps", "Bps", "percentunit", "bool_yes_no"}
"""Units in use, as Grafana names them."""


def queries_of(panel: dict[str, Any]) -> list[str]:
    return [_fill(target["expr"]) for target in panel["targets"]]


def _fill(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def test_each_panel_can_be_loaded() -> None:
    """Ids are unique, nothing overlaps or leaves the grid of 24 columns, and each has a title, a unit and a query."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_it_belongs_to_no_grafana_of_ours() -> None:
    """The data source is a variable, and neither ids nor uids are taken along."""
    assert DASHBOARD["id"] is None
    assert "uid" not in DASHBOARD
    sources = set(re.findall(r'"uid": "([^"]*)"', TEXT))
    assert sources == {"${datasource}", "-- Grafana --"}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "namespace", "engine"}
    used = set(re.findall(r"\$\{?(\w+)", TEXT)) - {"__rate_interval", "__range", "__all"}
    assert used <= variables


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
async def test_each_query_finds_its_metric(panel: dict[str, Any]) -> None:
    """It parses; metrics and labels are exported; the legend names labels that the result has."""
    exported = await find_exported()
    for target, query in zip(panel["targets"], queries_of(panel), strict=True):
        assert find_faults(query, exported) == []
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        kept = set.intersection(*(set(one.labels) for one in find_selectors(query)))
        assert shown <= kept, query


async def test_variables_and_annotations_find_their_metrics() -> None:
    exported = await find_exported()
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]  # or fails
        assert metric in exported
        assert label in exported[metric] | {"namespace"}
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            assert find_faults(_fill(annotation["expr"]), exported) == []


async def test_each_metric_has_a_panel() -> None:
    """Also a new one: an operator finds everything in one place."""
    shown = {one.metric for panel in PANELS for query in queries_of(panel) for one in find_selectors(query)}
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    exported = {re.sub(r"_(bucket|sum|count)$", "", name) for name in await find_exported()}
    assert exported - bases == {"ingest_gateway_info"}, "has no panel: its version is the service's"
