"""What routes receive: the caller, the services, a job, and the models of bodies, queries and headers.

Route modules import from here and from ``views``, never from each other.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final, Literal

from fastapi import Body, Depends, Header, Path, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import AfterValidator, BeforeValidator, Field

from ingestion_engine.access.identity import Identities
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import Scope
from ingestion_engine.api.context import Services
from ingestion_engine.api.examples import JOB_EXAMPLES, SEARCH_EXAMPLES
from ingestion_engine.api.input_checks import (
    check_alias_name,
    check_body,
    check_collection_name,
    check_job_id,
    check_moment,
)
from ingestion_engine.api.query_values import Attempt, Cursor, PageSize, Position, QueryFlag, QueryWhole
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.spec import COLLECTION_MAX, COLLECTION_PATTERN, EngineName, JobRequest, Strict
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.aliases import RollbackOrder
from ingestion_engine.models.operations import DrainOrder
from ingestion_engine.models.search import SearchRequest
from ingestion_engine.runtime.addresses import show_addresses
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.jobs import IDEMPOTENCY_KEY_MAX

FOREIGN_HOST: Final = "foreign_host"
"""Entry of a request's state: True for a probe under a name that is not the service's, as pages of others come."""

LOG_IN_FAILED: Final = "log_in_failed"
"""Entry of a request's state: True when a credential was refused, although the answer is no 401 or it is in no header;
for the limit on guesses."""

# -- the caller, the services, a job ----------------------------------------------------------------------------------


async def get_identities(request: Request) -> Identities:
    """Return what knows the callers of the application."""
    identities: Identities = request.app.state.identities
    return identities


IdentitiesDep = Annotated[Identities, Depends(get_identities)]

_BEARER = HTTPBearer(
    scheme_name="apiKey",
    auto_error=False,
    description="An API key, as `Authorization: Bearer <key>`. Not needed where the service requires no key.",
)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


async def authenticate(
    request: Request, needed: SecurityScopes, bearer: Bearer, identities: IdentitiesDep
) -> Principal:
    """Return the caller, who has all scopes that the route needs; also as ``request.state.caller``.

    Raises:
        SubmissionError: "unauthenticated" (401), "scope_missing" (403).
    """
    caller = await identify_caller(request, bearer, identities)
    request.state.caller = caller
    for scope in needed.scopes:
        caller.check_scope(Scope(scope))
    return caller


async def identify_caller(
    request: Request, bearer: HTTPAuthorizationCredentials | None, identities: Identities
) -> Principal:
    """Return the caller of a request, whatever it may do; who operates the service reads addresses from then on.

    Raises:
        SubmissionError: "unauthenticated" (401).
    """
    token = None if bearer is None else bearer.credentials.strip()
    address = "" if request.client is None else request.client.host
    show_addresses(False)
    caller = await identities.identify(token, None, address=address)
    show_addresses(caller.may(Scope.ADMIN))
    return caller


async def get_services(request: Request) -> Services:
    """Return the running application's services; asynchronous because FastAPI calls other functions in a thread."""
    services: Services = request.app.state.services
    return services


SearcherDep = Annotated[Principal, Security(authenticate, scopes=[Scope.SEARCH])]
ReaderDep = Annotated[Principal, Security(authenticate, scopes=[Scope.READ])]
SubmitterDep = Annotated[Principal, Security(authenticate, scopes=[Scope.SUBMIT])]
DeleterDep = Annotated[Principal, Security(authenticate, scopes=[Scope.DELETE])]
AdminDep = Annotated[Principal, Security(authenticate, scopes=[Scope.ADMIN])]
ServicesDep = Annotated[Services, Depends(get_services)]


# The patterns are declared, not enforced: what no collection can be named does not exist, which is 404, not 422.
_NAME = {"pattern": COLLECTION_PATTERN, "maxLength": COLLECTION_MAX}
CollectionName = Annotated[
    str, AfterValidator(check_collection_name), Path(description="Collection or alias.", json_schema_extra=_NAME)
]
AliasName = Annotated[str, AfterValidator(check_alias_name), Path(description="Alias.", json_schema_extra=_NAME)]
JobId = Annotated[
    str,
    AfterValidator(check_job_id),
    Path(description="`job_id` of a job.", json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$", "maxLength": 64}),
]


async def find_job(
    job_id: JobId, caller: Annotated[Principal, Security(authenticate)], services: ServicesDep
) -> JobRecord:
    """Return the job of the path. Raises SubmissionError "job_not_found" (404), also for jobs of other keys."""
    return caller.check_job(await services.jobs.get(job_id))


# The scopes of a dependency count for what it depends on, too: for ``authenticate`` here.
ReadJobDep = Annotated[JobRecord, Security(find_job, scopes=[Scope.READ])]
ChangedJobDep = Annotated[JobRecord, Security(find_job, scopes=[Scope.SUBMIT])]


async def may_see_details(request: Request, bearer: Bearer, identities: IdentitiesDep) -> bool:
    """Return True where the caller may read, under a name of the service; never raises: for routes for everybody."""
    if getattr(request.state, FOREIGN_HOST, False):
        return False
    try:
        caller = await identify_caller(request, bearer, identities)
    except IngestionError as error:
        setattr(request.state, LOG_IN_FAILED, error.code == "unauthenticated" and bearer is not None)
        return False
    request.state.caller = caller
    return caller.may(Scope.READ)


SeesDetailsDep = Annotated[bool, Depends(may_see_details)]

# -- headers and bodies -----------------------------------------------------------------------------------------------

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=IDEMPOTENCY_KEY_MAX,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Any string, best a random one for each intention. The same request with the same key does nothing "
        "again and returns the first result as it is now, with the header `Idempotency-Replayed`; a different request "
        "with the same key is refused with `idempotency_conflict`.",
    ),
]

