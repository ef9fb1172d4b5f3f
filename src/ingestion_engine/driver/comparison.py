"""Comparison: modes verify and repair, and the proof of parity before an alias moves, as phases of an attempt."""

from __future__ import annotations

from collections.abc import Mapping

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.records import Action
from ingestion_engine.domain.spec import MODES_ON_EXISTING, CollectionContract, Mode
from ingestion_engine.driver.attempt import Attempt
from ingestion_engine.driver.commit import OpenAttempt, attempt_reports
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.plan.parity_plan import ParityPlan, count_points, differences_found
from ingestion_engine.driver.plan.selection import Selection
from ingestion_engine.driver.rounds import Rounds
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.collections import write_verified
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)


def compare(attempt: Attempt, opened: OpenAttempt, contract: CollectionContract) -> BaseException | None:
    """Verify or repair; return why it has to start over, if it has."""
    request = attempt.spec.request
    attempt.outages.retry_until_available(lambda: attempt.ledger.delete_failures(""))
    action = Action.REPAIR if request.mode is Mode.REPAIR else Action.VERIFY
    plan = plan_parity(attempt, contract, attempt.counts)
    error = _run_comparison(attempt, plan, action, attempt.rounds)
    if error is None and action is Action.REPAIR:
        attempt.writer.flush()
        results = (r for report in attempt_reports(attempt.ledger, opened) for r in report.results)
        error = attempt.run_open(opened, lambda: plan.find_undecided(results))
    elif error is None and plan.is_whole:
        found = attempt.counts.different + attempt.counts.foreign_points
        attempt.outages.retry_until_available(
            lambda: write_verified(attempt.state, request.collection, attempt.spec.job_id, timestamp_now(), found)
        )
    return error


def _run_comparison(attempt: Attempt, plan: ParityPlan, action: Action, rounds: Rounds) -> BaseException | None:
    """Compare every object, then look for points of none where the stores hold more points than the objects."""
    compared = attempt.plan_thread(lambda: plan.find_rows(action), plan.counts)
    attempt.run_plan(compared, rounds)
    if compared.error is not None:
        return compared.error
    collection = attempt.spec.request.collection
    held = attempt.outages.retry_until_available(lambda: attempt.run_async(count_points(attempt.stores, collection)))
    if plan.is_whole and all(plan.counts.points_seen.get(name, 0) == points for name, points in held.items()):
        return None
    searched = attempt.plan_thread(lambda: plan.find_ranges(max(held.values())), plan.counts, kind="s")
    attempt.run_plan(searched, rounds)
    return searched.error


def prove_parity(attempt: Attempt, contract: CollectionContract) -> None:
    """Return when every store holds exactly what the object table says. For a caller that holds the lease.

    Raises:
        FatalError: "stores_differ", naming what the comparison found; each object is among the job's failures.
    """
    counts = Counts()
    rounds = attempt.make_rounds(counts, lambda: None)
    while (
        error := _run_comparison(attempt, plan_parity(attempt, contract, counts), Action.VERIFY, rounds)
    ) is not None:
        attempt.outages.pause_for(error)
        counts.start_over()
    found = differences_found(counts)
    if found is not None:
        raise FatalError("stores_differ", found.message, hint=found.hint, **found.context)


def plan_parity(attempt: Attempt, contract: CollectionContract, counts: Counts) -> ParityPlan:
    """Return the streams of what a job looks at in a collection, counting in ``counts``."""
    request, only = attempt.spec.request, attempt.only_keys()
    source = request.source
    asked = request.mode in MODES_ON_EXISTING  # proving parity is about the whole collection, whatever was ingested
    return ParityPlan(
        attempt.table,
        contract,
        source.bucket,
        source.prefix if asked else "",
        Selection(source, only).matches if asked else lambda _key: True,
        not asked or not (source.prefix or source.include or source.exclude or only),
        counts,
        lambda job_id: _read_metadata(attempt, job_id),
        attempt.parser_version,
    )


def _read_metadata(attempt: Attempt, job_id: str) -> Mapping[str, str]:
    try:
        return attempt.outages.retry_until_available(Ledger(attempt.state, job_id).read_spec).request.metadata
    except FatalError as error:
        log.warning("metadata of a former job not known", extra={"former_job": job_id, **error.log_fields()})
        return {}
