"""A new job: the form, its plan, and the start of exactly what was planned."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import Scope
from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import ServicesDep
from ingestion_engine.api.views import show_estimate, show_job
from ingestion_engine.console.job_form import JobForm
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.suggestions import suggest_names
from ingestion_engine.console.viewer import ChangedJobDep, ReaderDep, ReadJobDep, SubmitterDep
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import EngineName, JobRequest, Mode
from ingestion_engine.services.contract_defaults import check_submittable
from ingestion_engine.services.job_ids import JobIds, is_version_of, name_version
from ingestion_engine.services.jobs import read_request

router = make_router()

_IDS: Final = JobIds()
"""Makes the keys of forms, which also name what a form creates: a form that is sent twice means the same."""

_KEY: Final = re.compile(r"job-[a-z0-9]{20,40}")

Text = Annotated[str, Form(max_length=256)]
QueryText = Annotated[str, Query(max_length=256)]


@router.get("/console/jobs/new", name="show_job_form")
async def show_form(
    request: Request,
    viewer: SubmitterDep,
    services: ServicesDep,
    like: QueryText = "",
    bucket: QueryText = "",
    collection: QueryText = "",
    alias: QueryText = "",
) -> Response:
    """Return the form: empty, or with the values of an earlier job."""
    form = JobForm()
    if like:
        viewer.check_scope(Scope.READ)
        job = viewer.check_job(await services.jobs.get(like))
        form = JobForm.of_request(read_request(job, mode=job.request.get("mode")).model_dump(mode="json"), job.engine)
    for name, text in {"bucket": bucket, "collection": collection, "alias": alias}.items():
        if text:
            form.values[name] = text
    if like and is_version_of(form.text("alias"), form.text("collection")):
        # a job that is like one which made a version makes the next one, and leaves that one as it is
        form.values["collection"] = ""
    return await _show_form(request, services, form)


@router.post("/console/jobs/new")
async def send_form(request: Request, viewer: SubmitterDep, services: ServicesDep) -> Response:
    """Make a plan of what the form asks for, or start it at once; with errors, show the form again."""
    sent = await request.form()
    form = JobForm.read(sent)
    key = _read_key(sent.get("key"))
    try:
        engine = _choose_engine(services, form)
        wanted = form.to_request()
        if wanted is None:
            return await _show_form(request, services, form, status=422)
        viewer.check_request(wanted)
        check_submittable(wanted)
        if sent.get("do") == "start":
            done = await _submit(services, viewer, wanted, engine=engine, key=key)
            return RedirectResponse(f"/console/jobs/{done}", status_code=303)
        planned = _plan(wanted, key)
        # A plan writes nothing, so the alias that the job would move is checked when it starts.
        done = await _submit(services, viewer, planned, engine=engine, key=f"plan-{key}")
    except SubmissionError as error:
        form.note(error)
        return await _show_form(request, services, form, status=error.status)
    query = f"?alias={wanted.alias}" if wanted.alias else ""
    return RedirectResponse(f"/console/jobs/{done}/plan{query}", status_code=303)


@router.get("/console/jobs/{job_id}/plan")
async def show_plan(
    request: Request, job: ReadJobDep, viewer: ReaderDep, services: ServicesDep, alias: QueryText = "", part: str = ""
) -> Response:
    """Return what a plan has found, and the way to start it; while it is being made, how far it is."""
    view = show_job(job, (await services.jobs.waits.find(job)).get(job.id))
    view = show_estimate(view, await services.jobs.estimate(job, seen_by=viewer.sees_jobs_of))
    context: dict[str, Any] = {"job": view, "alias": alias, "is_full": bool(view.request.get("plan_full"))}
    return render(request, "jobs/plan_part.html" if part else "jobs/plan.html", section="/", **context)


@router.post("/console/jobs/{job_id}/start")
async def start_plan(job: ChangedJobDep, viewer: SubmitterDep, services: ServicesDep, alias: Text = "") -> Response:
    """Start exactly the request of a plan; when it is started already, show that job."""
    if job.request.get("mode") != Mode.PLAN:
        message = f"Job {job.id!r} is no plan, so there is nothing to start."
        raise SubmissionError("not_a_plan", message, hint="Make a new job like it.", status=409)
    mode = Mode.FULL if job.request.get("plan_full") else Mode.SYNC
    wanted = read_request(job, mode=mode, plan_full=False, alias=alias or None)
    viewer.check_request(wanted)
    done = await _submit(services, viewer, wanted, engine=job.engine, key=f"start-{job.id}")
    return RedirectResponse(f"/console/jobs/{done}", status_code=303)


async def _submit(services: Services, viewer: Principal, wanted: JobRequest, *, engine: EngineName, key: str) -> str:
    """Submit a request and return the id of its job; a form that is sent twice makes one job."""
    done = await services.jobs.submit(
        engine, wanted, owner=viewer.name, idempotency_key=f"console-{key}", access=viewer
    )
    return done.job.id


def _read_key(value: object) -> str:
    """Return the key of a form; a new one where it has none."""
    return value if isinstance(value, str) and _KEY.fullmatch(value) else _IDS.make()


def _plan(wanted: JobRequest, key: str) -> JobRequest:
    """Return the request of the plan: of a new version of an alias, with the name that it will have."""
    collection = wanted.collection or name_version(str(wanted.alias), key)
    is_full = wanted.mode is Mode.FULL
    return wanted.model_copy(update={"mode": Mode.PLAN, "plan_full": is_full, "alias": None, "collection": collection})


def _choose_engine(services: Services, form: JobForm) -> EngineName:
    names = [engine.value for engine in services.parts.engines]
    chosen = form.text("engine") or (names[0] if names else EngineName.RAY.value)
    if chosen not in set(EngineName):
        raise SubmissionError("engine_not_configured", f"There is no engine {chosen!r}.", field="engine", status=422)
    return EngineName(chosen)


async def _show_form(request: Request, services: Services, form: JobForm, *, status: int = 200) -> Response:
    context: dict[str, Any] = {
        "form": form,
        "engines": [engine.value for engine in services.parts.engines],
        "stores": [store.value for store in services.parts.stores],
        "has_gateway": services.parts.gateway is not None,
        "key": _IDS.make(),
        "names": await suggest_names(request.state.viewer, services),
    }
    return render(request, "jobs/new.html", status=status, section="/", **context)
