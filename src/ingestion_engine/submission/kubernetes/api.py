"""A typed client of the parts of the Kubernetes API that Spark jobs need: SparkApplications, driver pods, version.

The official client blocks, so it runs in a few threads of its own: a cluster that does not respond blocks neither the
event loop nor other threads. Behaviour of the official client and of Kubernetes that it handles:

- The client retries a refused connection three times. Here retries are off; the dispatcher of the service retries.
- Its time-outs apply per socket operation; ``TOTAL_TIMEOUT_S`` also limits a server that sends a byte now and then.
- The log of a container that has not started yet gives 400, that of a pod without a node 204.
- The account may lack the permission to read pods and events, which only explain why a driver does not start: these
  requests then return nothing, and what is missing is logged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import yaml
from kubernetes import config
from kubernetes.client import (
    ApiClient,
    AuthorizationV1Api,
    Configuration,
    CoreV1Api,
    CustomObjectsApi,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
    VersionApi,
)
from kubernetes.client.exceptions import ApiException

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.submission.kubernetes.permissions import (
    GET_POD,
    GROUP,
    LIST_EVENTS,
    PLURAL,
    VERSION,
    Permission,
)
from ingestion_engine.submission.kubernetes.pods import Pod
from ingestion_engine.submission.kubernetes.responses import (
    Answer,
    kubernetes_errors,
    make_foreign,
    make_unreachable,
    translate_answer,
)
from ingestion_engine.submission.kubernetes.spark_manifest import DRIVER_CONTAINER, KIND

CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 10.0
TOTAL_TIMEOUT_S: Final = 15.0
"""Time limit of one request as a whole; a healthy API server responds in tens of milliseconds."""

THREADS: Final = 4
"""Maximum number of concurrent requests; limits the threads that an unavailable cluster can block."""

LOG_TAIL_LINES: Final = 20_000
LOG_TAIL_BYTES: Final = 1024 * 1024
"""Maximum size of the end of a driver's log that is kept in memory."""

EVENTS_LISTED: Final = 100
"""Maximum number of warnings that are read; repeated events of Kubernetes are counted in one object."""

_UNUSABLE: Final = (config.ConfigException, yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError)
"""Exceptions of the official client for a kubeconfig that is missing, malformed or no kubeconfig."""

T = TypeVar("T")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SparkApplication:
    """One SparkApplication in Kubernetes."""

    name: str
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    state: str
    """State as the operator names it; empty until it has processed the application."""
    error_message: str
    created_at: datetime | None
    executions: int
    """Number of times that ``spark-submit`` succeeded; 0 when no driver was started."""
    deleting: bool
    """True when it was deleted but its driver is still being stopped."""
    driver_pod: str


@dataclass(frozen=True, slots=True)
class ApplicationTrial:
    """What a cluster did with an application that it was told not to keep."""

    refusal: str = ""
    """Why schema, webhook, policy or quota refuse it, in Kubernetes's words; empty when they accept it."""
    has_webhook: bool = True
    """False when the operator's webhook has not set the defaults of the application: it does not watch the namespace,
    is switched off, or is not installed."""
    is_webhook_down: bool = False
    """True when the cluster could not reach a webhook, so that no application can be created."""


