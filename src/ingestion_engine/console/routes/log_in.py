"""Log-in and log-out of people."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote, unquote, urlencode

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.access.identity import Identities
from ingestion_engine.access.oidc.connect import Oidc
from ingestion_engine.access.oidc.log_outs import ProviderLogIn, find_log_in
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.sessions import NewSession, Sessions
from ingestion_engine.api.dependencies import LOG_IN_FAILED, IdentitiesDep
from ingestion_engine.api.problems import PROBLEM_CODE, problem_of_error
from ingestion_engine.console import cookies
from ingestion_engine.console.csrf import check_token, prepare_token
from ingestion_engine.console.pages import render
from ingestion_engine.console.returning import HOME, LOG_IN_PATH, choose_page, log_in_url
from ingestion_engine.console.routing import make_router
from ingestion_engine.domain.errors import IngestionError, SubmissionError
from ingestion_engine.runtime.addresses import for_caller
from ingestion_engine.runtime.telemetry import get_logger

router = make_router()

CALLBACK_PATH: Final = "/console/oidc/callback"
BEGIN_PATH: Final = "/console/oidc/login"
BEGIN_LOG_OUT_PATH: Final = "/console/oidc/logout"
LOGGED_OUT_PATH: Final = "/console/oidc/logged-out"

LOG_IN_S: Final = 600
"""Seconds that a person has to log in at the provider, or to log out there."""

_KEY_MAX: Final = 4096
_NO_STORE: Final = {"Cache-Control": "no-store"}

WantedQuery = Annotated[str | None, Query(alias="next")]

_log = get_logger(__name__)


@router.get(LOG_IN_PATH)
async def show_log_in(
    request: Request,
    identities: IdentitiesDep,
    wanted: WantedQuery = None,
    out: bool = False,
    provider: bool = False,
    here: bool = False,
) -> Response:
    """Return the page with the ways to log in; who is logged in already goes on."""
    if identities.is_open or await _find_session(request, identities) is not None:
        return _go(choose_page(wanted))
    # A link on another site leads here without the session's cookie, which is strict. From a page of this site, the
    # browser sends it.
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and not here:
        query = urlencode({"next": choose_page(wanted), "here": "1"})
        return _go_on(request, f"{LOG_IN_PATH}?{query}")
    notice = "You have logged out." if out else None
    return _show(
        request, choose_page(wanted), notice=notice, may_log_out=out and provider and await _may_log_out(request)
    )


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
    begun = await _replace_session(request, principal)
    cookies.set_cookie(request, response, cookies.SESSION, value=begun.secret)
    return response


@router.post("/console/logout")
async def log_out(request: Request) -> Response:
    """End the session of this browser; where it was begun at the provider, the next page offers a log-out there."""
    secret = cookies.read_cookie(request, cookies.SESSION)
    if secret is None:
        return _go(f"{LOG_IN_PATH}?out=1")
    prepare_token(request, secret)
    await check_token(request)
    ended = await _sessions(request).end(secret)
    # No redirect to the provider: browsers forbid it to a form by the policy `form-action 'self'`.
    by_provider = ended is not None and ended.kind == "oidc"
    response = _go(f"{LOG_IN_PATH}?out=1{'&provider=1' if by_provider else ''}")
    cookies.clear_cookie(request, response, cookies.SESSION)
    return response


@router.get(BEGIN_LOG_OUT_PATH)
async def begin_log_out_at_provider(request: Request, identities: IdentitiesDep) -> Response:
    """Send the browser to the provider's log-out; who is logged in here logs out here first."""
    log_outs = _oidc(request).log_outs
    assert log_outs is not None
    if await _find_session(request, identities) is not None:
        return _go(HOME)
    url, secret = await log_outs.begin(_public_uri(request, LOGGED_OUT_PATH))
    response = _go(url)
    cookies.set_cookie(request, response, cookies.LOG_OUT, value=secret, same_site="lax", max_age_s=LOG_IN_S)
    return response


@router.get(LOGGED_OUT_PATH)
async def show_logged_out(request: Request, state: str | None = None) -> Response:
    """Return the log-in page to who comes back from the provider's log-out."""
    oidc = _oidc(request)
    assert oidc.log_outs is not None
    if not oidc.log_outs.is_answer(cookies.read_cookie(request, cookies.LOG_OUT), state):
        return _go(LOG_IN_PATH)
    response = _show(request, HOME, notice=f"You have logged out, also of {_title(oidc)}.")
    cookies.clear_cookie(request, response, cookies.LOG_OUT)
    return response


