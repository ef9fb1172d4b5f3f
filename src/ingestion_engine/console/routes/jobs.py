"""Pages of jobs: the list, a job, its failures and its log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import Codes, IdentitiesDep, ServicesDep
from ingestion_engine.api.query_values import Cursor, Position
from ingestion_engine.api.streams import EventStream
from ingestion_engine.api.views import row_for_caller, show_failure, show_job
from ingestion_engine.console.charts import MACHINE_NAMES, divide_bar, draw_throughput
from ingestion_engine.console.job_filters import PERIODS, STATES, JobListForm
from ingestion_engine.console.pages import render, render_text
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import ChangedJobDep, ReaderDep, ReadJobDep, SubmitterDep
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.failure_hints import FAILURE_HINTS
from ingestion_engine.domain.records import EmbeddingWait
from ingestion_engine.models.jobs import JobView
from ingestion_engine.services.job_feed import JobUpdate
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.jobs import read_request

router = make_router()

PAGE_JOBS: Final = 50
"""Jobs of one page."""

PAGE_FAILURES: Final = 100
"""Failures of one page."""

LIST_KEEP_S: Final = 1.0
"""How long readers of the same list share one answer of the database, when their pages look for news."""

MOST_READS: Final = 10
"""Reads of 20,000 failures each for a page of one code, which may be far down the list."""

EXAMPLES_AMONG: Final = 500
"""Failures that are read for one example of each code: one request to the state store."""

EXAMPLES_S: Final = 2.0
"""Time that the page of a job waits for examples of failures; without them, it shows the rest."""

CHART_EVERY_S: Final = 5.0
"""Pause between two new charts of a page, and between two tables of failures; other numbers are newer."""

FormText = Annotated[str, Form(max_length=256)]


@router.get("/")
async def list_jobs(
    request: Request,
    viewer: ReaderDep,
    services: ServicesDep,
    cursor: Cursor | None = None,
    part: str = "",
    seen: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Return the list of jobs, newest first; of a page that looks for news, only the table, and only if it differs."""
    form = JobListForm.read(request.query_params)
    where = form.condition(viewer, services.store.now())

    async def read() -> tuple[list[JobView], str | None]:
        found, following = await services.jobs.list_page(where, limit=PAGE_JOBS, cursor=cursor)
        waits = await services.jobs.waits.find(*found)
        return [show_job(job, waits.get(job.id)) for job in found], following

    if part:
        jobs, following = await services.scrapes.get(("jobs", where, cursor), read, keep_s=LIST_KEEP_S)
    else:
        jobs, following = await read()
    context: dict[str, Any] = {"form": form, "jobs": jobs, "cursor": cursor, "next_cursor": following}
    context["rows"] = rows = render_text(request, "jobs/rows.html", **context)
    context["shown"] = shown = hashlib.sha256(rows.encode()).hexdigest()[:16]
    if part:
        is_news = seen != shown
        return render(request, "jobs/table.html", **context) if is_news else Response(status_code=204)
    engines = [engine.value for engine in services.parts.engines]
    context |= {"states": STATES, "periods": PERIODS, "engines": engines, "is_open": viewer.kind == "anonymous"}
    return render(request, "jobs/list.html", section="/", **context)


@router.get("/console/jobs/{job_id}", name="show_job")
async def show_one(request: Request, job: ReadJobDep, viewer: ReaderDep, services: ServicesDep) -> Response:
    """Return the page of a job, which stays up to date by its events."""
    wait = (await services.jobs.waits.find(job)).get(job.id)
    parts = JobParts(request)
    view = show_job(job, wait, with_throughput=True)
    examples = _for_caller(await _find_examples(services, view))
    return render(request, "jobs/job.html", section="/", examples=examples, **parts.describe(view))


@router.get("/console/jobs/{job_id}/parts/failures")
async def show_failures_part(request: Request, job: ReadJobDep, services: ServicesDep) -> Response:
    """Return the table of failures by code, when a page has learned that there are more."""
    view = show_job(job)
    state = tuple(sorted(view.failures_by_code.items()))
    found = await services.scrapes.get(("examples", job.id, state), lambda: _find_examples(services, view), keep_s=2)
    examples = _for_caller(found)
    parts = JobParts(request)
    return render(request, "jobs/part_failures.html", examples=examples, **parts.describe(view))


@router.get("/console/jobs/{job_id}/events")
async def follow_one(
    request: Request, job: ReadJobDep, viewer: ReaderDep, services: ServicesDep, identities: IdentitiesDep
) -> Response:
    """Stream the parts of a job's page that have changed, until the job has ended or its reader has logged out."""
    parts = JobParts(request)
    last: JobUpdate | None = None

    def encode(update: JobUpdate | None) -> bytes:
        nonlocal last
        last = update or last  # a heartbeat also shows how time goes by
        news = () if last is None else parts.find_news(last.job, last.wait)
        return b"".join(_encode_event(name, text) for name, text in news)

    follower = services.jobs.feed.follow(job, (await services.jobs.waits.find(job)).get(job.id))
    ending = _encode_event("end", "")
    return EventStream(follower, encode, streams=services.streams, caller=viewer, identities=identities, ending=ending)