class KubernetesApi:
    """Client of one namespace of one cluster. All methods raise ``TransientError`` while it is unavailable, apart from
    those that only explain a state.

    Args:
        namespace: Namespace of the applications.
        kubeconfig: Path of a kubeconfig; None means the service account of the pod, or else the default kubeconfig.
        context: Context of the kubeconfig; None means the current one.
        ca_file: PEM file with the authorities to trust when the kubeconfig names none; None means the usual ones.
    """

    def __init__(
        self,
        namespace: str,
        *,
        kubeconfig: Path | None = None,
        context: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._context = context
        self._ca_file = ca_file
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kubernetes")
        self._client: ApiClient | None = None
        self._denied: set[str] = set()

    @property
    def denied(self) -> frozenset[str]:
        """Optional permissions that the account lacked when last tried: ``get pods``, ``list events``."""
        return frozenset(self._denied)

    async def close(self) -> None:
        """Release connections and threads; pending requests end by their time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._forget_client()

    async def get_version(self) -> str:
        """Return the version of the API server, for example ``v1.31.2``."""
        try:
            info = await self._call(lambda client, kept: VersionApi(client).get_code(**kept))
        except Answer as answer:
            raise translate_answer(answer, self._namespace) from None
        if not getattr(info, "git_version", None):
            raise make_foreign("has no version")
        return str(info.git_version)

    async def create_application(self, manifest: dict[str, Any]) -> SparkApplication | None:
        """Create an application and return it; None when the name exists already. One request.

        Raises:
            SubmissionError: "engine_refused": schema or webhook reject the manifest permanently.
            TransientError: not created, as far as is known; ``context["maybe_started"]`` is True when that is
                uncertain.
        """

        def create(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).create_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, manifest, field_validation="Strict", **kept
            )

        try:
            return _read_application(await self._call(create))
        except Answer as answer:
            if answer.reason == "AlreadyExists":
                return None
            if answer.refuses_object:
                why = answer.message or f"HTTP {answer.status} without a message"
                raise SubmissionError("engine_refused", f"Kubernetes rejected the SparkApplication: {why}.") from None
            raise translate_answer(answer, self._namespace) from None

    async def is_allowed(self, permission: Permission) -> bool:
        """Return whether the account has a permission in the namespace. One request, which every account may make."""
        resource, _, subresource = permission.resource.partition("/")
        attributes = V1ResourceAttributes(
            namespace=self._namespace,
            verb=permission.verb,
            group=permission.group,
            resource=resource,
            subresource=subresource or None,
        )
        review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))

        def ask(client: ApiClient, kept: dict[str, Any]) -> Any:
            return AuthorizationV1Api(client).create_self_subject_access_review(review, **kept)

        try:
            answer = await self._call(ask)
        except Answer as error:
            raise translate_answer(error, self._namespace) from None
        allowed = getattr(answer.status, "allowed", None)
        if not isinstance(allowed, bool):
            raise make_foreign("answered a review of access without a result")
        return allowed

    async def has_resource(self) -> bool:
        """Return whether the cluster has the operator's CRD. One request, which every account may make."""

        def discover(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).get_api_resources(GROUP, VERSION, **kept)

        try:
            answer = await self._call(discover)
        except Answer as error:
            if error.is_unserved_path:
                return False
            raise translate_answer(error, self._namespace) from None
        return any(resource.name == PLURAL for resource in answer.resources or ())

    async def try_application(self, manifest: Mapping[str, Any]) -> ApplicationTrial:
        """Have the cluster check an application without keeping it. One request; requires the right to create.

        The application is sent without ``mode``, which the operator's webhook sets, and nothing else does.

        Raises:
            TransientError: the cluster is unavailable, or denies access.
        """
        body = {**manifest, "spec": {name: value for name, value in manifest["spec"].items() if name != "mode"}}

        def create(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).create_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, body, dry_run="All", field_validation="Strict", **kept
            )

        try:
            data = _check_object(await self._call(create), KIND)
        except Answer as answer:
            if answer.is_webhook_down:
                return ApplicationTrial(answer.message, is_webhook_down=True)
            if answer.refuses_object or answer.exceeds_quota:
                return ApplicationTrial(answer.message or f"HTTP {answer.status} without a message")
            raise translate_answer(answer, self._namespace) from None
        return ApplicationTrial(has_webhook=bool((data.get("spec") or {}).get("mode")))

    async def get_application(self, name: str) -> SparkApplication | None:
        """Return an application, or None when it does not exist. One request."""

        def get(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).get_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, name, **kept
            )

        try:
            return _read_application(await self._call(get))
        except Answer as answer:
            if answer.names_missing_object:
                return None
            raise translate_answer(answer, self._namespace) from None

    async def delete_application(self, name: str) -> bool:
        """Delete an application, its driver first (foreground, seconds later); False when it does not exist."""

        def delete(client: ApiClient, kept: dict[str, Any]) -> Any:
            return CustomObjectsApi(client).delete_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, name, propagation_policy="Foreground", **kept
            )

        try:
            _check_object(await self._call(delete), KIND, "Status")
        except Answer as answer:
            if answer.names_missing_object:
                return False
            raise translate_answer(answer, self._namespace) from None
        return True

    async def read_driver_log(self, pod: str) -> str | None:
        """Return the end of a driver's log (at most 1 MiB); None when the pod is gone or not started. One request."""

        def read(client: ApiClient, kept: dict[str, Any]) -> str:
            answer: Any = CoreV1Api(client).read_namespaced_pod_log(
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
            _check_status(answer, tail)
            return tail.decode("utf-8", errors="replace")

        try:
            return await self._call(read) or None
        except Answer as answer:
            if answer.names_missing_object or (answer.is_status and answer.status == 400):
                return None
            raise translate_answer(answer, self._namespace) from None

    async def get_pod(self, name: str) -> Pod | None:
        """Return a pod; None when it cannot be read, or when the account may not read it (``denied``). One request."""

        def get(client: ApiClient, kept: dict[str, Any]) -> Any:
            answer: Any = CoreV1Api(client).read_namespaced_pod(name, self._namespace, _preload_content=False, **kept)
            return _read_json(answer)

        data = await self._call_optional(GET_POD, get)
        if not isinstance(data, dict) or data.get("kind") != "Pod":
            return None
        metadata = data["metadata"]
        return Pod(
            name=str(metadata.get("name")),
            uid=str(metadata.get("uid")),
            created_at=_read_moment(metadata.get("creationTimestamp")),
            status=data.get("status") or {},
        )

    async def list_warnings(self, pod: Pod) -> list[dict[str, Any]]:
        """Return the warnings among a pod's events; none when they cannot be read (``denied``). One request.

        Kubernetes keeps events for an hour.
        """

        def find(client: ApiClient, kept: dict[str, Any]) -> Any:
            answer: Any = CoreV1Api(client).list_namespaced_event(
                self._namespace,
                field_selector=f"involvedObject.uid={pod.uid},type=Warning",
                limit=EVENTS_LISTED,
                _preload_content=False,
                **kept,
            )
            return _read_json(answer)

        data = await self._call_optional(LIST_EVENTS, find)
        return list(data.get("items") or []) if isinstance(data, dict) else []

    async def _call_optional(self, permission: Permission, request: Callable[[ApiClient, dict[str, Any]], Any]) -> Any:
        """Make a request whose response only explains a state; None when it fails, so that nothing depends on it."""
        try:
            data = await self._call(request)
        except TransientError:
            return None
        except Answer as answer:
            if answer.status == 403 and str(permission) not in self._denied:
                self._denied.add(str(permission))
                _log.warning(
                    "Kubernetes does not allow the service to read why drivers do not start",
                    extra={"permission": str(permission), "namespace": self._namespace, "error": answer.message},
                )
            return None
        self._denied.discard(str(permission))
        return data

    async def _call(self, request: Callable[[ApiClient, dict[str, Any]], T]) -> T:
        """Make one request in a thread. Raises TransientError without a response, ``Answer`` for an error response."""

        def work() -> T:
            with kubernetes_errors():
                return request(self._open_client(), {"_request_timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)})

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, work), TOTAL_TIMEOUT_S)
        except TimeoutError:
            raise make_unreachable("did not respond in time", maybe_started=True) from None
        except Answer as answer:
            if answer.status == 401:
                self._forget_client()  # the kubeconfig may hold a newer token by now
            raise

    def _open_client(self) -> ApiClient:
        """Return the client, created on first use: reading a kubeconfig may run a login program."""
        if self._client is None:
            configuration = Configuration()
            try:
                self._load(configuration)
            except _UNUSABLE as error:
                raise TransientError(
                    "engine_not_configured",
                    f"The kubeconfig cannot be used ({type(error).__name__}).",
                    hint="Check INGEST_SPARK__KUBECONFIG and INGEST_SPARK__CONTEXT.",
                ) from error
            if self._ca_file is not None and not configuration.ssl_ca_cert:
                configuration.ssl_ca_cert = str(self._ca_file)
            configuration.retries = 0
            configuration.connection_pool_maxsize = THREADS
            self._client = ApiClient(configuration)
        return self._client

    def _load(self, configuration: Configuration) -> None:
        chosen = self._kubeconfig is not None or self._context is not None
        if chosen or not _load_in_cluster(configuration):
            path = None if self._kubeconfig is None else str(self._kubeconfig)
            load: Callable[..., None] = config.load_kube_config
            load(path, self._context, configuration, persist_config=False)

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            close: Callable[[], None] = client.close
            close()


def _load_in_cluster(configuration: Configuration) -> bool:
    """Use the service account of the pod; False when this process does not run in a pod."""
    load: Callable[..., None] = config.load_incluster_config
    try:
        load(configuration)
    except config.ConfigException:
        return False
    return True


def _check_object(data: Any, *kinds: str) -> dict[str, Any]:
    """Return the response after checking that it is a Kubernetes object of one of the kinds."""
    if not isinstance(data, dict) or data.get("kind") not in kinds or not isinstance(data.get("metadata"), dict):
        raise make_foreign(f"answered without an object of kind {kinds[0]}")
    return data


def _read_application(answer: Any) -> SparkApplication:
    data = _check_object(answer, KIND)
    metadata, status = data["metadata"], data.get("status") or {}
    state = status.get("applicationState") or {}
    name = str(metadata.get("name"))
    return SparkApplication(
        name=name,
        labels=dict(metadata.get("labels") or {}),
        arguments=tuple((data.get("spec") or {}).get("arguments") or ()),
        state=str(state.get("state") or ""),
        error_message=str(state.get("errorMessage") or ""),
        created_at=_read_moment(metadata.get("creationTimestamp")),
        executions=int(status.get("executionAttempts") or 0),
        deleting=metadata.get("deletionTimestamp") is not None,
        driver_pod=str((status.get("driverInfo") or {}).get("podName") or f"{name}-driver"),
    )


def _read_json(answer: Any) -> Any:
    """Return the JSON of a response that the client has not read; None for anything else."""
    try:
        body = answer.data
    finally:
        answer.release_conn()
    _check_status(answer, body)
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _check_status(answer: Any, body: bytes) -> None:
    """Raise the client's own error for an error response that it has not read itself."""
    if not 200 <= answer.status < 300:
        raise ApiException(status=answer.status, reason=answer.reason, body=body.decode(errors="replace"))


def _read_moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
