"""The terms of a collection, filled into requests about what is already there: nobody repeats a model to verify."""

from __future__ import annotations

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import CollectionContract, Embedding, JobRequest, Mode, Source


def fill_in_terms(contract: CollectionContract, request: JobRequest) -> JobRequest:
    """Return a request with the collection's stores, model and chunking where it has the defaults. Pure.

    What it names otherwise stays, and is compared with the contract like any request's.
    """
    terms = {
        "stores": contract.stores,
        "embedding": Embedding(model=contract.model, prefix=contract.prefix, query_prefix=contract.query_prefix),
        "chunking": contract.chunking,
    }
    defaults = JobRequest.model_fields
    left_open = {name: term for name, term in terms.items() if getattr(request, name) == defaults[name].default}
    return request.model_copy(update=left_open)


def request_removal(contract: CollectionContract, prefix: str) -> JobRequest:
    """Return the request of a job that removes a collection's objects under a prefix. Pure.

    Raises:
        SubmissionError: "bucket_not_known" (409) for a contract of an older version, which names no bucket.
    """
    if contract.bucket is None:
        raise SubmissionError(
            "bucket_not_known",
            f"collection {contract.collection!r} was made by an older version and does not say which bucket it is of",
            hint="remove the objects from the bucket and sync, or ingest into a new collection",
            status=409,
        )
    source = Source(bucket=contract.bucket, prefix=prefix)
    return fill_in_terms(contract, JobRequest(source=source, collection=contract.collection, mode=Mode.DELETE))


def check_submittable(request: JobRequest) -> None:
    """Return when a request may be posted. Pure.

    Raises:
        SubmissionError: "mode_not_submittable" (422) for ``delete``, which has a route of its own.
    """
    if request.mode is Mode.DELETE:
        raise SubmissionError(
            "mode_not_submittable",
            "objects are removed through the collection, not by posting a job",
            hint=f"DELETE /collections/{request.collection}/objects?prefix=...",
            field="mode",
        )
