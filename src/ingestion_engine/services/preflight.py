"""Checks a request against the systems it names, before it becomes a job, in at most two seconds.

A system that denies the request causes a refusal. An unavailable system does not: the driver repeats all checks before
it writes anything.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from ingestion_engine.domain.errors import FatalError, SubmissionError, TlsFailed, TransientError
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
from ingestion_engine.services.collection_access import (
    EVERYTHING_ALLOWED,
    CollectionAccess,
    may_use_stored,
    not_allowed,
)
from ingestion_engine.services.contract_defaults import apply_contract
from ingestion_engine.services.job_ids import name_version
from ingestion_engine.services.response_cache import ResponseCache
from ingestion_engine.services.specs import name_model
from ingestion_engine.services.state_access import require_contract, require_state
from ingestion_engine.state.aliases import Alias, find_alias
from ingestion_engine.state.collections import find_collision, list_names, read_contract
from ingestion_engine.state.deletions import refuse_deletion
from ingestion_engine.state.trial import try_operations

TIME_LIMIT_S: Final = 2.0
"""Time limit of all checks together, so that a submission is answered while its caller still waits."""

KEEP_S: Final = 5.0
"""How long the result of a check is reused (a bucket or a model exists, a system is unavailable), so that a burst of
submissions costs one check. The driver detects changes in the meantime and fails the job with the same message."""

TRIAL_KEEP_S: Final = 300.0
"""How long it is believed that the state store allows everything that a job does; permissions change seldom."""

NAMES_KEEP_S: Final = 2.0
"""How long the names of all collections and aliases are reused to find names that differ in case only. A collection or
alias of exactly the requested name is always read again, so that a client finds the one it has just created."""

_log = get_logger(__name__)

_HINTS: Final = {
    "bucket_not_found": "Create the bucket or correct source.bucket; the service uses INGEST_S3__ENDPOINT_URL.",
    "bucket_access_denied": "Allow the S3 credentials of the service to list and read this bucket.",
    "model_not_found": "Run `ollama pull` for the model on every server of INGEST_OLLAMA__URLS, or use another model.",
}


class Preflight:
    """Checks requests. Shared by all requests of one event loop.

    Args:
        settings: The service's settings.
        source: The buckets.
        embedder: The embedder, which describes models.
        state: The state store with the contracts; None when none is configured.
        engines: Configured engines.
        stores: Configured vector stores.
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
        self._unavailable_until: dict[str, float] = {}

    async def complete(self, request: JobRequest) -> JobRequest:
        """Return a request completed from the contract of its collection, if its mode requires an existing one.

        Raises:
            SubmissionError: "collection_not_found" (404), "state_not_configured", "state_unavailable" (503).

        Cost: two or three reads of the state store, for modes that work on an existing collection.
        """
        if request.mode not in MODES_ON_EXISTING:
            return request
        return apply_contract(await require_contract(self._state, request.collection, EVERYTHING_ALLOWED), request)

    async def resolve(self, request: JobRequest, job_id: str) -> JobRequest:
        """Return a request that names a collection: the one that an alias stands for now, or a new version for it.

        While the state store is unavailable, the name is used as it is; the driver refuses it if it is an alias.
        Cost: at most one read of the state store.
        """
        state = self._state
        if not request.collection:
            assert request.alias is not None
            return request.model_copy(update={"collection": name_version(request.alias, job_id)})
        if state is None:
            return request
        answers = await self._run({"state": lambda: asyncio.to_thread(find_alias, state, request.collection)})
        alias = answers.get("state")
        return request.model_copy(update={"collection": alias.collection}) if isinstance(alias, Alias) else request

    async def permit(self, request: JobRequest, named: str, access: CollectionAccess) -> None:
        """Return when the caller may use what a request writes and moves, as it is now.

        Args:
            request: The request, resolved.
            named: The collection that the caller has named; it may be an alias.
            access: What the caller may use.

        Raises:
            SubmissionError: "not_allowed" (403); "state_unavailable" (503): what an alias stands for is not known.

        Cost: for a restricted caller, one read of the state store; two more with ``alias``.
        """
        if not access.is_restricted:
            return
        state = require_state(self._state)
        find = functools.partial(_find_foreign, state, request, named=named, access=access)
        answers = await self._run({"access": lambda: asyncio.to_thread(find)})
        if "access" not in answers:
            raise SubmissionError(
                "state_unavailable",
                "The state store is unavailable, so it is not known whether the caller may use the collection.",
                hint="Try again later; GET /readyz shows which systems are unavailable.",
                status=503,
            )
        found = answers["access"]
        if isinstance(found, FatalError | TlsFailed):
            raise _refusal(found)
        if found is not None:
            name = request.alias if found == "alias" else named or request.collection
            raise not_allowed(f"{found} {name!r}", found)

    async def check(self, engine: EngineName, request: JobRequest) -> None:
        """Return when no check refuses the job.

        Raises:
            SubmissionError: the first refusal; ``context["errors"]`` lists all of them when there are several.

        Cost: two reads of the state store, three with an alias. At most once per ``KEEP_S`` or ``NAMES_KEEP_S``: one
        listing of the bucket, one model description and two listings of the state store; at most once per
        ``TRIAL_KEEP_S``: eight requests that try its permissions. All concurrently. Modes on
        existing collections do not check the bucket, and modes that embed nothing do not check the model.
        """
        self.check_configured(engine, request.stores)
        state = self._state
        assert state is not None
        model = name_model(self._settings, request)
        bucket, prefix = request.source.bucket, request.source.narrowest_prefix()
        checks: dict[str, Callable[[], Awaitable[Any]]] = {
            "s3": lambda: self._shared.get(
                ("bucket", bucket, prefix),
                lambda: asyncio.to_thread(self._source.check_bucket, bucket, prefix),
                keep_s=KEEP_S,
            ),
            "ollama": lambda: self._shared.get(("model", model), lambda: self._embedder.describe(model), keep_s=KEEP_S),
            "state": lambda: self._look_up(state, request),
            "trial": lambda: self._shared.get(
                "trial", lambda: asyncio.to_thread(try_operations, state, ""), keep_s=TRIAL_KEEP_S
            ),
        }
        if request.mode in MODES_ON_EXISTING:
            del checks["s3"]
        if request.mode in MODES_WITHOUT_EMBEDDER:
            del checks["ollama"]
        answers = await self._run(checks)
        faults = [_refusal(answer) for answer in answers.values() if isinstance(answer, FatalError | TlsFailed)]
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
        """Return when engine, state store and vector stores are configured. No request.

        Raises:
            SubmissionError: "engine_not_configured" (501), "state_not_configured" (503), "store_not_configured" (422).
        """
        if engine not in self._engines:
            hints = {
                EngineName.RAY: "Set INGEST_RAY__ADDRESS on the service, or use another engine.",
                EngineName.SPARK: "Set INGEST_SPARK__NAMESPACE on the service, or use another engine. The embedded "
                "stack includes Spark, but not Java 17 (Debian package openjdk-17-jre-headless).",
            }
            raise SubmissionError(
                "engine_not_configured",
                f"Engine {engine.value!r} is not configured.",
                hint=hints.get(engine, ""),
                status=501,
            )
        require_state(self._state)
        for store in stores:
            if store not in self._stores:
                raise SubmissionError(
                    "store_not_configured",
                    f"Store {store.value!r} is not configured.",
                    hint=f"Set INGEST_{store.value.upper()}__URL on the service, or leave the store out of `stores`.",
                    field="stores",
                )

    async def _run(self, checks: Mapping[str, Callable[[], Awaitable[Any]]]) -> dict[str, Any]:
        """Run checks concurrently; return the value or refusal of each. Unavailable and late systems are left out."""
        now = time.monotonic()
        tasks = {
            name: asyncio.ensure_future(check())
            for name, check in checks.items()
            if self._unavailable_until.get(name, 0.0) <= now
        }
        if tasks:
            await asyncio.wait(tasks.values(), timeout=TIME_LIMIT_S)
        answers: dict[str, Any] = {}
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                self._skip(name, f"No response within {TIME_LIMIT_S:g} s.")
                continue
            error = task.exception()
            if error is None:
                answers[name] = task.result()
            elif isinstance(error, FatalError | SubmissionError | TlsFailed):
                answers[name] = error
            elif isinstance(error, TransientError):
                self._skip(name, error.message)
            else:
                raise error
        return answers

    def _skip(self, name: str, reason: str) -> None:
        self._unavailable_until[name] = time.monotonic() + KEEP_S
        _log.warning("preflight check skipped", extra={"dependency": name, "reason": reason})

    async def _look_up(self, state: StateStore, request: JobRequest) -> CollectionContract | None:
        """Return the contract of the requested collection, or None for a new one.

        Raises:
            FatalError: "collection_deleting".
            SubmissionError: "collection_name_taken", "alias_name_taken".
        """
        if request.alias is not None and (taken := await self._find_alias_collision(state, request.alias)) is not None:
            raise SubmissionError(
                "alias_name_taken",
                f"The name {request.alias!r} cannot be an alias: it collides with {taken!r}, which exists.",
                hint="Use another name.",
                status=409,
                field="alias",
                existing=taken,
            )
        collection = request.collection
        contract, _ = await asyncio.gather(
            asyncio.to_thread(read_contract, state, collection), asyncio.to_thread(refuse_deletion, state, collection)
        )
        if contract is not None:
            return contract
        taken = find_collision(await self._list_names(state), collection)
        if taken is None:
            return None
        raise SubmissionError(
            "collection_name_taken",
            f"The name {collection!r} differs from {taken!r}, which exists, in case only.",
            hint=f"Use {taken!r}, or a name that differs in more than case.",
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


def _find_foreign(state: StateStore, request: JobRequest, *, named: str, access: CollectionAccess) -> str | None:
    """Return the field of a request, resolved, with what the caller may not use; None when it may use all of it."""
    contract = read_contract(state, request.collection)
    bucket = request.source.bucket if contract is None else contract.bucket
    through = request.alias if not named else named if named != request.collection else None
    if not access.may_use_contents(request.collection, bucket, alias=through):
        return "collection"
    alias = None if request.alias is None else find_alias(state, request.alias)
    if alias is not None and not may_use_stored(state, access, alias.collection, alias=alias.name):
        return "alias"
    return None


def compare_request(
    contract: CollectionContract, request: JobRequest, *, model: str, digest: str | None
) -> list[SubmissionError]:
    """Return one refusal for each value in which a request differs from the contract of its collection. Pure.

    Args:
        contract: The contract of the collection.
        request: The request.
        model: Model of the request, or the default model.
        digest: Current digest of that model; None when it is unknown.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("source.bucket", contract.bucket or request.source.bucket, request.source.bucket),
        ("stores", sorted(map(str, contract.stores)), sorted(map(str, request.stores))),
        ("embedding.model", contract.model, model),
        ("embedding.prefix", contract.prefix, request.embedding.prefix),
        ("embedding.query_prefix", contract.query_prefix, request.embedding.query_prefix),
        ("chunking.max_chars", contract.chunking.max_chars, request.chunking.max_chars),
        ("chunking.overlap_chars", contract.chunking.overlap_chars, request.chunking.overlap_chars),
    ]
    faults = []
    for field, existing, wanted in pairs:
        if existing != wanted:
            message = f"Collection {contract.collection!r} has {field} {existing!r}; the request has {wanted!r}."
            faults.append(_make_mismatch(message, field, existing=existing, wanted=wanted))
    if contract.model == model and digest is not None and contract.model_digest != digest:
        message = (
            f"Collection {contract.collection!r} was created with digest {contract.model_digest!r} of model {model!r}; "
            f"the embedder now has digest {digest!r}."
        )
        faults.append(_make_mismatch(message, "embedding.model", existing=contract.model_digest, wanted=digest))
    return faults


def _make_mismatch(message: str, field: str, *, existing: Any, wanted: Any) -> SubmissionError:
    hint = (
        "Use the values of the collection, or submit with `alias` to create a new collection and move the alias to it."
    )
    return SubmissionError(
        "contract_mismatch", message, hint=hint, status=409, field=field, existing=existing, wanted=wanted
    )


def _refusal(error: FatalError | TlsFailed) -> SubmissionError:
    """Return the error of a system as a refusal that names the field at fault. Pure."""
    field, status = {
        "bucket_not_found": ("source.bucket", 422),
        "bucket_access_denied": ("source.bucket", 422),
        "collection_deleting": ("collection", 409),
        "model_not_found": ("embedding.model", 422),
    }.get(error.code, (None, 503))
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
