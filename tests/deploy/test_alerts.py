"""The alert rules: every expression finds its metrics, and every alert says what to do and where to read on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.charts.rendering import CHART
from support.exported_metrics import find_exported
from support.promql import find_faults

ROOT = Path(__file__).parents[2]
TEXT = (CHART / "files" / "alerts.yaml").read_text("utf-8")
GROUPS: list[dict[str, Any]] = yaml.safe_load(TEXT)["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
PARAMETRIZED = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def test_names_are_unique() -> None:
    for names in ([group["name"] for group in GROUPS], [rule["alert"] for rule in RULES]):
        assert len(set(names)) == len(names)
    assert all(re.fullmatch("Ingest[A-Za-z]+", rule["alert"]) for rule in RULES)


@PARAMETRIZED
async def test_each_expression_finds_its_metrics(rule: dict[str, Any]) -> None:
    """It parses, and metrics and labels are exported."""
    assert find_faults(rule["expr"], await find_exported()) == []


@PARAMETRIZED
def test_each_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """Severity, sentences, and a heading of the page that exists."""
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(rule["annotations"][name].rstrip().endswith(".") for name in ("summary", "description"))
    assert "for" in rule or "increase(" in rule["expr"], "one sample of a gauge is no reason to wake somebody"
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE)
    assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@PARAMETRIZED
async def test_texts_use_labels_that_the_alert_has(rule: dict[str, Any]) -> None:
    """A label that the expression drops would be empty in the message."""
    kept = set(re.findall(r"\w+", re.search(r"by \(([^)]*)\)", rule["expr"] + "by ()")[1]))  # type: ignore[index]  # it matches
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= kept
