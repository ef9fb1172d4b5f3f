"""A typed client of what Spark jobs need of the Kubernetes API: SparkApplications, the driver's log, the version.

The official client blocks, so it runs in a few threads of its own: a cluster that does not answer holds up neither
the event loop nor the threads that others use. What it corrects for:

- The client retries a refused connection three times by itself; here nothing is retried, the service's dispatcher
  does that.
- Time-outs hold per socket operation; a server that sends a byte now and then is given up after ``TOTAL_TIMEOUT_S``.
- An admission webhook's denial is 403 like a missing permission; only the message tells them apart.
- 404 is "no such object", "no such namespace" (only on create) and, as plain text, "no such resource type": the
  operator's CRD is not installed.
- A container that has not started yet answers a request for its log with 400.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from kubernetes import config
from kubernetes.client import ApiClient, Configuration, CoreV1Api, CustomObjectsApi, VersionApi
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.submission.spark_manifest import DRIVER_CONTAINER

CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 10.0
TOTAL_TIMEOUT_S: Final = 15.0
"""Time for one request with everything around it; a healthy API server answers in tens of milliseconds."""

THREADS: Final = 4
"""Requests at once; a look at a job is one, so this bounds what an away cluster can hold up."""

LOG_TAIL_LINES: Final = 20_000
LOG_TAIL_BYTES: Final = 1024 * 1024
"""At most so much of the end of a driver's log is kept in memory."""

GROUP: Final = "sparkoperator.k8s.io"
VERSION: Final = "v1beta2"
PLURAL: Final = "sparkapplications"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SparkApplication:
    """What Kubernetes holds of one application."""

    name: str
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    state: str
    """The operator's word; empty until it has looked at the application."""
    error_message: str
    created_at: datetime | None
    deleting: bool
    """Deleted, but its driver is still being stopped."""
    driver_pod: str


class KubernetesApi:
    """Requests about one namespace of one cluster. All raise ``TransientError`` while it is away or refuses us.

    Args:
        namespace: Where the applications are.
        kubeconfig: None means the pod's own account, else the default kubeconfig.
        context: Of the kubeconfig; None means its current one.
    """

    def __init__(self, namespace: str, *, kubeconfig: Path | None = None, context: str | None = None) -> None:
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._context = context
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kubernetes")
        self._client: ApiClient | None = None

    async def close(self) -> None:
        """Release connections and threads; what is under way is left to its time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._forget_client()

    async def get_version(self) -> str:
        """Return the API server's version, like ``v1.31.2``."""
        try:
            info = await self._call(lambda client, kept: VersionApi(client).get_code(**kept))
        except _Answer as answer:
            raise self._translate(answer) from None
        return str(info.git_version)

    async def create_application(self, manifest: dict[str, Any]) -> SparkApplication | None:
        """Create an application; None when one of that name exists already. One request.

        Raises:
            SubmissionError: "engine_refused": schema or webhook refuses the manifest for good.
            TransientError: not created, as far as known; ``context["maybe_started"]`` is True when that is uncertain.
        """

        def create(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).create_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, manifest, field_validation="Strict", **kept
            )

        try:
            return _read_application(await self._call(create))
        except _Answer as answer:
            if answer.reason == "AlreadyExists":
                return None
            if answer.status in {400, 422} or answer.is_denied:
                raise SubmissionError(
                    "engine_refused", f"Kubernetes refuses the SparkApplication: {answer.message}"
                ) from None
            raise self._translate(answer) from None

    async def get_application(self, name: str) -> SparkApplication | None:
        """Return an application, or None when there is none of that name. One request."""

        def get(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).get_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, name, **kept
            )

        try:
            return _read_application(await self._call(get))
        except _Answer as answer:
            if answer.names_missing_object:
                return None
            raise self._translate(answer) from None

    async def delete_application(self, name: str) -> bool:
        """Delete an application, its driver first (foreground, seconds later); False when there is none."""

        def delete(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).delete_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, name, propagation_policy="Foreground", **kept
            )

        try:
            await self._call(delete)
        except _Answer as answer:
            if answer.names_missing_object:
                return False
            raise self._translate(answer) from None
        return True

    async def read_driver_log(self, pod: str) -> str | None:
        """Return the end of a driver's log (at most 1 MiB); None when the pod is gone or not started. One request."""

        def read(client: ApiClient, kept: dict[str, Any]) -> str:
            answer = CoreV1Api(client).read_namespaced_pod_log(
                pod,
                self._namespace,
                container=DRIVER_CONTAINER,
                tail_lines=LOG_TAIL_LINES,
                _preload_content=False,
                **kept,
            )
            tail = b""
            try:
                for block in answer.stream(64 * 1024):
                    tail = (tail + block)[-LOG_TAIL_BYTES:]
            finally:
                answer.release_conn()
            if answer.status != 200:
                raise ApiException(status=answer.status, reason=answer.reason, body=tail.decode(errors="replace"))
            return tail.decode("utf-8", errors="replace")

        try:
            return await self._call(read) or None
        except _Answer as answer:
            if answer.names_missing_object or answer.status == 400:
                return None
            raise self._translate(answer) from None

    async def _call(self, request: Callable[[ApiClient, dict[str, Any]], T]) -> T:
        """Make one request in a thread. Raises TransientError without an answer, ``_Answer`` for no success."""

        def work() -> T:
            with _as_ours():
                return request(self._open_client(), {"_request_timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)})

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, work), TOTAL_TIMEOUT_S)
        except TimeoutError:
            raise _unreachable("does not answer in time", maybe_started=True) from None
        except _Answer as answer:
            if answer.status == 401:
                self._forget_client()  # the kubeconfig may hold a newer token by now
            raise

    def _open_client(self) -> ApiClient:
        """The client, made on first use: reading a kubeconfig may run a log-in program."""
        if self._client is None:
            configuration = Configuration()
            chosen = self._kubeconfig is not None or self._context is not None
            if chosen or not _load_in_cluster(configuration):
                path = None if self._kubeconfig is None else str(self._kubeconfig)
                config.load_kube_config(path, self._context, configuration, persist_config=False)
            configuration.retries = 0
            configuration.connection_pool_maxsize = THREADS
            self._client = ApiClient(configuration)
        return self._client

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _translate(self, answer: _Answer) -> TransientError:
        """The reaction to an answer that is no success. Pure."""
        if answer.status == 401:
            return TransientError(
                "engine_access_denied",
                "Kubernetes does not accept our credentials (HTTP 401)",
                hint="check the kubeconfig or the service account",
            )
        if answer.status == 403:
            return TransientError(
                "engine_access_denied",
                f"Kubernetes refuses us: {answer.message or 'HTTP 403'}",
                hint=f"the account needs sparkapplications, pods and pods/log in namespace {self._namespace}",
            )
        if answer.status == 404 and not answer.reason:
            return TransientError(
                "engine_unexpected_answer",
                "this Kubernetes does not know SparkApplications",
                hint="install the Spark operator with its CRDs, or check the kubeconfig's address",
            )
        if answer.status == 404:
            return TransientError(
                "engine_unexpected_answer",
                f"Kubernetes says: {answer.message}",
                hint="check INGEST_SPARK__NAMESPACE",
            )
        if answer.status == 429:
            context = {} if answer.retry_after_s is None else {"retry_after_s": answer.retry_after_s}
            return TransientError("engine_busy", "Kubernetes asks us to slow down (HTTP 429)", **context)
        if "failed calling webhook" in answer.message:
            return TransientError(
                "engine_error",
                "the Spark operator's webhook does not answer",
                hint="check the operator's pods",
                status=answer.status,
                maybe_started=False,
            )
        return TransientError(
            "engine_error",
            f"Kubernetes failed (HTTP {answer.status})",
            status=answer.status,
            maybe_started=answer.status >= 500,
        )


