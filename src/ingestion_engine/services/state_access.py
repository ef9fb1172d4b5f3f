"""Access to the state store: what is missing or unavailable becomes an error for the caller of the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from ingestion_engine.domain.errors import (
    CollectionNotFound,
    DatabaseUnavailable,
    FatalError,
    IngestionError,
    SubmissionError,
)
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.spec import CollectionContract
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.collection_access import CollectionAccess
from ingestion_engine.state.aliases import find_alias
from ingestion_engine.state.collections import read_contract

_log = get_logger(__name__)


@contextlib.contextmanager
def state_needed() -> Iterator[None]:
    """Turn errors of the state store into SubmissionError "state_unavailable" (503)."""
    try:
        yield
    except (SubmissionError, DatabaseUnavailable):  # what is unavailable is not the state store
        raise
    except IngestionError as error:
        raise SubmissionError(
            "state_unavailable",
            f"The state store is unavailable: {error.message}",
            hint="Try again later; GET /readyz shows which systems are unavailable.",
            status=503,
        ) from error


@contextlib.contextmanager
def needs_pyarrow() -> Iterator[None]:
    """Turn the error of a service without pyarrow into SubmissionError "object_table_unreadable" (501)."""
    try:
        yield
    except ImportError as error:
        raise SubmissionError(
            "object_table_unreadable",
            "The service cannot read object tables.",
            hint="Install pyarrow in the environment of the service.",
            status=501,
        ) from error


@contextlib.contextmanager
def skip_corrupt(kind: str, name: str) -> Iterator[None]:
    """Log an error of a file that cannot be read instead of raising it, so that a list shows all others."""
    try:
        yield
    except FatalError as error:
        if error.code != "state_corrupt":
            raise
        _log.error("left out of a list", extra={kind: name, **error.log_fields()})


def require_state(state: StateStore | None) -> StateStore:
    """Return the state store. Raises SubmissionError "state_not_configured" (503) when there is none. Pure."""
    if state is None:
        raise state_not_configured()
    return state


def state_not_configured() -> SubmissionError:
    """Return the error of a service without a state store (503). Pure."""
    return SubmissionError(
        "state_not_configured", "No state store is configured.", hint="Set INGEST_STATE_URL on the service.", status=503
    )


async def require_contract(state: StateStore | None, collection: str, access: CollectionAccess) -> CollectionContract:
    """Return the contract of a collection, or of the collection that an alias stands for now.

    Raises:
        CollectionNotFound: "collection_not_found" (404); also for a collection that the caller may not use, in the same
            words.
        SubmissionError: "state_not_configured", "state_unavailable" (503).

    Cost: two reads at once; for an alias a third one.
    """
    store = require_state(state)
    with state_needed():
        contract, alias = await asyncio.gather(
            asyncio.to_thread(read_contract, store, collection), asyncio.to_thread(find_alias, store, collection)
        )
        while alias is not None:
            contract = await asyncio.to_thread(read_contract, store, alias.collection)
            if contract is not None:
                break
            # Dropped since, as a former version: then the alias has moved.
            former, alias = alias, await asyncio.to_thread(find_alias, store, collection)
            if alias == former:
                break
    alias_name = None if contract is None or contract.collection == collection else collection
    if contract is None or not access.may_use_contents(contract.collection, contract.bucket, alias=alias_name):
        raise CollectionNotFound(
            "collection_not_found",
            f"Collection {collection!r} does not exist.",
            hint="List collections with GET /collections; a job creates its collection when it first writes.",
            status=404,
            field="collection",
        )
    return contract
