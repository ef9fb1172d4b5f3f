"""The page of searches.

A search is sent by ``POST``: what people look for can be personal, and URLs end up in logs of proxies, histories of
browsers and bookmarks. The collection and its filters are not, so a link may carry them.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Final, Literal

from fastapi import Form, Query, Request, Response
from pydantic import ValidationError

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.absence import jobs_explain_absence
from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import ServicesDep
from ingestion_engine.api.problems import describe_validation, problem_of_error
from ingestion_engine.api.views import make_search_query, show_search
from ingestion_engine.console.pages import render
from ingestion_engine.console.passages import align, describe_agreement
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.suggestions import Suggestions, suggest_names
from ingestion_engine.console.viewer import SearcherDep
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.models.search import Filter, SearchRequest, SearchView

router = make_router()

SECTION: Final = "/console/search"

_Short = Annotated[str, Query(max_length=1024)]
_Field = Annotated[str, Form(max_length=10_000)]
_Limit = Literal["5", "10", "20", "50", "100"]
LIMITS: Final = ("5", "10", "20", "50", "100")


@dataclasses.dataclass(frozen=True, slots=True)
class SearchForm:
    """The fields of the form, as they were sent."""

    collection: str = ""
    query: str = ""
    limit: str = "10"
    bucket: str = ""
    content_type: str = ""
    key_prefix: str = ""
    metadata: str = ""
    """One ``name=value`` per line."""

    @property
    def is_filtered(self) -> bool:
        """True when a filter is set."""
        return bool(self.bucket or self.content_type or self.key_prefix or self.metadata.strip())

    def read(self) -> SearchRequest:
        """Return the search that the form describes. Pure. Raises ValidationError."""
        entries = [line.partition("=") for line in self.metadata.splitlines() if line.strip()]
        return SearchRequest(
            collection=self.collection.strip(),
            query=self.query,
            limit=int(self.limit),
            filter=Filter(
                bucket=self.bucket.strip() or None,
                content_type=self.content_type.strip() or None,
                key_prefix=self.key_prefix or None,
                metadata={name.strip(): value for name, _, value in entries},
            ),
        )


@router.get(SECTION, name="show_search")
async def show_form(
    request: Request,
    viewer: SearcherDep,
    services: ServicesDep,
    collection: _Short = "",
    bucket: _Short = "",
    content_type: _Short = "",
    key_prefix: _Short = "",
) -> Response:
    """Return the form, with the collection and filters of a link."""
    form = SearchForm(collection=collection, bucket=bucket, content_type=content_type, key_prefix=key_prefix)
    return await _show(request, form, viewer=viewer, services=services)


@router.post(SECTION)
async def search(
    request: Request,
    viewer: SearcherDep,
    services: ServicesDep,
    collection: _Field = "",
    query: _Field = "",
    limit: Annotated[_Limit, Form()] = "10",
    bucket: _Field = "",
    content_type: _Field = "",
    key_prefix: _Field = "",
    metadata: _Field = "",
) -> Response:
    """Return the passages of every store side by side, and the form as it was sent."""
    form = SearchForm(
        collection=collection,
        query=query,
        limit=limit,
        bucket=bucket,
        content_type=content_type,
        key_prefix=key_prefix,
        metadata=metadata,
    )
    try:
        body = form.read()
        viewer.check_collection(body.collection)
        async with jobs_explain_absence(body.collection, viewer, services):
            found = show_search(await services.search.search(make_search_query(body), viewer))
    except ValidationError as error:
        return await _show(request, form, viewer=viewer, services=services, problem=describe_validation(error.errors()))
    except IngestionError as error:
        return await _show(request, form, viewer=viewer, services=services, problem=problem_of_error(error))
    return await _show(request, form, viewer=viewer, services=services, found=found)


async def _show(
    request: Request,
    form: SearchForm,
    *,
    viewer: Principal,
    services: Services,
    found: SearchView | None = None,
    problem: dict[str, Any] | None = None,
) -> Response:
    is_part = request.headers.get("hx-target") == "results"
    passages = align(found)
    return render(
        request,
        "search/results.html" if is_part else "search/page.html",
        # htmx shows no body of an error status.
        status=200 if problem is None or is_part else problem["status"],
        section=SECTION,
        form=form,
        limits=LIMITS,
        names=Suggestions() if is_part else await suggest_names(viewer, services),
        found=found,
        passages=passages,
        agreement=describe_agreement(found, passages),
        problem=None if problem is None else {"hint": None, **problem},
    )
