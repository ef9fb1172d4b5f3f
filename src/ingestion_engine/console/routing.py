"""Routers of pages, and the pages of errors: a browser receives HTML where a program receives problem+json."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ingestion_engine.api.problems import PROBLEM_CODE, TITLES, describe_validation, make_problem, problem_of_error
from ingestion_engine.console.csrf import keep_seed
from ingestion_engine.console.pages import render
from ingestion_engine.console.returning import find_page, log_in_url
from ingestion_engine.domain.errors import IngestionError, SubmissionError
from ingestion_engine.runtime.telemetry import get_logger

_log = get_logger(__name__)

_HEADINGS: Final = {
    403: "You may not do this",
    404: "There is nothing here",
    500: "The service has failed",
    503: "The service cannot do this now",
}


_UTF_8: Final = re.compile(r"charset *= *(\"utf-8\"|utf-8)(?= *(;|\Z))", re.IGNORECASE)


def check_form_encoding(content_type: str) -> None:
    """Return when the texts of a form are UTF-8, as those of the console's pages are. Pure.

    Others are not read: whoever sends a form chooses its encoding among all of Python, and some of them take minutes
    for a text of half a megabyte, such as Punycode.

    Raises:
        SubmissionError: "form_not_utf8" (415).
    """
    if "charset" in _UTF_8.sub("", content_type, count=1).lower():
        raise SubmissionError(
            "form_not_utf8", "The form is in another encoding than UTF-8.", hint="Send it as UTF-8.", status=415
        )


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            response = await answer(request)
            keep_seed(request, response)
            return response

        async def answer(request: Request) -> Response:
            try:
                check_form_encoding(request.headers.get("content-type", ""))
                return await handle(request)
            except IngestionError as error:
                problem = problem_of_error(error)
                if error.code == "unauthenticated" and "authorization" not in request.headers:
                    return ask_to_log_in(request)
                if problem["status"] == 503:  # a probe need not find out by itself what a request has just met
                    request.app.state.services.health.distrust(error.code)
                return show_problem(request, problem)
            except RequestValidationError as error:
                return show_problem(request, describe_validation(error.errors()))
            except HTTPException as error:
                return show_problem(request, make_problem(error.status_code, "http_error", str(error.detail)))
            except Exception:  # top of the console: the reader gets a page, the reason is logged
                _log.exception("page failed", extra={"path": request.url.path})
                detail = "An unexpected error occurred; the log of the service has it under the id of this request."
                return show_problem(request, make_problem(500, "internal_error", detail))

        return handle_page


def make_router() -> APIRouter:
    """Return a router of pages, none of which is in the OpenAPI document."""
    return APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


def ask_to_log_in(request: Request) -> Response:
    """Return what leads the browser to the log-in, and from there back to the page that was wanted."""
    url = log_in_url(find_page(request))
    if "hx-request" in request.headers:  # htmx loads the whole page then; a redirect would replace a part of one
        return Response(status_code=401, headers={"HX-Redirect": url, "WWW-Authenticate": "Bearer"})
    return RedirectResponse(url, status_code=303)


def show_problem(request: Request, problem: Mapping[str, Any]) -> Response:
    """Return a problem as a page, or as a short text for a part of a page."""
    status = problem["status"]
    setattr(request.state, PROBLEM_CODE, problem["code"])  # for the audit log
    heading = _HEADINGS.get(status, TITLES.get(status, "Error"))
    template = "problem_part.html" if request.headers.get("hx-request") else "problem.html"
    return render(request, template, status=status, problem={"hint": None, **problem}, heading=heading)
