"""What a caller is told when the state store is missing or away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ingestion_engine.domain.errors import IngestionError, SubmissionError


@contextlib.contextmanager
def state_needed() -> Iterator[None]:
    """Make a state store that is away an answer to the caller (503)."""
    try:
        yield
    except SubmissionError:
        raise
    except IngestionError as error:
        raise SubmissionError(
            "state_unavailable",
            f"the state store is away: {error.message}",
            hint="try again; GET /readyz shows what is away",
            status=503,
        ) from error


def state_not_configured() -> SubmissionError:
    """Return the answer of a service without a state store (503). Pure."""
    return SubmissionError(
        "state_not_configured", "this service has no state store", hint="set INGEST_STATE_URL", status=503
    )
