"""Traces by OTLP over HTTP, off by default: the only module that knows OpenTelemetry.

One trace shows a job from the request that submitted it to its partitions::

    POST /ray/jobs ─► job ─┬─ job.wait        until it was admitted
                           ├─ job.submit      one per attempt
                           └─ job.attempt ─┬─ attempt.planning, attempt.running …   phases of the driver
                                           ├─ attempt.outage                        a dependency was unavailable
                                           └─ partition ── partition.fetch, partition.embed …

The processes share only the trace's id: the ids of the spans of a job and of its attempts are derived from their names,
so a worker can name its parent without having been told, and the span of a job can be made when it ends. While tracing
is off, or the extra ``tracing`` is missing, every function does nothing. No span has a key of an object, a text, or an
error's message. See docs/decisions/0043.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal

from ingestion_engine import __version__
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import Settings, SettingsError, has_variable
from ingestion_engine.runtime.telemetry import get_logger, log_fields

if TYPE_CHECKING:
    import requests
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as SdkSpan
    from opentelemetry.trace import Tracer

Role = Literal["service", "gateway", "driver", "worker"]
"""Kind of a process; part of the name of its service in traces."""

EXPORT_EVERY_S: Final = 0.5
"""Seconds for which a span of a driver or worker that has ended waits for others before it is exported. Ray and Spark
end workers by a kill soon after their last partition, so it is shorter than the SDK's default of 5 s."""

FLUSH_S: Final = 2.0
"""Longest time in seconds that the end of a process waits for the export of its last spans."""

COMPLAIN_EVERY_S: Final = 60.0
"""Seconds between two log lines about spans that were not exported."""

EXPORT_S: Final = 10.0
"""Longest time in seconds that a request of spans waits for the head of its response, unless
``OTEL_EXPORTER_OTLP_TIMEOUT`` says otherwise: the exporter's own default, which it applies to each read only."""

_PROVIDERS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
)
"""Variables that name a plug-in which makes the session of the exporter."""

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
"""The header of W3C Trace Context, version 00."""

log = get_logger(__name__)


class Span:
    """A span while it is open. Without tracing its methods do nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: SdkSpan | None) -> None:
        self._span = span

    @property
    def trace_id(self) -> str | None:
        """Id of the trace, 32 hex digits."""
        return None if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; a name without a dot gets the prefix ``ingest.``, and None is left out."""
        if self._span is not None:
            self._span.set_attributes(_name_attributes(attributes))

    def rename(self, name: str) -> None:
        """Give the span another name, which was not known when it began."""
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, code: str) -> None:
        """Mark the span as failed with an error code."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, code)
            self._span.set_attribute("error.type", code)


class _Tracing:
    """A tracer and what exports its spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.tracer: Tracer = provider.get_tracer("ingestion_engine", __version__)


_NO_SPAN: Final = Span(None)
_lock = threading.Lock()
_active: _Tracing | None = None
_next_span_id: ContextVar[int | None] = ContextVar("next_span_id", default=None)
"""Id of the span that is being made, when it is derived; None means a random one."""


# -- on and off -------------------------------------------------------------------------------------------------------


def start_tracing(settings: Settings, role: Role) -> None:
    """Start to trace in this process when the settings name an endpoint. Idempotent.

    Raises:
        SettingsError: an endpoint is set, and the extra ``tracing`` is not installed.

    Cost: 0.3 s of CPU time for imports, and one thread; nothing while the setting is unset.
    """
    if settings.tracing.endpoint is None:
        return
    try:
        _start(settings, settings.tracing.endpoint, role)
    except ImportError as error:
        raise SettingsError(
            "INGEST_TRACING__ENDPOINT: traces require the extra 'tracing', and the package"
            f" {error.name or 'opentelemetry'!r} is missing. Install 'ingestion-engine[tracing]', or unset it."
        ) from None


def join_trace(settings: Settings, endpoint: str | None, role: Role) -> bool:
    """Start to trace in this process of a job; return False when tracing had begun, or cannot.

    A job does not fail because it cannot be traced: a missing package is logged.

    Args:
        settings: Settings of this process; an endpoint of its own is used instead of the job's.
        endpoint: Endpoint of the service that submitted the job; None means that the job is not traced.
        role: Kind of the process.
    """
    if endpoint is None or _active is not None:
        return False
    try:
        _start(settings, settings.tracing.endpoint or endpoint, role)
    except ImportError as error:
        log.warning("this process is not traced: a package is missing", extra={"package": error.name})
        return False
    return True