JobBody = Annotated[JobRequest, BeforeValidator(check_body), Body(openapi_examples=JOB_EXAMPLES)]


SearchBody = Annotated[SearchRequest, BeforeValidator(check_body), Body(openapi_examples=SEARCH_EXAMPLES)]


RollbackBody = Annotated[RollbackOrder | None, BeforeValidator(check_body), Body()]

DrainBody = Annotated[DrainOrder | None, BeforeValidator(check_body), Body()]

# -- queries ----------------------------------------------------------------------------------------------------------


MomentText = Annotated[dt.datetime, BeforeValidator(check_moment)]


class JobListQuery(Strict):
    """Filter and page of a list of jobs."""

    engine: EngineName | None = None
    """Only jobs of this engine."""
    state: tuple[JobState, ...] = Field(default=(), max_length=32)
    """Only jobs in this state; repeatable."""
    collection: str | None = Field(default=None, pattern=COLLECTION_PATTERN, max_length=COLLECTION_MAX)
    """Only jobs that write this collection."""
    owner: str | None = Field(default=None, max_length=128, pattern=r"^[^\x00]*$")
    """Only jobs that were submitted by the API key or the person of this name; empty means without authentication."""
    created_after: MomentText | None = None
    """Only jobs created at this moment or later, in the form of RFC 3339."""
    created_before: MomentText | None = None
    """Only jobs created before this moment, in the form of RFC 3339."""
    limit: QueryWhole = Field(default=50, ge=1, le=500)
    """Maximum number of jobs."""
    cursor: Cursor | None = None
    """``next_cursor`` of the previous page."""


class PageQuery(Strict):
    """Page of a list."""

    limit: QueryWhole = Field(default=100, ge=1, le=1000)
    """Maximum number of items."""
    cursor: Cursor | None = None
    """``next_cursor`` of the previous page."""


Codes = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", max_length=64)], ...],
    Field(max_length=64, description="Only failures with this code; repeatable."),
]


class FailureQuery(PageQuery):
    """Filter and page of a list of failures."""

    code: Codes = ()


class RetryQuery(Strict):
    """Which failed objects to retry."""

    code: Codes = ()


class CollectionQuery(Strict):
    """Page of a list of collections."""

    limit: QueryWhole = Field(default=1000, ge=1, le=1000)
    """Maximum number of collections."""
    cursor: str | None = Field(default=None, pattern=f"^$|{COLLECTION_PATTERN}", max_length=COLLECTION_MAX)
    """``next_cursor`` of the previous page."""


class AliasQuery(Strict):
    """Page of the list of aliases."""

    limit: PageSize | None = None
    """Maximum number of aliases; without it, all are listed."""
    cursor: str | None = Field(default=None, pattern=f"^$|{COLLECTION_PATTERN}", max_length=COLLECTION_MAX)
    """``next_cursor`` of the previous page."""


class LogQuery(Strict):
    """Attempt of a job."""

    attempt: Attempt | None = None
    """Number of the attempt, from 1; the newest by default."""
    after: Position | None = None
    """Only whole lines after this position, the header ``Log-Position`` of a response; empty means the beginning."""


class CancelQuery(Strict):
    """How to cancel a job."""

    force: QueryFlag = False
    """End the job now, although its engine does not respond or its driver has not ended. A driver that comes back can
    write nothing; the next job on the collection first waits for its lease to expire."""


class ObjectQuery(PageQuery):
    """Filter and page of a list of objects."""

    prefix: str = Field(default="", max_length=1024)
    """Only objects whose key starts with this prefix."""
    state: Literal["present", "failed"] | None = None
    """``present``: the newest version is in the stores; ``failed``: it is not, but an older version may be."""
    warnings: QueryFlag = False
    """Only objects of which something was left out, such as a damaged picture or a line that is not JSON."""

    delimiter: Literal["/"] | None = None
    """``/``: list keys with a slash after the prefix as ``folders``, once each, instead of every object in them."""


class ChunkQuery(Strict):
    """Object and page of a list of chunks."""

    key: str = Field(min_length=1, max_length=4096)
    """Key of the object."""
    limit: QueryWhole = Field(default=50, ge=1, le=200)
    """Chunks per page; damage can add further points, such as two with one number."""
    cursor: Cursor | None = None
    """``next_cursor`` of the previous page."""


class RemovalQuery(Strict):
    """Objects to remove from a collection."""

    prefix: str = Field(max_length=1024)
    """Only objects whose key starts with this prefix; an empty prefix requires ``all``."""
    all: QueryFlag = False
    """Allow an empty prefix, which means every object."""
    engine: EngineName | None = None
    """Engine that runs the job; the first configured one by default."""


class PruneQuery(Strict):
    """Versions of an alias to keep."""

    keep: QueryWhole = Field(default=1, ge=0, le=1000)
    """Number of former versions to keep, newest first."""


JobListParams = Annotated[JobListQuery, Query()]
CollectionParams = Annotated[CollectionQuery, Query()]
AliasParams = Annotated[AliasQuery, Query()]
PageParams = Annotated[PageQuery, Query()]
FailureParams = Annotated[FailureQuery, Query()]
RetryParams = Annotated[RetryQuery, Query()]
LogParams = Annotated[LogQuery, Query()]
CancelParams = Annotated[CancelQuery, Query()]
ObjectParams = Annotated[ObjectQuery, Query()]
ChunkParams = Annotated[ChunkQuery, Query()]
RemovalParams = Annotated[RemovalQuery, Query()]
PruneParams = Annotated[PruneQuery, Query()]