class _Answer(Exception):
    """An answer that is no success, as far as it is a Kubernetes ``Status``."""

    def __init__(self, error: ApiException) -> None:
        super().__init__(f"HTTP {error.status}")
        try:
            status = orjson.loads(error.body or b"")
        except ValueError:
            status = None
        if not isinstance(status, dict) or status.get("kind") != "Status":
            status = {}
        self.status = int(error.status or 0)
        self.reason = str(status.get("reason") or "")
        self.message = str(status.get("message") or "")[:300]
        self.details: Mapping[str, Any] = status.get("details") or {}
        self.retry_after_s = _read_seconds((error.headers or {}).get("Retry-After"))

    @property
    def names_missing_object(self) -> bool:
        """True for a 404 about the object asked for, not about its namespace or its type."""
        return self.status == 404 and self.reason == "NotFound" and self.details.get("kind") != "namespaces"

    @property
    def is_denied(self) -> bool:
        """True when an admission webhook has looked at the object and refuses it."""
        return self.status == 403 and "denied the request" in self.message


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """Turn the official client's errors, and urllib3's below it, into ours, by type."""
    try:
        yield
    except ApiException as error:
        if not error.status:  # the client's own word for a TLS failure
            raise _unreachable("cannot be reached: TLS failed", maybe_started=False) from error
        raise _Answer(error) from None
    except config.ConfigException as error:
        raise TransientError(
            "engine_not_configured",
            f"the kubeconfig cannot be used: {str(error)[:200]}",
            hint="check INGEST_SPARK__KUBECONFIG and INGEST_SPARK__CONTEXT",
        ) from error
    except OSError as error:
        raise TransientError(
            "engine_not_configured",
            f"the kubeconfig cannot be used ({type(error).__name__})",
            hint="check INGEST_SPARK__KUBECONFIG",
        ) from error
    except HTTPError as error:
        cause: BaseException = getattr(error, "reason", None) or error
        if isinstance(cause, ConnectTimeoutError | NewConnectionError | SSLError):
            tls = ": TLS failed" if isinstance(cause, SSLError) else ""
            raise _unreachable(f"cannot be reached{tls}", maybe_started=False) from error
        kind = "does not answer in time" if isinstance(cause, ReadTimeoutError) else "broke the connection"
        raise _unreachable(kind, maybe_started=True) from error


def _unreachable(what: str, *, maybe_started: bool) -> TransientError:
    return TransientError("engine_unreachable", f"Kubernetes {what}", maybe_started=maybe_started)


def _read_seconds(text: str | None) -> float | None:
    """Seconds of a ``Retry-After``; None for a date or nothing."""
    try:
        return float(text or "")
    except ValueError:
        return None


def _load_in_cluster(configuration: Configuration) -> bool:
    """Use the pod's own account; False when this process is in no pod."""
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException:
        return False
    return True


def _read_application(data: Any) -> SparkApplication:
    if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
        raise TransientError("engine_unexpected_answer", "what answers is not a Kubernetes API server")
    metadata, status = data["metadata"], data.get("status") or {}
    state = status.get("applicationState") or {}
    created = metadata.get("creationTimestamp")
    name = str(metadata.get("name"))
    return SparkApplication(
        name=name,
        labels=dict(metadata.get("labels") or {}),
        arguments=tuple((data.get("spec") or {}).get("arguments") or ()),
        state=str(state.get("state") or ""),
        error_message=str(state.get("errorMessage") or ""),
        created_at=datetime.fromisoformat(created) if isinstance(created, str) else None,
        deleting=metadata.get("deletionTimestamp") is not None,
        driver_pod=str((status.get("driverInfo") or {}).get("podName") or f"{name}-driver"),
    )