@router.get("/console/jobs/{job_id}/failures")
async def list_failures(
    request: Request,
    job: ReadJobDep,
    services: ServicesDep,
    code: Annotated[Codes, Query()] = (),
    cursor: Cursor | None = None,
) -> Response:
    """Return the failed objects of a job, of one code or of all."""
    page = await services.jobs.read_failures(job.id, limit=PAGE_FAILURES, cursor=cursor, codes=code)
    for _ in range(MOST_READS - 1):
        if page.items or page.next_cursor is None:
            break
        page = await services.jobs.read_failures(job.id, limit=PAGE_FAILURES, cursor=page.next_cursor, codes=code)
    context: dict[str, Any] = {
        "job": show_job(job),
        "code": code[0] if code else "",
        "failures": [show_failure(item) for item in page.items],
        "cursor": cursor,
        "next_cursor": page.next_cursor,
        "hints": FAILURE_HINTS,
        "form_key": secrets.token_hex(16),
    }
    return render(request, "jobs/failures.html", section="/", **context)


@router.get("/console/jobs/{job_id}/log")
async def show_log(
    request: Request,
    job: ReadJobDep,
    services: ServicesDep,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    after: Position | None = None,
) -> Response:
    """Return the log of a driver; to a page that follows it, only the lines that were added."""
    text, position = await services.jobs.read_log_after(job.id, after or "", attempt)
    context: dict[str, Any] = {"job": show_job(job), "text": text, "position": str(position), "attempt": attempt}
    context["is_live"] = not job.state.is_final
    if after is not None:
        return render(request, "jobs/log_more.html", **context)
    is_part = request.headers.get("hx-request") is not None
    return render(request, "jobs/log_part.html" if is_part else "jobs/log.html", section="/", **context)


@router.post("/console/jobs/{job_id}/cancel")
async def cancel_one(job: ChangedJobDep, services: ServicesDep, force: FormText = "") -> Response:
    """Cancel a job, then show it."""
    await services.jobs.cancel(job.id, force=force == "yes")
    return RedirectResponse(f"/console/jobs/{job.id}", status_code=303)


@router.post("/console/jobs/{job_id}/retry")
async def retry_one(
    job: ChangedJobDep, viewer: SubmitterDep, services: ServicesDep, key: FormText, code: FormText = ""
) -> Response:
    """Retry the failed objects of a job, of one code or of all, then show the new job."""
    viewer.check_request(read_request(job))
    done = await services.jobs.retry(
        job.id, owner=viewer.name, idempotency_key=f"console-{key}", access=viewer, codes=[code] if code else []
    )
    return RedirectResponse(f"/console/jobs/{done.job.id}", status_code=303)


@dataclass(slots=True)
class JobParts:
    """Parts of a job's page, and which of them a reader has seen."""

    request: Request
    form_key: str = field(default_factory=lambda: secrets.token_hex(16))
    """Makes a form that is sent twice one request."""
    _seen: dict[str, str] = field(default_factory=dict)
    _drawn_at: float = 0.0

    def describe(self, view: JobView) -> dict[str, Any]:
        """Return the values of the templates."""
        return {
            "job": view,
            "chart": draw_throughput(view.throughput),
            "bar": divide_bar(view.limited_by),
            "machines": MACHINE_NAMES,
            "hints": FAILURE_HINTS,
            "form_key": self.form_key,
        }

    def find_news(self, job: JobRecord, wait: EmbeddingWait | None) -> list[tuple[str, str]]:
        """Return name and text of each part that differs from what the reader has seen.

        The table of failures is not in it, only that there are more, or that they can be retried: the page loads it.
        """
        view = show_job(job, wait, with_throughput=True)
        values = self.describe(view)
        parts = {
            "head": render_text(self.request, "jobs/part_head.html", **values),
            "status": render_text(self.request, "jobs/part_status.html", **values),
            "actions": render_text(self.request, "jobs/part_actions.html", **values),
            "about": render_text(self.request, "jobs/part_about.html", **values),
        }
        if view.state.is_final or time.monotonic() - self._drawn_at >= CHART_EVERY_S:
            self._drawn_at = time.monotonic()
            shown = f"{view.state.is_final} {sorted(view.failures_by_code.items())}"
            parts["failures"] = hashlib.sha256(shown.encode()).hexdigest()[:16]
            parts["time"] = render_text(self.request, "jobs/part_time.html", **values)
        news = [(name, text) for name, text in parts.items() if self._seen.get(name) != text]
        self._seen.update(news)
        return news


async def _find_examples(services: Services, view: JobView) -> dict[str, dict[str, Any]]:
    """Return one failure of each code, as far as they are among the first; none while the state store is slow."""
    if not view.failures_by_code and not view.counts.get("failed") and not view.counts.get("different"):
        return {}
    examples: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(IngestionError, TimeoutError):
        async with asyncio.timeout(EXAMPLES_S):
            page = await services.jobs.read_failures(view.job_id, limit=EXAMPLES_AMONG, cursor=None)
            for item in page.items:
                examples.setdefault(str(item.get("code")), item)
    return examples


def _for_caller(examples: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return examples, which callers share, as the caller of the present request may read them."""
    return {code: row_for_caller(item) for code, item in examples.items()}


def _encode_event(name: str, text: str) -> bytes:
    # Not splitlines: other separators than these do not end a line of an event, and belong to the text.
    lines = "".join(f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return f"event: {name}\n{lines}\n".encode()
