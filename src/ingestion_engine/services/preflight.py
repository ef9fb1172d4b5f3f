"""What can be known about a request before it is a job, asked of the systems themselves in at most two seconds.

A system that says no refuses the request; a system that is away refuses nothing, for the driver asks again before it
writes anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from ingestion_engine.domain.errors import FatalError, SubmissionError, TransientError
from ingestion_engine.domain.ports import Embedder, ObjectSource, StateStore
from ingestion_engine.domain.records import ModelInfo
from ingestion_engine.domain.spec import (
    MODES_ON_EXISTING,
    MODES_WITHOUT_EMBEDDER,
    CollectionContract,
    EngineName,
    JobRequest,
    StoreName,
)
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.contract_defaults import fill_in_terms
from ingestion_engine.services.job_ids import name_version
from ingestion_engine.services.response_cache import ResponseCache
from ingestion_engine.services.specs import name_model
from ingestion_engine.services.state_access import require_contract, require_state
from ingestion_engine.state.aliases import Alias, find_alias
from ingestion_engine.state.collections import find_collision, list_names, read_contract

TIME_LIMIT_S: Final = 2.0
"""For all checks together: a submission is answered while its caller still waits."""

KEEP_S: Final = 5.0
"""How long a bucket or a model that was there, or the knowledge that a system is away, is used again: a burst of
submissions costs one check. What changes meanwhile the driver finds out, and fails the job with the same message."""

NAMES_KEEP_S: Final = 2.0
"""How long the names of all collections and aliases are used again, to find those that differ in case only. A
collection or alias of the very name that is asked for is always looked up anew: whoever has just made one finds it."""

_log = get_logger(__name__)

_HINTS: Final = {
    "bucket_not_found": "create the bucket, or correct source.bucket; the service looks at INGEST_S3__ENDPOINT_URL",
    "bucket_access_denied": "let the service's S3 credentials list and read this bucket",
    "model_not_found": "run `ollama pull` for the model on every server of INGEST_OLLAMA__URLS, or name another",
}


class Preflight:
    """Checks requests. Shared by all requests of one event loop.

    Args:
        settings: The service's settings.
        source: The buckets.
        embedder: Knows the models.
        state: Holds the contracts; None when no state store is configured.
        engines: Engines that are configured.
        stores: Stores that are configured.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: ObjectSource,
        embedder: Embedder,
        state: StateStore | None,
        engines: Collection[EngineName],
        stores: Collection[StoreName],
    ) -> None:
        self._settings = settings
        self._source = source
        self._embedder = embedder
        self._state = state
        self._engines = frozenset(engines)
        self._stores = frozenset(stores)
        self._shared = ResponseCache()
        self._away_until: dict[str, float] = {}

    async def complete(self, request: JobRequest) -> JobRequest:
        """Return a request with what its collection settles; one that may make its collection comes back as it is.

        Raises:
            SubmissionError: "collection_not_found" (404), "state_not_configured", "state_unavailable" (503).

        Cost: one read of the state store, for modes that are about what is there.
        """
        if request.mode not in MODES_ON_EXISTING:
            return request
        return fill_in_terms(await require_contract(self._state, request.collection), request)

    async def resolve(self, request: JobRequest, job_id: str) -> JobRequest:
        """Return a request that names a collection: what an alias stands for now, or a new version behind one.

        While the state store is away a name is taken as it is; the driver refuses it then, should it be an alias.
        Cost: one read of the state store at most.
        """
        state = self._state
        if not request.collection:
            assert request.alias is not None
            return request.model_copy(update={"collection": name_version(request.alias, job_id)})
        if state is None:
            return request
        answers = await self._ask({"state": lambda: asyncio.to_thread(find_alias, state, request.collection)})
        alias = answers.get("state")
        return request.model_copy(update={"collection": alias.collection}) if isinstance(alias, Alias) else request

    async def check(self, engine: EngineName, request: JobRequest) -> None:
        """Return when nothing speaks against the job.

        Raises:
            SubmissionError: the first thing that does; ``context["errors"]`` lists all of them when there are several.

        Cost: one read of the state store, two with an alias; of what is kept for ``KEEP_S`` or ``NAMES_KEEP_S`` at
        most one listing of the bucket, one model description and two listings of the state store, all concurrently.
        Jobs about what is there do not need the bucket, and those that embed nothing do not need the model.
        """
        self.check_configured(engine, request.stores)
        state = self._state
        assert state is not None
        model = name_model(self._settings, request)
        bucket = request.source.bucket
        checks: dict[str, Callable[[], Awaitable[Any]]] = {
            "s3": lambda: self._shared.get(
                ("bucket", bucket), lambda: asyncio.to_thread(self._source.check_bucket, bucket), keep_s=KEEP_S
            ),
            "ollama": lambda: self._shared.get(("model", model), lambda: self._embedder.describe(model), keep_s=KEEP_S),
            "state": lambda: self._look_up(state, request),
        }
        if request.mode in MODES_ON_EXISTING:
            del checks["s3"]
        if request.mode in MODES_WITHOUT_EMBEDDER:
            del checks["ollama"]
        answers = await self._ask(checks)
        faults = [_refusal(answer, request) for answer in answers.values() if isinstance(answer, FatalError)]
        found = answers.get("state")
        if isinstance(found, SubmissionError):
            faults.append(found)
        elif isinstance(found, CollectionContract):
            described = answers.get("ollama")
            digest = described.digest if isinstance(described, ModelInfo) else None
            faults += compare_request(found, request, model=model, digest=digest)
        if faults:
            raise _combine(faults)

    def check_configured(self, engine: EngineName, stores: Collection[StoreName]) -> None:
        """Return when engine, state store and stores are configured here. No request.

        Raises:
            SubmissionError: "engine_not_configured" (501), "state_not_configured" (503), "store_not_configured" (422).
        """
        if engine not in self._engines:
            ways = {
                EngineName.RAY: "set INGEST_RAY__ADDRESS on the service",
                EngineName.SPARK: "set INGEST_SPARK__NAMESPACE on the service; the embedded stack brings Spark, but "
                "not Java 17 (Debian package openjdk-17-jre-headless)",
            }
            raise SubmissionError(
                "engine_not_configured",
                f"this service has no {engine.value} cluster",
                hint=f"{ways[engine]}; or submit to another engine" if engine in ways else "",
                status=501,
            )
        require_state(self._state)
        for store in stores:
            if store not in self._stores:
                raise SubmissionError(
                    "store_not_configured",
                    f"this service has no {store.value}",
                    hint=f"set INGEST_{store.value.upper()}__URL on the service, or leave {store.value} out of stores",
                    field="stores",
                )

    async def _ask(self, checks: Mapping[str, Callable[[], Awaitable[Any]]]) -> dict[str, Any]:
        """Run checks at once; return each one's value or refusal. Those that are away or late are missing."""
        now = time.monotonic()
        tasks = {
            name: asyncio.ensure_future(check())
            for name, check in checks.items()
            if self._away_until.get(name, 0.0) <= now
        }
        if tasks:
            await asyncio.wait(tasks.values(), timeout=TIME_LIMIT_S)
        answers: dict[str, Any] = {}
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                self._skip(name, "no answer in time")
                continue
            error = task.exception()
            if error is None:
                answers[name] = task.result()
            elif isinstance(error, FatalError | SubmissionError):
                answers[name] = error
            elif isinstance(error, TransientError):
                self._skip(name, error.message)
            else:
                raise error
        return answers

    def _skip(self, name: str, reason: str) -> None:
        self._away_until[name] = time.monotonic() + KEEP_S
        _log.warning("preflight check skipped", extra={"dependency": name, "reason": reason})

    async def _look_up(self, state: StateStore, request: JobRequest) -> CollectionContract | None:
        """Return the contract of a request's collection, None for a new one.

        Raises:
            SubmissionError: "collection_name_taken", "alias_name_taken".
        """
        if request.alias is not None and (taken := await self._find_alias_collision(state, request.alias)) is not None:
            raise SubmissionError(
                "alias_name_taken",
                f"{request.alias!r} cannot be an alias: it collides with the existing {taken!r}",
                hint="use another name",
                status=409,
                field="alias",
                existing=taken,
            )
        collection = request.collection
        contract = await asyncio.to_thread(read_contract, state, collection)
        if contract is not None:
            return contract
        taken = find_collision(await self._list_names(state), collection)
        if taken is None:
            return None
        raise SubmissionError(
            "collection_name_taken",
            f"collection {collection!r} differs from the existing {taken!r} in upper and lower case only",
            hint=f"use {taken!r}, or a name that differs by more",
            status=409,
            field="collection",
            existing=taken,
        )

    async def _find_alias_collision(self, state: StateStore, alias: str) -> str | None:
        if await asyncio.to_thread(read_contract, state, alias) is not None:
            return alias
        return find_collision(await self._list_names(state), alias)

    async def _list_names(self, state: StateStore) -> frozenset[str]:
        return await self._shared.get("names", lambda: asyncio.to_thread(list_names, state), keep_s=NAMES_KEEP_S)


