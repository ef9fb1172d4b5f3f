"""Who reads a page, and what pages receive of the caller: the dependencies of the API, with a session as well.

Templates ask ``viewer.may("submit")`` before they offer something.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import SecurityScopes

from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import Scope
from ingestion_engine.api.dependencies import Bearer, IdentitiesDep, JobId, ServicesDep
from ingestion_engine.console.cookies import SESSION, read_cookie
from ingestion_engine.console.csrf import check_token, prepare_token
from ingestion_engine.runtime.addresses import show_addresses
from ingestion_engine.services.job_records import JobRecord


async def find_viewer(request: Request, needed: SecurityScopes, bearer: Bearer, identities: IdentitiesDep) -> Principal:
    """Return the reader of a page, who has all scopes that it needs; also for templates, as ``viewer``.

    Raises:
        SubmissionError: "unauthenticated" (401), "scope_missing" (403), "csrf_token_invalid" (403).
    """
    token = None if bearer is None else bearer.credentials.strip()
    session = None if token else read_cookie(request, SESSION)
    address = "" if request.client is None else request.client.host
    show_addresses(False)
    viewer = await identities.identify(token, session, address=address)
    show_addresses(viewer.may(Scope.ADMIN))
    request.state.viewer = request.state.caller = viewer
    if not token:  # a program that sends a credential by itself needs no token against forgery
        prepare_token(request, session if viewer.session_id else None)
        await check_token(request)
    for scope in needed.scopes:
        viewer.check_scope(Scope(scope))
    return viewer


ViewerDep = Annotated[Principal, Security(find_viewer)]
SearcherDep = Annotated[Principal, Security(find_viewer, scopes=[Scope.SEARCH])]
ReaderDep = Annotated[Principal, Security(find_viewer, scopes=[Scope.READ])]
SubmitterDep = Annotated[Principal, Security(find_viewer, scopes=[Scope.SUBMIT])]
DeleterDep = Annotated[Principal, Security(find_viewer, scopes=[Scope.DELETE])]
AdminDep = Annotated[Principal, Security(find_viewer, scopes=[Scope.ADMIN])]


async def find_viewed_job(job_id: JobId, viewer: ViewerDep, services: ServicesDep) -> JobRecord:
    """Return the job of the path. Raises SubmissionError "job_not_found" (404), also for jobs of other keys."""
    return viewer.check_job(await services.jobs.get(job_id))


ReadJobDep = Annotated[JobRecord, Security(find_viewed_job, scopes=[Scope.READ])]
ChangedJobDep = Annotated[JobRecord, Security(find_viewed_job, scopes=[Scope.SUBMIT])]
