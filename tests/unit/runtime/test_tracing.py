"""Traces: off unless wanted, exported as OTLP, harmless where the collector fails, and silent about contents."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.runtime import telemetry, tracing
from ingestion_engine.runtime.settings import Settings, SettingsError, load_settings
from support.collector import Collector, collecting
from support.waiting import wait_for

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector; whatever traces ends with the test."""
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "handlers", [])
    with collecting() as made:
        yield made
        tracing.stop_tracing()


def settings_for(collector: Collector, **fields: object) -> Settings:
    return Settings(tracing={"endpoint": collector.url, **fields})


def test_nothing_is_traced_without_an_endpoint() -> None:
    """Every function does nothing, and no package of OpenTelemetry is needed."""
    tracing.start_tracing(Settings(), "service")
    assert not tracing.is_tracing()
    with tracing.open_span("step", parent=PARENT) as span:
        span.set({"a": 1})
        span.fail("code")
        assert tracing.current_traceparent() is None
    tracing.record_span("step", 1, 2)
    tracing.annotate({"a": 1})
    assert not tracing.join_trace(Settings(), None, "worker")


def test_spans_reach_the_collector_with_their_parents(collector: Collector) -> None:
    """Nested, in the trace of the caller, with prefixed attributes and the name of the process."""
    tracing.start_tracing(settings_for(collector), "service")
    with tracing.open_span("outer", {"job_id": "job-1", "http.route": "/jobs"}, parent=PARENT, kind="server"):
        inside = tracing.current_traceparent()
        with tracing.open_span("inner", {"left_out": None}) as inner:
            inner.rename("renamed")
    tracing.record_span("over", 1_000, 2_000, parent=PARENT, span_id=tracing.derive_span_id("job-1"))
    tracing.stop_tracing()
    outer, inner_span, over = (collector.wait_for(name)[0] for name in ("outer", "renamed", "over"))
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert (outer.parent_id, inner_span.parent_id, over.parent_id) == (PARENT[36:52], outer.span_id, PARENT[36:52])
    assert inside == f"00-{TRACE}-{outer.span_id}-01"
    assert outer.attributes == {"ingest.job_id": "job-1", "http.route": "/jobs"}
    assert inner_span.attributes == {}
    assert outer.service == "ingestion-engine-service"
    assert (over.start_ns, over.end_ns, over.span_id) == (1_000, 2_000, tracing.derive_span_id("job-1"))


def test_an_error_is_named_and_not_quoted(collector: Collector) -> None:
    """Code or class of the error; its message may quote a key or a text."""
    tracing.start_tracing(settings_for(collector), "worker")
    for error in (TransientError("s3_unavailable", "secret-key.pdf"), ValueError("secret-key.pdf")):
        with pytest.raises(type(error)), tracing.open_span("step"):
            raise error
    tracing.stop_tracing()
    assert [span.error for span in collector.wait_for("step", 2)] == ["s3_unavailable", "ValueError"]
    assert not any(b"secret-key" in body for body in collector.bodies)


def test_the_caller_decides_and_else_the_ratio(collector: Collector) -> None:
    """With a ratio of 0 only requests whose caller traces are."""
    tracing.start_tracing(settings_for(collector, sample_ratio=0), "service")
    with tracing.open_span("own"):
        assert tracing.current_traceparent() is None
    with tracing.open_span("callers", parent=PARENT):
        pass
    with tracing.open_span("not traced", parent=PARENT[:-2] + "00"):
        assert tracing.current_traceparent() is None
    tracing.stop_tracing()
    assert [span.name for span in collector.spans] == ["callers"]


@pytest.mark.parametrize(
    "header", ["", "00-0-0-01", f"ff{PARENT[2:]}", f"00-{'0' * 32}-{PARENT[36:52]}-01", "x" * 9000]
)
def test_a_header_that_is_no_traceparent_begins_a_trace(collector: Collector, header: str) -> None:
    """What any client may send neither fails a request nor gets into a span."""
    tracing.start_tracing(settings_for(collector), "service")
    with tracing.open_span("step", parent=header):
        pass
    tracing.stop_tracing()
    (span,) = collector.wait_for("step")
    assert (span.parent_id, span.trace_id == TRACE) == ("", False)
    assert tracing.derive_parent(header, "job-1") is None


def test_derived_ids_need_no_word_between_processes() -> None:
    """A job's and an attempt's ids follow from their names, and differ."""
    ids = [tracing.derive_span_id(*parts) for parts in (["job-1"], ["job-1", 1], ["job-1", 2], ["job-2"])]
    assert len(set(ids)) == 4
    assert ids == [tracing.derive_span_id(*parts) for parts in (["job-1"], ["job-1", "1"], ["job-1", "2"], ["job-2"])]
    assert tracing.derive_parent(PARENT, "job-1") == f"00-{TRACE}-{ids[0]}-01"