def _start(settings: Settings, endpoint: str, role: Role) -> None:
    global _active  # noqa: PLW0603 - one exporter per process
    with _lock:
        if _active is None:
            _active = _Tracing(_make_provider(settings, endpoint, role))
            log.info("tracing", extra={"endpoint": endpoint})


def stop_tracing(timeout_s: float = FLUSH_S) -> None:
    """Export what is left, for at most ``timeout_s`` seconds, and end tracing. Idempotent."""
    global _active
    with _lock:
        stopped, _active = _active, None
    if stopped is None:
        return
    # In a thread that is left behind when the collector does not answer: the SDK's own limit is 30 s.
    ending = threading.Thread(target=stopped.provider.shutdown, name="ingest-tracing-end", daemon=True)
    ending.start()
    ending.join(timeout_s)


def is_tracing() -> bool:
    """Return whether this process makes spans."""
    return _active is not None


def _make_provider(settings: Settings, endpoint: str, role: Role) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class DerivedIds(RandomIdGenerator):
        def generate_span_id(self) -> int:
            return _next_span_id.get() or super().generate_span_id()

    resource = Resource.create({"service.version": __version__, "service.namespace": "ingestion-engine"})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):  # OTEL_SERVICE_NAME is unset
        resource = resource.merge(Resource({"service.name": f"ingestion-engine-{role}"}))
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.tracing.sample_ratio)),
        resource=resource,
        id_generator=DerivedIds(),
        shutdown_on_exit=False,  # ``stop_tracing`` does it within a limit
    )
    ca_file = settings.tls.ca_file
    delay_ms = EXPORT_EVERY_S * 1000 if role in {"driver", "worker"} else None
    exporter = OTLPSpanExporter(
        endpoint=f"{endpoint.rstrip('/')}/v1/traces",
        certificate_file=None if ca_file is None else str(ca_file),
        session=None if has_variable(_PROVIDERS) else _make_session(),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    _limit_complaints()
    return provider


def _make_session() -> requests.Session:
    """Return a session that reads no body of a response, and waits for its head in a thread that it can leave.

    The exporter uses status and headers only, but its session would read a body without end or limit.
    """
    import requests
    from requests.adapters import HTTPAdapter

    class HeadAdapter(HTTPAdapter):
        left: threading.Thread | None = None
        """The only thread that still waits for a collector which sends its head without end."""

        def send(
            self,
            request: requests.PreparedRequest,
            stream: bool = False,
            timeout: float | tuple[float | None, float | None] | None = None,
            verify: bool | str = True,
            cert: str | tuple[str, str] | None = None,
            proxies: dict[str, str] | None = None,
        ) -> requests.Response:
            del stream  # a body that is streamed is not read before somebody asks for it
            if self.left is not None and self.left.is_alive():
                raise requests.Timeout("The collector still sends the head of an earlier response.", request=request)
            limit_s = timeout if isinstance(timeout, int | float) else EXPORT_S
            found: list[requests.Response | Exception] = []
            given: dict[str, Any] = {"timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}

            def ask() -> None:
                try:
                    found.append(_drop_body(super(HeadAdapter, self).send(request, stream=True, **given)))
                except Exception as error:  # the caller raises it
                    found.append(error)

            self.left = threading.Thread(target=ask, name="ingest-tracing-export", daemon=True)
            self.left.start()
            self.left.join(limit_s)
            if not found:
                raise requests.Timeout(f"The collector has not responded within {limit_s:.1f} s.", request=request)
            if isinstance(found[0], Exception):
                raise found[0]
            return found[0]

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HeadAdapter())
    return session


def _drop_body(response: requests.Response) -> requests.Response:
    """Return a response with an empty body; its connection is used again only when it had none."""
    if response.headers.get("Content-Length") == "0":
        response.raw.release_conn()
    else:
        response.raw.close()
    response.raw = io.BytesIO()
    return response


class _Complaints(logging.Handler):
    """Replaces what the SDK logs by one line of ours a minute: a collector that is down is no reason for a full log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + COMPLAIN_EVERY_S
            log.warning("traces are not exported", extra={"reason": record.getMessage()[:300]})


def _limit_complaints() -> None:
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _Complaints) for handler in logger.handlers):
        logger.addHandler(_Complaints())
    logger.propagate = False


# -- spans ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: str | None = None,
    span_id: str | None = None,
    kind: Literal["internal", "server"] = "internal",
    start_ns: int | None = None,
) -> Iterator[Span]:
    """Open a span; spans that the same task or thread opens meanwhile are its children.

    Args:
        name: Constant name of the step.
        attributes: As for ``Span.set``.
        parent: ``traceparent`` of the parent; None means the current span. An invalid one begins a new trace.
        span_id: Id as 16 hex digits (``derive_span_id``); None means a random one.
        kind: Whether the span answers a request of another process.
        start_ns: Unix time in nanoseconds at which the step began; None means now.

    An exception that leaves the block marks the span as failed with the error's code or class, never with its message.
    """
    tracing = _active
    if tracing is None:
        yield _NO_SPAN
        return
    from opentelemetry.trace import SpanKind, use_span

    token = _next_span_id.set(None if span_id is None else int(span_id, 16))
    try:
        opened = tracing.tracer.start_span(
            name,
            context=_make_context(parent),
            kind=SpanKind.SERVER if kind == "server" else SpanKind.INTERNAL,
            attributes=_name_attributes(attributes or {}),
            start_time=start_ns,
        )
    finally:
        _next_span_id.reset(token)
    span = Span(opened)
    with (
        use_span(opened, end_on_exit=True, record_exception=False, set_status_on_exception=False),
        log_fields(trace_id=span.trace_id),
    ):
        try:
            yield span
        except BaseException as error:
            span.fail(error.code if isinstance(error, IngestionError) else type(error).__name__)
            raise


def record_span(
    name: str,
    start_ns: int,
    end_ns: int,
    *,
    attributes: Mapping[str, Any] | None = None,
    parent: str | None = None,
    span_id: str | None = None,
    error_code: str | None = None,
) -> None:
    """Make a span of a step that is over; times are Unix times in nanoseconds, the others as for ``open_span``.

    It never begins a trace: without a parent, and outside of every span, nothing is made.
    """
    tracing = _active
    if tracing is None:
        return
    from opentelemetry.trace import get_current_span

    if parent is None and not get_current_span().get_span_context().is_valid:
        return
    token = _next_span_id.set(None if span_id is None else int(span_id, 16))
    try:
        made = tracing.tracer.start_span(
            name,
            context=_make_context(parent),
            attributes=_name_attributes(attributes or {}),
            start_time=min(start_ns, end_ns),
        )
    finally:
        _next_span_id.reset(token)
    if error_code is not None:
        Span(made).fail(error_code)
    made.end(end_ns)


def annotate(attributes: Mapping[str, Any]) -> None:
    """Set attributes of the current span, if there is one; as ``Span.set``."""
    if _active is not None:
        from opentelemetry.trace import get_current_span

        Span(get_current_span()).set(attributes)


def current_traceparent() -> str | None:
    """Return the current span as a ``traceparent``; None when there is none, or its trace is not sampled."""
    if _active is None:
        return None
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def derive_span_id(*parts: object) -> str:
    """Return the id of a span, 16 hex digits, from its name: a job, or a job and the number of an attempt. Pure."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).hexdigest()
    return digest if int(digest, 16) else "0" * 15 + "1"


def derive_parent(traceparent: str, *parts: object) -> str | None:
    """Return the ``traceparent`` of a derived span in the trace of another one; None when that is invalid. Pure."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is None else f"00-{found[1]}-{derive_span_id(*parts)}-{found[3]}"


def _name_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name if "." in name else f"ingest.{name}": value for name, value in attributes.items() if value is not None}


def _make_context(parent: str | None) -> Context | None:
    """Return the context of a parent; None means the current one. A parent that cannot be read is no parent."""
    if parent is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    found = _TRACEPARENT.fullmatch(parent)
    if found is None:
        return Context()
    flags = TraceFlags(int(found[3], 16))
    context = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context), Context())
