"""Log-outs that the OpenID Connect provider reports by itself, from server to server (Back-Channel Logout 1.0).

No page and no part of the API: the provider's signature is the credential, so there is no session and no token against
forgery. Answers are those of the standard, section 2.8: 200 or 400, with the fields of OAuth errors, and the same
whether somebody was logged in or not.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ingestion_engine.access.oidc.connect import Oidc
from ingestion_engine.access.oidc.log_outs import refuse_log_out
from ingestion_engine.access.sessions import Sessions
from ingestion_engine.api.dependencies import LOG_IN_FAILED
from ingestion_engine.api.problems import PROBLEM_CODE
from ingestion_engine.console.returning import BACK_CHANNEL_PATH
from ingestion_engine.domain.errors import IngestionError, SubmissionError
from ingestion_engine.runtime.telemetry import get_logger

router = APIRouter(include_in_schema=False)

_FORM: Final = "application/x-www-form-urlencoded"
_FIELDS_MAX: Final = 16
"""The standard has one field, and lets providers add others."""

_NO_STORE: Final = {"Cache-Control": "no-store"}

_log = get_logger(__name__)


@router.post(BACK_CHANNEL_PATH)
async def log_out_by_provider(request: Request) -> Response:
    """End the sessions that a log-out token names."""
    oidc: Oidc | None = request.app.state.oidc
    if oidc is None or oidc.log_outs is None:
        hint = "Set INGEST_OIDC__ISSUER and INGEST_OIDC__CLIENT_ID."
        raise SubmissionError("not_found", "The service has no log-in by a provider.", hint=hint, status=404)
    sessions: Sessions = request.app.state.sessions
    try:
        log_out = await oidc.log_outs.read(_find_token(request.headers.get("content-type", ""), await request.body()))
        await sessions.end_by_provider(log_out)
    except IngestionError as error:
        return _refuse(request, error)
    return Response(headers=_NO_STORE)


def _find_token(content_type: str, body: bytes) -> str:
    """Return the token of a form. Raises SubmissionError "logout_token_invalid" (400). Pure."""
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise refuse_log_out(f"The request is no form ({_FORM}).")
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise refuse_log_out("The form cannot be read.") from None
    match fields.get("logout_token"):
        case [str(token)] if token:
            return token
        case _:
            raise refuse_log_out("The form must have the field 'logout_token' once.")


def _refuse(request: Request, error: IngestionError) -> Response:
    """Return the answer to a log-out that was not carried out; the standard has 400 for every reason."""
    setattr(request.state, PROBLEM_CODE, error.code)  # for the audit log
    _log.warning("log-out of the provider not carried out", extra=error.log_fields())
    if isinstance(error, SubmissionError):
        setattr(request.state, LOG_IN_FAILED, True)
        answer = {"error": "invalid_request", "error_description": error.message}
    else:
        description = "The service cannot check the log-out, or not carry it out, at the moment."
        answer = {"error": "temporarily_unavailable", "error_description": description}
    return JSONResponse(answer, status_code=400, headers=_NO_STORE)