def test_log_lines_name_the_trace(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a span; other lines stay as they are."""
    tracing.start_tracing(settings_for(collector), "service")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(telemetry.JsonFormatter())
    log = telemetry.get_logger("tests.of.traces")
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.INFO)
    log.info("outside")
    with tracing.open_span("step", parent=PARENT):
        log.info("inside")
    outside, inside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert "trace_id" not in outside
    assert inside["trace_id"] == TRACE


def test_a_collector_that_fails_disturbs_nothing(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """Its answer is one line of the log a minute, whatever the number of spans, and no exception."""
    collector.status = 400
    tracing.start_tracing(settings_for(collector), "worker")
    with caplog.at_level(logging.WARNING, "ingestion_engine"):
        for number in range(1, 4):
            with tracing.open_span("step"):
                pass
            wait_for(lambda number=number: len(collector.headers) >= number, 30)
        tracing.stop_tracing()
    ours = [record for record in caplog.records if record.name.startswith("ingestion_engine")]
    lines = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert lines == ["traces are not exported"]
    assert collector.spans == []


@pytest.mark.parametrize("coding", ["chunked", "unlimited", "gzip"])
def test_an_answer_without_end_is_not_read(collector: Collector, coding: str) -> None:
    """Whatever the collector sends behind the head of its answer, the next spans follow on another connection."""
    sent: list[int] = []
    broken = threading.Event()

    def answer_forever(handler: BaseHTTPRequestHandler) -> None:
        headers = {"chunked": b"Transfer-Encoding: chunked", "gzip": b"Content-Encoding: gzip"}.get(coding, b"X: y")
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n")
        block = gzip.compress(b"0" * 65_536) if coding == "gzip" else b"1000\r\n" + b"0" * 4096 + b"\r\n"
        try:
            while sum(sent) < 1 << 30:
                handler.wfile.write(block)
                sent.append(len(block))
        except OSError:
            broken.set()
        handler.close_connection = True

    collector.misbehave = answer_forever
    tracing.start_tracing(settings_for(collector), "worker")
    with tracing.open_span("step"):
        pass
    assert broken.wait(30), f"{sum(sent)} bytes were read"
    assert sum(sent) < 32 * 1024**2, "more than what sockets buffer"
    with tracing.open_span("next"):
        pass
    collector.wait_for("next")


def test_a_head_without_end_is_left(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each byte comes before the time limit of a read. One thread waits on, and the log says that spans are lost."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    over = threading.Event()

    def begin_forever(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        with contextlib.suppress(OSError):
            while not over.wait(0.05):
                handler.wfile.write(b"y")
        handler.close_connection = True

    collector.misbehave = begin_forever
    tracing.start_tracing(settings_for(collector), "worker")
    try:
        with caplog.at_level(logging.WARNING, "ingestion_engine"):
            for _ in range(3):
                with tracing.open_span("step"):
                    pass
            wait_for(lambda: "traces are not exported" in caplog.text, 30)
        waiting = [thread for thread in threading.enumerate() if thread.name == "ingest-tracing-export"]
        assert len(waiting) == 1
        collector.misbehave = None
        over.set()
        waiting[0].join(30)
        with tracing.open_span("next"):
            pass
        collector.wait_for("next")
    finally:
        over.set()


def test_the_end_of_a_process_waits_only_so_long() -> None:
    """A collector that accepts a connection and says nothing holds up nobody."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracing.start_tracing(Settings(tracing={"endpoint": url}), "driver")
        with tracing.open_span("step"):
            pass
        began = time.monotonic()
        tracing.stop_tracing(0.2)
        assert time.monotonic() - began < 2
    assert not tracing.is_tracing()


def test_tokens_and_resources_come_from_the_standard_variables(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers, which may hold a secret, are never settings of ours."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20made-up")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "documents")
    tracing.start_tracing(settings_for(collector), "gateway")
    with tracing.open_span("step"):
        pass
    tracing.stop_tracing()
    assert collector.wait_for("step")[0].service == "documents"
    assert collector.headers[0]["authorization"] == "Bearer made-up"
    assert b"deployment.environment" in collector.bodies[0]


def test_the_extra_is_required_by_who_wants_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence for the service; a job runs without traces, because it can."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    wanted = Settings(tracing={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(SettingsError, match=r"INGEST_TRACING__ENDPOINT: .*'tracing'.*Install"):
        tracing.start_tracing(wanted, "service")
    assert not tracing.join_trace(Settings(), "http://127.0.0.1:9", "worker")
    assert not tracing.is_tracing()


@pytest.mark.parametrize(
    "url", ["collector:4318", "ftp://collector", "http://", "http://me:pw@host", "http://host?k=v"]
)
def test_an_endpoint_is_a_url_without_secrets(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """It is written into every spec; the message does not quote it."""
    monkeypatch.setenv("INGEST_TRACING__ENDPOINT", url)
    with pytest.raises(SettingsError, match="INGEST_TRACING__ENDPOINT") as caught:
        load_settings()
    assert "pw" not in str(caught.value)
