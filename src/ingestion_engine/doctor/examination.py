"""Runs the checks: all at the same time, each bounded in time, and their results in a fixed order."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ingestion_engine.doctor.context import Context, Role, in_thread
from ingestion_engine.doctor.findings import Finding, fail, fail_by, find_secrets, hide_secrets, skip
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.records import UNEXPECTED_ERROR
from ingestion_engine.runtime.telemetry import get_logger

_log = get_logger(__name__)

Run = Callable[[Context], Awaitable[list[Finding]]]
"""Makes one check. Errors of the product, time-outs and missing packages may leave it."""

_PACKAGE: Final = "ingestion_engine.doctor"
_ALL: Final = frozenset(Role)
_JOBS: Final = frozenset({Role.SERVICE, Role.WORKER})
_SERVICE: Final = frozenset({Role.SERVICE})
_WORKER: Final = frozenset({Role.WORKER})
_EXTRAS: Final = {Role.SERVICE: "api", Role.WORKER: "worker", Role.GATEWAY: "gateway"}
"""Extra of the distribution by what the process is used for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: its name, where its function is, who needs it."""

    name: str
    module: str
    """Module of the package ``doctor``, imported when the check runs."""
    function: str
    roles: frozenset[Role]
    about: str
    """What is checked, for help and documentation."""
    after: tuple[str, ...] = ()
    """Checks whose results it needs; it is skipped when one of them failed, unless ``despite`` is set."""
    despite: bool = False
    """True for a check that decides itself what the failure of another means."""
    hint: str = "Run it again with INGEST_LOG_LEVEL=DEBUG."
    """What to do about a failure that says nothing itself."""
    limits_itself: bool = False
    """True for a check with a time limit of its own, and with something to remove at its end."""
    extra: str = ""
    """Extra of the distribution that it requires beyond those of the role."""

    def load(self) -> Run:
        """Return the function. Raises ModuleNotFoundError when a package is not installed."""
        run: Run = getattr(importlib.import_module(f"{_PACKAGE}.{self.module}"), self.function)
        return run


CHECKS: Final = (
    Check(
        name="settings",
        module="machine",
        function="check_settings",
        roles=_ALL,
        about="variables of the environment and files of INGEST_SECRETS_DIR",
    ),
    Check(
        name="runtime",
        module="machine",
        function="check_runtime",
        roles=_ALL,
        about="version of the package, of Python and of the system; the user",
    ),
    Check(
        name="tls",
        module="machine",
        function="check_tls",
        roles=_ALL,
        about="authorities of INGEST_TLS__CA_FILE, and when they expire",
    ),
    Check(
        name="temp",
        module="machine",
        function="check_temp",
        roles=_JOBS,
        about="directory of temporary files, and its free space",
    ),
    Check(
        name="api-keys",
        module="machine",
        function="check_api_keys",
        roles=_SERVICE,
        about="file of API keys",
    ),
    Check(
        name="oidc",
        module="identity_provider",
        function="check_provider",
        roles=_SERVICE,
        about="OpenID Connect provider: discovery document, keys, rules for tokens",
        hint="Check INGEST_OIDC__ISSUER, and that the provider can be reached from here.",
    ),
    Check(
        name="database",
        module="database",
        function="check_database",
        roles=_SERVICE,
        about="database of jobs: version, schema, permissions, TLS, clock",
        hint="Check INGEST_DATABASE_URL and the database server.",
        extra="postgres",
    ),
    Check(
        name="s3",
        module="object_storage",
        function="check_s3",
        roles=_JOBS,
        about="S3: address, credentials, clock",
        hint="Check INGEST_S3__ENDPOINT_URL, and the network between here and there.",
    ),
    Check(
        name="bucket",
        module="object_storage",
        function="check_bucket",
        roles=_JOBS,
        about="a source bucket (--bucket): list and read",
        after=("s3",),
        despite=True,
        hint="Check the name of the bucket, and INGEST_S3__ENDPOINT_URL.",
    ),
    Check(
        name="state",
        module="object_storage",
        function="check_state",
        roles=_JOBS,
        about="state store: every operation of a job, conditional writes, upload in parts",
        after=("s3",),
        despite=True,
        hint="Check INGEST_STATE_URL.",
    ),
    Check(
        name="ollama",
        module="embedding",
        function="check_ollama",
        roles=_ALL,
        about="every Ollama server: version, default model, its digest, one text",
        hint="Check INGEST_OLLAMA__URLS, and the log and the load of each server.",
    ),
    Check(
        name="gateway",
        module="embedding",
        function="check_gateway",
        roles=_ALL,
        about="every gateway: its servers, default model, one text",
        hint="Check INGEST_GATEWAY__URL, and that the gateway and its servers run.",
    ),
    Check(
        name="qdrant",
        module="stores",
        function="check_qdrant",
        roles=_JOBS,
        about="Qdrant: version, API key, permissions",
        hint="Check INGEST_QDRANT__URL, and that the server runs.",
    ),
    Check(
        name="weaviate",
        module="stores",
        function="check_weaviate",
        roles=_JOBS,
        about="Weaviate: both ports, version, API key, permissions",
        hint="Check INGEST_WEAVIATE__URL and INGEST_WEAVIATE__GRPC_URL, and that the server runs.",
        extra="weaviate",
    ),
    Check(
        name="collections",
        module="stores",
        function="check_collections",
        roles=_SERVICE,
        about="schema of every collection in both stores",
        after=("state", "qdrant", "weaviate"),
        despite=True,
    ),
    Check(
        name="ray",
        module="ray_cluster",
        function="check_ray",
        roles=_SERVICE,
        about="Ray: dashboard, version, token, whether it is open",
        hint="Check INGEST_RAY__ADDRESS, and that the head runs.",
    ),
    Check(
        name="kubernetes",
        module="spark_cluster",
        function="check_kubernetes",
        roles=_SERVICE,
        about="Kubernetes: API server, and each permission of the account",
        hint="Check that the API server runs, and INGEST_SPARK__KUBECONFIG or the service account of this pod.",
        extra="kubernetes",
    ),
    Check(
        name="spark",
        module="spark_cluster",
        function="check_spark",
        roles=_SERVICE,
        about="Spark operator: CRD, webhook, and an application that is not kept",
        after=("kubernetes",),
        despite=True,
        hint="Check the Spark operator.",
        extra="kubernetes",
    ),
    Check(
        name="job",
        module="trial_job",
        function="check_job",
        roles=_SERVICE,
        about="a small job on every engine of a running service (--submit), and a search for its object",
        after=("s3",),
        despite=True,
        limits_itself=True,
    ),
    Check(
        name="parsers",
        module="workers",
        function="check_parsers",
        roles=_WORKER,
        about="parser processes",
        hint="Check the memory and the process limit of this worker.",
    ),
    Check(
        name="ocr",
        module="workers",
        function="check_ocr",
        roles=_WORKER,
        about="Tesseract and its languages, when INGEST_OCR__ENABLED is set",
    ),
)
"""Every check, in the order of the results."""


async def examine(
    context: Context, *, only: Collection[str] = (), checks: Sequence[Check] = CHECKS
) -> AsyncIterator[Finding]:
    """Yield the results of all checks of the context's role, in their order, each as soon as it is its turn.

    Never raises for what is broken; every failure is a result, without secrets.

    Args:
        context: Settings and limits.
        only: Names of the checks to make; empty means all of the role.
        checks: The checks.
    """
    chosen = [check for check in checks if (check.name in only if only else context.role in check.roles)]
    key = None if context.trial is None else context.trial.api_key
    secrets = (*find_secrets(context.settings), *([key] if key else []))
    # Imports keep the event loop busy for seconds; made first, they do not count as latency of servers.
    for check in chosen:
        with contextlib.suppress(ImportError):  # becomes the result of the check
            await in_thread(check.load)
    running: dict[str, asyncio.Task[list[Finding]]] = {}
    for check in chosen:
        waited = {name: running[name] for name in check.after if name in running}
        running[check.name] = asyncio.create_task(_run(check, context, waited), name=check.name)
    try:
        for name, task in running.items():
            for finding in await task:
                yield replace(hide_secrets(finding, secrets), name=name)
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _run(check: Check, context: Context, waited: dict[str, asyncio.Task[list[Finding]]]) -> list[Finding]:
    """Return the results of one check. Never raises."""
    context = replace(context, former={name: await task for name, task in waited.items()})
    broken = [name for name in check.after if context.has_failed(name)]
    if broken and not check.despite:
        return [skip(f"because {broken[0]!r} is not ok")]
    try:
        async with asyncio.timeout(None if check.limits_itself else context.time_limit_s):
            return await check.load()(context)
    except TimeoutError:
        return [fail(f"No result within {context.time_limit_s:g} s.", check.hint, code="check_timeout")]
    except IngestionError as error:
        return [fail_by(error, check.hint)]
    except Exception as error:  # a defect of one check hides no other
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if missing and missing.partition(".")[0] != "ingestion_engine":
            hint = f"Run: pip install 'ingestion-engine[{check.extra or _EXTRAS[context.role]}]'"
            return [fail(f"The module {missing!r} is not installed.", hint, code="not_installed")]
        _log.debug("check failed", extra={"check": check.name}, exc_info=True)
        return [fail(f"The check failed: {type(error).__name__}: {error}", check.hint, code=UNEXPECTED_ERROR)]
