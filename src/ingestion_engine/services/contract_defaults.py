"""Completes requests on an existing collection from its contract, so that they do not have to repeat the model."""

from __future__ import annotations

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import CollectionContract, Embedding, JobRequest, Mode, Source


def apply_contract(contract: CollectionContract, request: JobRequest) -> JobRequest:
    """Return a request with the stores, model and chunking of the contract in place of defaults. Pure.

    Other values stay; they are compared with the contract later, like those of any request.
    """
    agreed = {
        "stores": contract.stores,
        "embedding": Embedding(model=contract.model, prefix=contract.prefix, query_prefix=contract.query_prefix),
        "chunking": contract.chunking,
    }
    defaults = JobRequest.model_fields
    unset = {name: value for name, value in agreed.items() if getattr(request, name) == defaults[name].default}
    return request.model_copy(update=unset)


def request_removal(contract: CollectionContract, prefix: str) -> JobRequest:
    """Return the request of a job that removes the objects of a collection under a prefix. Pure.

    Raises:
        SubmissionError: "bucket_not_known" (409): the contract was written by an older version and names no bucket.
    """
    hint = "Remove the objects from the bucket and run a sync job, or ingest into a new collection."
    return _request_on(contract, Mode.DELETE, prefix, hint=hint)


def request_comparison(contract: CollectionContract, mode: Mode, prefix: str = "") -> JobRequest:
    """Return the request of a job that compares (``verify``) or repairs the objects under a prefix. Pure.

    Raises:
        SubmissionError: as ``request_removal``.
    """
    return _request_on(contract, mode, prefix, hint=f"Submit a job with mode '{mode.value}' that names the bucket.")


def _request_on(contract: CollectionContract, mode: Mode, prefix: str, *, hint: str) -> JobRequest:
    if contract.bucket is None:
        raise SubmissionError(
            "bucket_not_known",
            f"Collection {contract.collection!r} was created by an older version that did not record its bucket.",
            hint=hint,
            status=409,
        )
    source = Source(bucket=contract.bucket, prefix=prefix)
    return apply_contract(contract, JobRequest(source=source, collection=contract.collection, mode=mode))


def check_submittable(request: JobRequest) -> None:
    """Return when a request may be submitted as a job. Pure.

    Raises:
        SubmissionError: "mode_not_submittable" (422): mode ``delete`` has its own route.
    """
    if request.mode is Mode.DELETE:
        raise SubmissionError(
            "mode_not_submittable",
            "Jobs with mode 'delete' cannot be submitted directly.",
            hint=f"Use DELETE /collections/{request.collection}/objects?prefix=...",
            field="mode",
        )
