"""One request at one server: send it, and judge whose fault a failure is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from ingestion_engine.adapters.ollama.embedder import BASE_TIMEOUT_S
from ingestion_engine.adapters.ollama.responses import read_error, read_load_s, translate_response
from ingestion_engine.adapters.ollama.server_urls import ServerAddress
from ingestion_engine.adapters.transport import HttpClient, Response, excerpt, read_retry_after
from ingestion_engine.domain.errors import FatalError, IngestionError, TextRefused

PASSED_TO_SERVERS: Final = (
    "content-type",
    "ingest-flow",
    "ingest-band",
    "ingest-weight",
    "x-request-id",
)
"""Ollama ignores the others; they are for logs of proxies, and for a gateway behind this one."""
PASSED_TO_CLIENTS: Final = ("content-type", "content-encoding", "retry-after")
IDENTITY: Final = {"accept-encoding": "identity"}
"""Servers are asked for plain bodies: vectors as text hardly shrink, and errors must be read."""
CONNECT_TIMEOUT_S: Final = 5.0

_RUNNER_FAILED: Final = ("do embedding request", "error reading embed response", "unexpected server status")
"""Ollama's words, with status 400, for a model process that is gone (server/routes.go, llm/server.go of 0.33)."""
_INVALID: Final = re.compile(
    r'option "[^"]*" must be of type |time: [a-z ]*duration |json: cannot unmarshal |invalid character '
)
"""Starts of Ollama's words, with status 400 or 500, for a request with fields of wrong types."""
_REFUSED_BY_PROXIES: Final = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
"""From a proxy before the server; another server may have none."""
_REQUEST_ERRORS: Final = range(400, 500)


class Verdict(StrEnum):
    """What a response says about the server and the request."""

    ANSWER = "answer"
    """The request was served."""
    REFUSED = "refused"
    """The request is at fault: no other server would serve it."""
    MODEL_MISSING = "model_missing"
    """The server does not have the model any more."""
    DOUBTFUL = "doubtful"
    """Server or request is at fault: another server's answer tells."""
    EXCUSED = "excused"
    """Nothing about the server: the request has failed before, or its client did not wait for long."""
    FAILED = "failed"
    """The server is at fault."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the client."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What one server made of a request."""

    verdict: Verdict
    reply: Reply | None = None
    """None when there was no complete response."""
    error: str | None = None
    """What happened, as a sentence; None for an answer."""
    retry_after_s: float | None = None
    """Pause that the server asked for."""
    has_arrived: bool = True
    """Whether a server may have seen the request: there was a connection."""
    load_s: float = 0.0
    """Time for which the server loaded the model."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A request for embeddings, as it is sent to a server."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = math.inf
    """Limit of one try at one server, from the moment at which it is sent."""
    is_valid: bool = True
    """Whether the body is well formed; else an error in Ollama's words is about it."""
    texts: int = 0
    """Texts, and so vectors of an answer; 0 when that is not known."""


class Forwarder:
    """Sends requests to servers and reads whole responses, so that a failure in their middle can be repaired."""

    def __init__(self, client: HttpClient) -> None:
        """Use a client that does not decompress."""
        self._client = client

    async def send(
        self,
        method: str,
        address: ServerAddress,
        path: str,
        *,
        timeout_s: float,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Response:
        """Send one request and return the complete response, whatever its status.

        A task that is canceled here closes the connection, upon which Ollama stops working on the request.

        Raises:
            IngestionError: there is no complete response.
        """
        return await self._client.request(
            method,
            address.base,
            path,
            body=body or None,
            headers={**IDENTITY, **(headers or {})},
            timeout_s=timeout_s,
            server_name=address.server_name,
            on_sent=on_sent,
        )

    async def embed(
        self, address: ServerAddress, request: EmbedRequest, *, on_sent: Callable[[], None] | None = None
    ) -> Result:
        """Return what a server makes of a request for embeddings; ``on_sent`` is called when it leaves."""
        is_sent = False

        def note_sent() -> None:
            nonlocal is_sent
            is_sent = True
            if on_sent is not None:
                on_sent()

        try:
            response = await self.send(
                "POST",
                address,
                "/api/embed",
                body=request.body,
                headers=request.headers,
                timeout_s=request.timeout_s,
                on_sent=note_sent,
            )
        except IngestionError as error:
            is_late = isinstance(error.__cause__, TimeoutError)
            is_hasty = is_late and request.timeout_s < (BASE_TIMEOUT_S if is_sent else CONNECT_TIMEOUT_S)
            verdict = Verdict.EXCUSED if is_hasty else Verdict.FAILED
            return Result(verdict, error=error.message, has_arrived=is_sent)
        return judge(response, address.url, is_valid=request.is_valid, texts=request.texts)


def judge(response: Response, url: str, *, is_valid: bool, texts: int = 0) -> Result:
    """Return what a response to ``POST /api/embed`` says. Pure.

    Args:
        response: The response.
        url: Server that gave it.
        is_valid: Whether the request was well formed; else an error in Ollama's words is about it.
        texts: Number of vectors that an answer has at least.
    """
    reply = Reply(response.status_code, response.content, pass_headers(response.headers, PASSED_TO_CLIENTS))
    if response.status_code == HTTPStatus.OK:
        is_complete = _is_object(response.content) and (not texts or _has_lists(response.content, texts + 1))
        if "content-encoding" in reply.headers or is_complete:
            return Result(Verdict.ANSWER, reply, load_s=read_load_s(response.content))
        # A proxy's page with status 200, for example.
        return Result(Verdict.FAILED, reply, f"Ollama at {url} responded with something else: {excerpt(response)}")
    error = translate_response(response, url, "")
    retry_after_s = read_retry_after(response).get("retry_after_s")
    verdict = _find_verdict(response, error, is_valid=is_valid)
    return Result(verdict, reply, error.message, retry_after_s=retry_after_s)


def _find_verdict(response: Response, error: IngestionError, *, is_valid: bool) -> Verdict:
    status, text = response.status_code, read_error(response)
    if isinstance(error, TextRefused):
        return Verdict.REFUSED
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR) and text and _INVALID.match(text):
        return Verdict.REFUSED
    if isinstance(error, FatalError) and error.code == "model_not_found":
        return Verdict.MODEL_MISSING if status == HTTPStatus.NOT_FOUND else Verdict.REFUSED
    if status in _REFUSED_BY_PROXIES:
        return Verdict.DOUBTFUL
    if status == HTTPStatus.BAD_REQUEST and text is not None:
        if any(words in text for words in _RUNNER_FAILED):
            return Verdict.FAILED
        return Verdict.DOUBTFUL if is_valid else Verdict.REFUSED
    if not is_valid and status in _REQUEST_ERRORS and text is not None:
        return Verdict.REFUSED
    return Verdict.FAILED


def _is_object(content: bytes) -> bool:
    return content[:64].lstrip()[:1] == b"{" and content[-64:].rstrip()[-1:] == b"}"


def _has_lists(content: bytes, count: int) -> bool:
    """Return whether at least this many lists start: each vector is one, in a list of them.

    Cost: a tenth of that of ``count`` (8 against 70 µs for 8 vectors of 768 numbers), because ``find`` skips faster.
    """
    at = -1
    for _ in range(count):
        at = content.find(b"[", at + 1)
        if at < 0:
            return False
    return True


def pass_headers(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Return the headers that are passed on, except values that HTTP does not allow. Pure."""
    found = ((name, headers.get(name)) for name in names)
    return {name: value for name, value in found if value is not None and value.isascii() and value.isprintable()}
