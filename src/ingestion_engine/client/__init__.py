"""The Python client of the HTTP API: ``IngestClient``, and ``AsyncIngestClient`` for asyncio.

::

    with IngestClient("http://127.0.0.1:8080") as client:
        job = client.submit(JobRequest(source=Source(bucket="docs"), collection="docs"))
        for seen in client.watch(job.job_id):
            print(seen.state, seen.counts)

Requests and responses are the models of ``ingestion_engine.models``; docs/python-client.md has a guide.

What does not belong: reading the environment (the command line does), and anything that a service does not offer to
all of its clients.
"""

from __future__ import annotations

from ingestion_engine.client.asynchronous import AsyncIngestClient
from ingestion_engine.client.blocking import IngestClient
from ingestion_engine.client.core import Page
from ingestion_engine.client.errors import (
    ApiError,
    ApiUnreachable,
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from ingestion_engine.domain.spec import (
    Chunking,
    Embedding,
    EngineName,
    FailureBudget,
    JobRequest,
    Mode,
    Source,
    StoreName,
)
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.search import Filter

__all__ = [
    "ApiError",
    "ApiUnreachable",
    "AsyncIngestClient",
    "Chunking",
    "Conflict",
    "Embedding",
    "EngineName",
    "FailureBudget",
    "Filter",
    "IngestClient",
    "InvalidRequest",
    "JobRequest",
    "JobState",
    "Mode",
    "NotAllowed",
    "NotFound",
    "Page",
    "RateLimited",
    "Source",
    "StoreName",
    "Unauthenticated",
    "Unavailable",
]
