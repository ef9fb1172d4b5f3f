"""Errors as RFC 9457 problem+json: every error response has this form, whatever its cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ingestion_engine.api.json_bodies import NOWHERE
from ingestion_engine.domain.errors import FatalError, IngestionError, SubmissionError, TransientError
from ingestion_engine.runtime.addresses import context_for_caller, for_caller
from ingestion_engine.runtime.validation import describe_fault

MEDIA_TYPE: Final = "application/problem+json"

PROBLEM_CODE: Final = "problem_code"
"""Where the state of a request has the code of the problem that answers it, for the audit log."""

ERRORS_MAX: Final = 100
"""Errors of one request that are listed; the detail names the number of all."""

TITLES: Final = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Request too large",
    408: "Request too slow",
    414: "URL too long",
    415: "Unsupported media type",
    421: "Wrong host",
    422: "Request cannot be processed",
    429: "Too many requests",
    431: "Header too large",
    500: "Internal error",
    501: "Not configured",
    503: "Temporarily unavailable",
}

_HTTP_CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
}


def make_problem(
    status: int,
    code: str,
    detail: str,
    *,
    hint: str | None = None,
    field: str | None = None,
    errors: Sequence[Mapping[str, Any]] | None = None,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a problem as a JSON object; members without a value are left out. Pure."""
    problem = {
        "type": f"urn:ingestion-engine:problem:{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint or None,
        "field": field,
        "errors": list(errors) if errors else None,
    }
    # A context value must not replace a member that the standard or ``Problem`` defines.
    problem = {**(context or {}), **problem}
    return {name: value for name, value in problem.items() if value is not None}


def problem_of_record(record: Mapping[str, Any] | None, title: str) -> dict[str, Any] | None:
    """Return a stored error (``IngestionError.record()``) as a problem with this title and no status.

    Addresses of internal systems are hidden from callers who do not operate the service.
    """
    if record is None:
        return None
    context = context_for_caller(record.get("context") or {})
    context.pop("status", None)
    detail = for_caller(str(record["message"]))
    problem = make_problem(0, str(record["code"]), detail, hint=record.get("hint"), context=context)
    del problem["status"]
    return {**problem, "title": title}


def problem_of_error(error: IngestionError) -> dict[str, Any]:
    """Return an error of the product as a problem, with addresses of internal systems for operators only."""
    context, detail = context_for_caller(error.context), for_caller(error.message)
    if isinstance(error, SubmissionError):
        context.pop("status", None)
        context.pop("field", None)
        errors = [context_for_caller(one) for one in context.pop("errors", None) or ()]
        return make_problem(
            error.status,
            error.code,
            detail,
            hint=error.hint,
            field=error.field,
            errors=errors,
            context=context,
        )
    status = 503 if isinstance(error, TransientError | FatalError) else 500
    return make_problem(status, error.code, detail, hint=error.hint)


def answer_problem(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return the HTTP response of a problem."""
    return _ProblemResponse(
        orjson.dumps(problem), status_code=problem["status"], media_type=MEDIA_TYPE, headers=dict(headers or {})
    ).of(str(problem["code"]))


class _ProblemResponse(Response):
    """Response that leaves its code in the state of the request."""

    _code = ""

    def of(self, code: str) -> _ProblemResponse:
        """Set the code; return the response."""
        self._code = code
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        scope.setdefault("state", {})[PROBLEM_CODE] = self._code
        await super().__call__(scope, receive, send)


def install_problem_handlers(app: FastAPI) -> None:
    """Return every error of an application as a problem; ``RequestContext`` handles unexpected ones."""

    @app.exception_handler(IngestionError)
    async def _ours(request: Request, error: IngestionError) -> Response:
        headers = {"WWW-Authenticate": _challenge(request)} if error.context.get("status") == 401 else {}
        problem = problem_of_error(error)
        if problem["status"] == 503:  # a probe need not find out by itself what a request has just met
            request.app.state.services.health.distrust(error.code)
        return answer_problem(problem, headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.body, bytes):
            # The default of curl -d; FastAPI does not parse the body then.
            media_type = request.headers.get("content-type", "").partition(";")[0].strip()[:128]
            detail = f"The body is declared as {media_type!r}." if media_type else "The body has no media type."
            hint = "Send the header content-type: application/json."
            return answer_problem(make_problem(415, "not_json", detail, hint=hint))
        return answer_problem(describe_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        hints = {404: "List the routes with GET /openapi.json.", 405: f"Use one of the allowed methods: {allowed}."}
        code = _HTTP_CODES.get(error.status_code, "http_error")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        problem = make_problem(error.status_code, code, detail, hint=hints.get(error.status_code))
        return answer_problem(problem, error.headers)


def _challenge(request: Request) -> str:
    """Return what a 401 asks for: RFC 6750 section 3.1 names the error only to who has sent a credential. Pure."""
    return 'Bearer error="invalid_token"' if "authorization" in request.headers else "Bearer"


def describe_validation(faults: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return validation errors, the first ``ERRORS_MAX``, as one problem that names the first field. Pure.

    Values are not repeated.
    """
    errors = [_describe_fault(fault) for fault in faults[:ERRORS_MAX]]
    first = errors[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    field = first["pointer"].strip("/").replace("/", ".") or None
    detail = f"{field}: {first['detail']}{more}" if field else f"{first['detail']}{more}"
    hint = "Compare the request with the schema: GET /openapi.json, or /docs in a browser."
    return make_problem(422, "validation_error", detail, hint=hint, field=field, errors=errors)


def _describe_fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    location = [str(part) for part in fault["loc"]]
    kind = fault["type"]
    if kind == "json_invalid":
        reason = (fault.get("ctx") or {}).get("error", "not JSON")
        where = "" if location[-1] == str(NOWHERE) else f" at character {location[-1]}"
        return {"pointer": "", "detail": f"The body is not JSON: {reason}{where}.", "code": kind}
    if location[:1] == ["body"]:
        location = location[1:]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in location)
    return {"pointer": pointer, "detail": describe_fault(fault), "code": kind}
