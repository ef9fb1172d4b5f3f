"""The HTTP client of the adapters, against small servers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors
from ingestion_engine.adapters.transport import HttpClient, _find_route
from ingestion_engine.domain.errors import FatalError, TlsFailed, TransientError
from ingestion_engine.runtime import waits
from ingestion_engine.runtime.settings import S3Settings
from support.answering import serving
from support.authority import Fault, PrivateAuthority
from support.waiting import wait_for


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient("qdrant", connect_timeout_s=5)
    yield client
    await client.close()


async def test_any_status_is_returned_and_redirects_are_not_followed(client: HttpClient) -> None:
    """The caller decides about a status."""
    with serving({"/there": lambda _: (307, {"a": 1}), "/gone": lambda _: (503, "busy")}) as url:
        moved = await client.request("GET", url, "/there", timeout_s=5)
        gone = await client.request("POST", url, "/gone", timeout_s=5, body=b"{}")
    assert (moved.status_code, moved.content) == (307, b'{"a":1}')
    assert (gone.status_code, gone.text) == (503, '"busy"')


async def test_what_happened_to_a_request_is_said_in_words(client: HttpClient) -> None:
    """A refused connection is named as such, without the class names of a library: the message is a job's note."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(TransientError) as refused:
        await client.request("GET", closed, "/", timeout_s=5)
    with pytest.raises(TransientError) as unknown:
        await client.request("GET", "http://nowhere.invalid", "/", timeout_s=5)
    assert refused.value.message == f"Qdrant at {closed} refuses connections."
    assert unknown.value.message.endswith("cannot be found: the host name 'nowhere.invalid' does not resolve.")


async def test_a_caller_is_told_when_its_request_leaves(client: HttpClient) -> None:
    """Once the connection is open, before the answer; a request that never left was never announced."""
    events: list[str] = []
    # Without an open connection that a thread of the server would still answer.
    ends = {"Connection": "close"}
    with serving({"/": lambda body: (200, events.append(body.decode()), ends)}) as url:
        await client.request("POST", url, "/", timeout_s=5, body=b"{}", on_sent=lambda: events.append("sent"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(TransientError):
        await client.request("POST", closed, "/", timeout_s=5, body=b"{}", on_sent=lambda: events.append("sent"))
    assert events == ["sent", "{}"]


PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def patient_call(client: HttpClient, steps: list[float | bytes], silence_s: float) -> bytes:
    """Return the answer of a server that sends these bytes, and waits these seconds between them."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await asyncio.wait({gone}, timeout=step)

    gone = asyncio.ensure_future(asyncio.Event().wait())
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        answered = client.request(
            "POST", url, "/", timeout_s=None, silence_s=silence_s, headers={"ingest-flow": "job-1"}, body=b"{}"
        )
        async with asyncio.timeout(10):
            content = (await answered).content
        assert b"ingest-flow: job-1" in heads[0].lower()
        return content
    finally:
        gone.cancel()
        server.close()


async def test_a_request_may_take_long_while_its_server_proves_that_it_is_at_work(client: HttpClient) -> None:
    """Interim responses end a silence; the final response may come long after the first of them."""
    assert await patient_call(client, [0.3, PROCESSING, 0.3, PROCESSING, 0.3, ANSWER], silence_s=0.45) == b"{}"


@pytest.mark.parametrize("steps", [[], [PROCESSING], [PROCESSING, 0.1, PROCESSING], [ANSWER[:-1]]])
async def test_a_server_that_falls_silent_is_unavailable(client: HttpClient, steps: list[float | bytes]) -> None:
    """Also after an interim response, after which aiohttp alone would wait forever, and in the middle of the body."""
    with pytest.raises(TransientError, match="did not respond in time"):
        await patient_call(client, [*steps, 20.0], silence_s=0.3)


async def test_the_time_out_is_for_the_whole_call(client: HttpClient) -> None:
    """A server that accepts the request and does not respond is unavailable; the error has its URL."""
    over = threading.Event()

    def wait(_: bytes) -> tuple[int, str]:
        over.wait(10)
        return 200, "late"

    with serving({"/slow": wait}) as url:
        with pytest.raises(TransientError, match=url) as late:
            await client.request("POST", url, "/slow", timeout_s=0.05)
        over.set()
    assert late.value.code == "qdrant_unavailable"


async def test_a_server_that_hangs_is_a_wait(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the time limit of the request, which is half a minute and more: its job would say nothing until then."""
    monkeypatch.setattr(waits, "SLOW_S", 0.01)
    shown: list[list[str]] = []

    def wait(_: bytes) -> tuple[int, str]:
        shown.append(wait_for(waits.current_waits, 10))
        return 200, "late"

    with serving({"/slow": wait}) as url:
        await client.request("POST", url, "/slow", timeout_s=20)
    assert shown == [[f"Qdrant at {url} has not responded for 0.01 s."]]
    assert waits.current_waits() == []


@pytest.mark.parametrize("url", ["", "q:6333", "ftp://q", "http://", "http://q:port", "http://[q"])
async def test_an_impossible_address_is_fatal(client: HttpClient, url: str) -> None:
    """A retry does not correct a setting."""
    with pytest.raises(FatalError) as wrong:
        await client.request("GET", url, "/", timeout_s=5)
    assert wrong.value.code == "qdrant_misconfigured"
    assert "INGEST_QDRANT__URL" in wrong.value.hint


async def test_the_certificate_of_an_address_has_the_name_that_led_to_it(tmp_path: Path) -> None:
    """A name that was resolved to addresses stays the server's name, for its certificate too."""
    authority = PrivateAuthority(tmp_path)
    client = HttpClient("ollama", connect_timeout_s=5.0, ca_file=authority.file)
    with serving({"/": lambda _: (200, {})}, tls=authority.context(Fault.OTHER_HOST)) as url:
        with pytest.raises(TlsFailed, match="is for another host"):
            await client.request("GET", url, "/", timeout_s=5.0)
        answer = await client.request("GET", url, "/", timeout_s=5.0, server_name="elsewhere.example")
    assert answer.status_code == 200
    await client.close()


async def test_an_impossible_header_is_fatal() -> None:
    """An API key with a line feed, as from a careless copy."""
    client = HttpClient("qdrant", connect_timeout_s=5, headers={"api-key": "secret\n"})
    with serving({"/": lambda _: (200, {})}) as url, pytest.raises(FatalError) as wrong:
        await client.request("GET", url, "/", timeout_s=5)
    await client.close()
    assert wrong.value.code == "qdrant_misconfigured"
    assert "secret" not in wrong.value.message


async def test_the_proxy_of_the_environment_is_used(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is not used for servers in ``NO_PROXY``."""
    with serving({"http://far.example/x": lambda _: (200, "by proxy"), "/x": lambda _: (200, "direct")}) as url:
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        _find_route.cache_clear()
        far = await client.request("GET", "http://far.example", "/x", timeout_s=5)
        near = await client.request("GET", url, "/x", timeout_s=5)
    _find_route.cache_clear()
    assert (far.text, near.text) == ('"by proxy"', '"direct"')


def test_s3_that_refuses_connections_is_named_like_every_other_server() -> None:
    """The message is the note of a paused job; which of a hundred requests met the outage says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = S3Settings(endpoint_url=url, access_key_id=SecretStr("k"), secret_access_key=SecretStr("s"))
    with pytest.raises(TransientError) as refused, s3_errors(Place("docs", "a/b.txt")):
        make_client(settings, attempts=1).get_object(Bucket="docs", Key="a/b.txt")
    assert refused.value.message == f"S3 at {url} refuses connections."
    assert refused.value.context["key"] == "a/b.txt"
