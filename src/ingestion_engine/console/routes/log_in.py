"""Log-in and log-out of people."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote, unquote, urlencode

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.access.identity import Identities
from ingestion_engine.access.oidc.connect import Oidc
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.sessions import Sessions
from ingestion_engine.api.dependencies import LOG_IN_FAILED, IdentitiesDep
from ingestion_engine.api.problems import PROBLEM_CODE, problem_of_error
from ingestion_engine.console import cookies
from ingestion_engine.console.csrf import check_token, prepare_token
from ingestion_engine.console.pages import render
from ingestion_engine.console.returning import LOG_IN_PATH, choose_page, log_in_url
from ingestion_engine.console.routing import make_router
from ingestion_engine.domain.errors import IngestionError, SubmissionError
from ingestion_engine.runtime.addresses import for_caller
from ingestion_engine.runtime.telemetry import get_logger

router = make_router()

CALLBACK_PATH: Final = "/console/oidc/callback"
BEGIN_PATH: Final = "/console/oidc/login"

LOG_IN_S: Final = 600
"""Seconds that a person has to log in at the provider."""

_KEY_MAX: Final = 4096
_NO_STORE: Final = {"Cache-Control": "no-store"}

WantedQuery = Annotated[str | None, Query(alias="next")]

_log = get_logger(__name__)


@router.get(LOG_IN_PATH)
async def show_log_in(
    request: Request, identities: IdentitiesDep, wanted: WantedQuery = None, out: bool = False, here: bool = False
) -> Response:
    """Return the page with the ways to log in; who is logged in already goes on."""
    if identities.is_open or await _find_session(request, identities) is not None:
        return _go(choose_page(wanted))
    # A link on another site leads here without the session's cookie, which is strict. From a page of this site, the
    # browser sends it.
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and not here:
        query = urlencode({"next": choose_page(wanted), "here": "1"})
        return _go_on(request, f"{LOG_IN_PATH}?{query}")
    return _show(request, choose_page(wanted), notice="You have logged out." if out else None)


@router.post(LOG_IN_PATH)
async def log_in(
    request: Request,
    identities: IdentitiesDep,
    key: Annotated[str, Form(max_length=_KEY_MAX)] = "",
    wanted: Annotated[str | None, Form(alias="next")] = None,
) -> Response:
    """Begin a session for an API key."""
    page = choose_page(wanted)
    if identities.is_open:
        return _go(page)
    prepare_token(request)
    await check_token(request)
    try:
        principal = await identities.identify(key.strip(), None, address=_find_address(request))
        if principal.kind != "key":
            raise SubmissionError("unauthenticated", "This is an access token, not an API key.", status=401)
    except SubmissionError as error:
        setattr(request.state, LOG_IN_FAILED, bool(key.strip()))
        message = for_caller(error.message) if key.strip() else "Paste an API key."
        return _show(request, page, error=error, key_error=message)
    response = _go(page)
    await _begin_session(request, response, principal)
    return response


@router.post("/console/logout")
async def log_out(request: Request) -> Response:
    """End the session of this browser."""
    response = _go(f"{LOG_IN_PATH}?out=1")
    secret = cookies.read_cookie(request, cookies.SESSION)
    if secret is None:
        return response
    prepare_token(request, secret)
    await check_token(request)
    await _sessions(request).end(secret)
    cookies.clear_cookie(request, response, cookies.SESSION)
    return response


@router.get(BEGIN_PATH)
async def begin_at_provider(request: Request, wanted: WantedQuery = None) -> Response:
    """Send the browser to the OpenID Connect provider."""
    oidc = _oidc(request)
    assert oidc.flow is not None
    url, secret = await oidc.flow.begin(_redirect_uri(request))
    response = _go(url)
    # Lax: the provider's page sends the browser back. The page to return to is checked again when it is used.
    value = f"{secret}|{quote(choose_page(wanted), safe='')}"
    cookies.set_cookie(request, response, cookies.LOG_IN, value=value, same_site="lax", max_age_s=LOG_IN_S)
    return response


@router.get(CALLBACK_PATH)
async def complete_at_provider(request: Request) -> Response:
    """Begin a session for the person who comes back from the provider."""
    oidc = _oidc(request)
    assert oidc.flow is not None
    kept = cookies.read_cookie(request, cookies.LOG_IN) or ""
    secret, _, wanted = kept.partition("|")
    page = choose_page(unquote(wanted))
    try:
        claims = await oidc.flow.complete(secret or None, request.query_params, redirect_uri=_redirect_uri(request))
        principal = oidc.rules.make_principal(claims, expires_at=None)
    except IngestionError as error:
        response = _show(request, page, error=error)
        cookies.clear_cookie(request, response, cookies.LOG_IN)
        return response
    # Not a redirect: this navigation began at the provider, so the browser would not send the new cookie, which is
    # strict, along its redirects. The one that this page begins is of this site.
    response = _go_on(request, page)
    await _begin_session(request, response, principal, claims=oidc.rules.keep_claims(claims))
    cookies.clear_cookie(request, response, cookies.LOG_IN)
    return response


async def _begin_session(
    request: Request, response: Response, principal: Principal, *, claims: dict[str, object] | None = None
) -> None:
    """Replace the session of this browser, if it has one, by a new one."""
    former = cookies.read_cookie(request, cookies.SESSION)
    if former is not None:
        await _sessions(request).end(former)
    begun = await _sessions(request).begin(principal, claims)
    cookies.set_cookie(request, response, cookies.SESSION, value=begun.secret)
    request.state.caller = begun.principal
    _log.info("logged in to the console", extra={"who": principal.name, "kind": principal.kind})


async def _find_session(request: Request, identities: Identities) -> Principal | None:
    try:
        cookie = cookies.read_cookie(request, cookies.SESSION)
        return None if cookie is None else await identities.identify(None, cookie, address=_find_address(request))
    except SubmissionError:
        return None


def _show(
    request: Request,
    page: str,
    *,
    error: IngestionError | None = None,
    key_error: str | None = None,
    notice: str | None = None,
) -> Response:
    """Return the log-in page.

    Args:
        request: The request.
        page: Where the log-in leads to.
        error: Why a log-in has failed.
        key_error: What is shown of it beside the field for the key; None where it is about the provider.
        notice: What else there is to say.
    """
    prepare_token(request)
    status = 200
    if error is not None:
        status = problem_of_error(error)["status"]
        setattr(request.state, PROBLEM_CODE, error.code)  # for the audit log
    oidc: Oidc | None = request.app.state.oidc
    flow = None if oidc is None else oidc.flow
    return render(
        request,
        "log_in.html",
        status=status,
        headers=_NO_STORE,
        page=page,
        error={"message": for_caller(error.message), "hint": error.hint} if error and key_error is None else None,
        key_error=key_error,
        notice=notice,
        provider=None if flow is None else flow.title,
        provider_url=log_in_url(page, path=BEGIN_PATH),
        takes_keys=request.app.state.services.settings.takes_keys,
    )


def _go(url: str) -> Response:
    return RedirectResponse(url, status_code=303, headers=_NO_STORE)


def _go_on(request: Request, url: str) -> Response:
    """Return a page that goes on to another one of this site by itself."""
    return render(request, "go_on.html", headers=_NO_STORE, url=url)


def _oidc(request: Request) -> Oidc:
    """Return the provider. Raises SubmissionError "not_found" (404) where nobody logs in by one."""
    oidc: Oidc | None = request.app.state.oidc
    if oidc is None or oidc.flow is None:
        hint = "Set INGEST_OIDC__ISSUER and INGEST_OIDC__CLIENT_ID."
        raise SubmissionError("not_found", "The service has no log-in by a provider.", hint=hint, status=404)
    return oidc


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def _redirect_uri(request: Request) -> str:
    """Return the address of the callback, as the browser reaches it; the provider knows it too."""
    public: str | None = request.app.state.services.settings.api.public_url
    if public is not None:
        return public.rstrip("/") + CALLBACK_PATH
    return f"{'https' if cookies.uses_tls(request) else 'http'}://{request.url.netloc}{CALLBACK_PATH}"


def _find_address(request: Request) -> str:
    return "" if request.client is None else request.client.host