def compare_request(
    contract: CollectionContract, request: JobRequest, *, model: str, digest: str | None
) -> list[SubmissionError]:
    """Return one refusal for each thing in which a request differs from its collection's contract. Pure.

    Args:
        contract: What the collection is.
        request: What is asked.
        model: The request's model after defaults.
        digest: What that model is now; None when not known.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("source.bucket", contract.bucket or request.source.bucket, request.source.bucket),
        ("stores", sorted(contract.stores), sorted(request.stores)),
        ("embedding.model", contract.model, model),
        ("embedding.prefix", contract.prefix, request.embedding.prefix),
        ("embedding.query_prefix", contract.query_prefix, request.embedding.query_prefix),
        ("chunking.max_chars", contract.chunking.max_chars, request.chunking.max_chars),
        ("chunking.overlap_chars", contract.chunking.overlap_chars, request.chunking.overlap_chars),
    ]
    faults = [_mismatch(contract, field, existing, wanted) for field, existing, wanted in pairs if existing != wanted]
    if contract.model == model and digest is not None and contract.model_digest != digest:
        message = (
            f"collection {contract.collection!r} was made with {model!r} of digest {contract.model_digest}; "
            f"the embedder now has {digest} under that name"
        )
        faults.append(_fault(message, "embedding.model", contract.model_digest, digest))
    return faults


def _mismatch(contract: CollectionContract, field: str, existing: Any, wanted: Any) -> SubmissionError:
    existing, wanted = _plain(existing), _plain(wanted)
    message = f"collection {contract.collection!r} was made with {field} {existing!r}, the request wants {wanted!r}"
    return _fault(message, field, existing, wanted)


def _fault(message: str, field: str, existing: Any, wanted: Any) -> SubmissionError:
    hint = (
        "ask for what the collection has, or submit with `alias`: a new collection is made, and the alias moves to it"
    )
    return SubmissionError(
        "contract_mismatch", message, hint=hint, status=409, field=field, existing=existing, wanted=wanted
    )


def _plain(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, list) else value


def _refusal(error: FatalError, request: JobRequest) -> SubmissionError:
    """What a system said, as an answer to the caller that names the field."""
    field = {
        "bucket_not_found": "source.bucket",
        "bucket_access_denied": "source.bucket",
        "model_not_found": "embedding.model",
    }.get(error.code)
    status = 422 if field else 503
    hint = _HINTS.get(error.code) or error.hint
    return SubmissionError(error.code, error.message, hint=hint, status=status, field=field)


def _combine(faults: list[SubmissionError]) -> SubmissionError:
    first = faults[0]
    if len(faults) == 1:
        return first
    errors = [
        {"pointer": "/" + (fault.field or "").replace(".", "/"), "detail": fault.message, "code": fault.code}
        for fault in faults
    ]
    context = {key: value for key, value in first.context.items() if key not in {"status", "field"}}
    return SubmissionError(
        first.code, first.message, hint=first.hint, status=first.status, field=first.field, errors=errors, **context
    )
