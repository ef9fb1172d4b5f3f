"""Runs checks of `ingest doctor` with given settings."""

from __future__ import annotations

from typing import Any

from ingestion_engine.doctor.context import Context, Role
from ingestion_engine.doctor.examination import examine
from ingestion_engine.doctor.findings import Finding, State
from ingestion_engine.runtime.settings import Settings

VERBS = {
    *("Add", "Allow", "Bind", "Check", "Choose", "Correct", "Create", "Delete", "Grant", "Install", "Put", "Renew"),
    *("Restore", "Run", "Set", "Start", "Submit", "Synchronise", "Upgrade", "Use", "Wait"),
}
"""First words of hints."""


async def diagnose(settings: Settings, *only: str, role: Role = Role.SERVICE, **options: Any) -> list[Finding]:
    """The results of some checks, all of them when none is named; each that is not ok says what to do."""
    context = Context(settings=settings, role=role, **{"time_limit_s": 20.0, **options})
    findings = [finding async for finding in examine(context, only=only)]
    for finding in findings:
        assert "\n" not in finding.detail + finding.hint
        if finding.state in {State.FAILED, State.WARNING, State.NOT_CONFIGURED}:
            assert finding.hint.split()[0].rstrip(":") in VERBS, finding
    return findings


def worst(findings: list[Finding]) -> Finding:
    """The first result that is not ok, the failures first."""
    order = [State.FAILED, State.WARNING, State.SKIPPED, State.NOT_CONFIGURED, State.OK]
    return min(findings, key=lambda finding: order.index(finding.state))