@router.get(BEGIN_PATH)
async def begin_at_provider(request: Request, wanted: WantedQuery = None) -> Response:
    """Send the browser to the OpenID Connect provider."""
    oidc = _oidc(request)
    assert oidc.flow is not None
    url, secret = await oidc.flow.begin(_public_uri(request, CALLBACK_PATH))
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
        redirect_uri = _public_uri(request, CALLBACK_PATH)
        claims = await oidc.flow.complete(secret or None, request.query_params, redirect_uri=redirect_uri)
        principal = oidc.rules.make_principal(claims, expires_at=None)
    except IngestionError as error:
        return _show_failure(request, page, error)
    kept_claims = oidc.rules.keep_claims(claims)
    try:
        begun = await _replace_session(request, principal, claims=kept_claims, log_in=find_log_in(claims))
    except SubmissionError as error:
        return _show_failure(request, page, error)
    # Not a redirect: this navigation began at the provider, so the browser would not send the new cookie, which is
    # strict, along its redirects. The one that this page begins is of this site.
    response = _go_on(request, page)
    cookies.set_cookie(request, response, cookies.SESSION, value=begun.secret)
    cookies.clear_cookie(request, response, cookies.LOG_IN)
    return response


def _show_failure(request: Request, page: str, error: IngestionError) -> Response:
    """Return the log-in page with the reason why a log-in at the provider has failed."""
    response = _show(request, page, error=error)
    cookies.clear_cookie(request, response, cookies.LOG_IN)
    return response


async def _replace_session(
    request: Request,
    principal: Principal,
    *,
    claims: dict[str, object] | None = None,
    log_in: ProviderLogIn | None = None,
) -> NewSession:
    """Replace the session of this browser, if it has one, by a new one. Raises as ``Sessions.begin``."""
    former = cookies.read_cookie(request, cookies.SESSION)
    if former is not None:
        await _sessions(request).end(former)
    begun = await _sessions(request).begin(principal, claims, log_in=log_in)
    request.state.caller = begun.principal
    _log.info("logged in to the console", extra={"who": principal.name, "kind": principal.kind})
    return begun


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
    may_log_out: bool = False,
) -> Response:
    """Return the log-in page.

    Args:
        request: The request.
        page: Where the log-in leads to.
        error: Why a log-in has failed.
        key_error: What is shown of it beside the field for the key; None where it is about the provider.
        notice: What else there is to say.
        may_log_out: Whether a log-out at the provider is offered.
    """
    prepare_token(request)
    status = 200
    if error is not None:
        status = problem_of_error(error)["status"]
        setattr(request.state, PROBLEM_CODE, error.code)  # for the audit log
    oidc: Oidc | None = request.app.state.oidc
    return render(
        request,
        "log_in.html",
        status=status,
        headers=_NO_STORE,
        page=page,
        error={"message": for_caller(error.message), "hint": error.hint} if error and key_error is None else None,
        key_error=key_error,
        notice=notice,
        provider=None if oidc is None else _title(oidc),
        provider_url=log_in_url(page, path=BEGIN_PATH),
        log_out_url=BEGIN_LOG_OUT_PATH if may_log_out else None,
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


def _title(oidc: Oidc) -> str | None:
    """Return what pages call the provider; None where nobody logs in by it."""
    return None if oidc.flow is None else oidc.flow.title


async def _may_log_out(request: Request) -> bool:
    """Return whether a log-out at the provider can be offered; never raises."""
    oidc: Oidc | None = request.app.state.oidc
    return oidc is not None and oidc.log_outs is not None and await oidc.log_outs.are_offered()


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def _public_uri(request: Request, path: str) -> str:
    """Return the address of a page, as the browser reaches it; the provider has it registered."""
    public: str | None = request.app.state.services.settings.api.public_url
    if public is not None:
        return public.rstrip("/") + path
    return f"{'https' if cookies.uses_tls(request) else 'http'}://{request.url.netloc}{path}"


def _find_address(request: Request) -> str:
    return "" if request.client is None else request.client.host
