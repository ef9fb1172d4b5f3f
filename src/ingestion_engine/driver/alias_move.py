"""The move of an alias at the end of a job: only to a collection that both stores are proven to hold alike."""

from __future__ import annotations

from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.spec import CollectionContract
from ingestion_engine.driver.attempt import Attempt
from ingestion_engine.driver.comparison import prove_parity
from ingestion_engine.driver.plan.plan_thread import is_mass_delete
from ingestion_engine.driver.preflight import check_alias, check_alias_in_stores
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.aliases import find_alias, record_move, settle_alias
from ingestion_engine.state.lease import HeldLease
from ingestion_engine.state.object_table.table import ObjectTable

log = get_logger(__name__)


def move_alias(attempt: Attempt, lease: HeldLease, contract: CollectionContract) -> None:
    """Have the job's alias stand for the collection, if it has one, the job is good enough and the stores agree."""
    alias, spec = attempt.spec.request.alias, attempt.spec
    if alias is None or not attempt.is_within_budget():
        return
    _refuse_mass_loss(attempt, alias, contract.collection)
    prove_parity(attempt, contract)
    check_job_alias(attempt)
    attempt.monitor.phase = "finishing"
    attempt.monitor.check()
    with attempt.monitor.finishing():
        attempt.outages.retry_until_available(
            lambda: record_move(
                attempt.state,
                alias,
                contract.collection,
                job_id=spec.job_id,
                job_created_at=spec.created_at,
                now=timestamp_now(),
                check=lease.check,
            )
        )
        _settle_alias(attempt, alias)
    log.info("alias moved", extra={"alias": alias, "collection": contract.collection})


def _refuse_mass_loss(attempt: Attempt, alias: str, collection: str) -> None:
    """A version that lacks most of what readers find now is taken for a mistake, as deleting so much would be."""
    now = attempt.outages.retry_until_available(lambda: find_alias(attempt.state, alias))
    if now is None or now.collection == collection or attempt.spec.request.allow_mass_delete:
        return
    before = attempt.outages.retry_until_available(ObjectTable(attempt.state, now.collection).stats)["present"]
    after = attempt.outages.retry_until_available(attempt.table.stats)["present"]
    if after == 0 < before or is_mass_delete(before - after, before):
        raise FatalError(
            "mass_delete_refused",
            f"{collection} holds {after} objects; {now.collection} behind alias {alias} holds {before}.",
            hint="If that is right, submit again with allow_mass_delete=true; otherwise check prefix and filters.",
            deletes=before - after,
            objects=before,
        )


def _settle_alias(attempt: Attempt, alias: str) -> None:
    """Wait until the stores have followed; when asked to stop meanwhile, leave that to the service."""
    while True:
        try:
            attempt.run_async(settle_alias(attempt.state, attempt.stores, alias))
        except TransientError as error:
            if attempt.monitor.should_stop():
                log.warning("alias not settled", extra={"alias": alias, **error.log_fields()})
                return
            attempt.outages.pause_for(error)
        else:
            return


def check_job_alias(attempt: Attempt) -> None:
    """Return when the job's alias, if it has one, may be made or moved.

    Raises:
        FatalError: its name is taken, or a store cannot have it.
    """
    alias = attempt.spec.request.alias
    if alias is not None:
        attempt.outages.retry_until_available(lambda: check_alias(attempt.state, alias))
        attempt.outages.retry_until_available(lambda: attempt.run_async(check_alias_in_stores(attempt.stores, alias)))
