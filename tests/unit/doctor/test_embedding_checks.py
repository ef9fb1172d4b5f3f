"""The embedder's checks, each kind of broken server in turn: the line that helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.doctor.context import Role
from ingestion_engine.doctor.findings import State
from ingestion_engine.runtime.settings import Settings
from support.answering import Answers, serving
from support.authority import Fault, PrivateAuthority
from support.doctoring import diagnose, worst
from support.servers import free_port

DIGEST, OTHER = "a" * 64, "b" * 64
VECTOR = [0.6, 0.8]


def answers(digest: str = DIGEST, model: str = "all-minilm:latest", **changes: Any) -> Answers:
    """An Ollama server, or a gateway before one."""
    shown = {"model_info": {"bert.embedding_length": 2, "bert.context_length": 256}, "capabilities": ["embedding"]}
    given: dict[str, Any] = {
        "/api/version": lambda _: (200, {"version": "0.33.0"}),
        "/api/tags": lambda _: (200, {"models": [{"name": model, "model": model, "digest": digest}]}),
        "/api/show": lambda _: (200, shown),
        "/api/embed": lambda _: (200, {"model": model, "embeddings": [VECTOR]}),
        "*": lambda _: (404, b"404 page not found"),
    }
    return {**given, **changes}


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_servers_that_agree_are_good(servers: ExitStack) -> None:
    """Version, digest, dimension, context and a vector of each server."""
    urls = [servers.enter_context(serving(answers())) for _ in range(2)]
    found = await diagnose(Settings(ollama={"urls": urls}), "ollama")
    assert [(one.state, one.target) for one in found] == [(State.OK, url) for url in urls]
    assert found[0].facts["dimension"] == 2
    assert found[0].detail.startswith("version 0.33.0, all-minilm@aaaaaaaaaaaa, 2 dimensions, context of 256 tokens")


BROKEN = [
    pytest.param(
        {"/api/tags": lambda _: (200, {"models": []})}, "model_not_found", "Run `ollama pull all-minilm`", id="no model"
    ),
    pytest.param(
        {"/api/show": lambda _: (200, {"model_info": {"llama.block_count": 32}, "capabilities": ["completion"]})},
        "model_not_embedding",
        "Choose an embedding model.",
        id="a model that generates text",
    ),
    pytest.param(
        {"/api/embed": lambda _: (500, {"error": "model runner has unexpectedly stopped"})},
        "ollama_unavailable",
        "Check this server's log.",
        id="no vector",
    ),
    pytest.param(
        {"/api/embed": lambda _: (200, {"embeddings": [[0.6, 0.8, 0.0]]})},
        "model_digest_differs",
        "Run `ollama pull all-minilm`",
        id="another dimension",
    ),
    pytest.param(
        {"/api/tags": lambda _: (200, b"<html>Welcome</html>")},
        "ollama_answer_invalid",
        "Start `ollama serve` there, or correct INGEST_OLLAMA__URLS.",
        id="another server",
    ),
    pytest.param(
        {"/api/tags": lambda _: (401, b"Unauthorized")},
        "embedder_access_denied",
        "Start `ollama serve` there, or correct INGEST_OLLAMA__URLS.",
        id="a proxy with a password",
    ),
]


@pytest.mark.parametrize(("changes", "code", "hint"), BROKEN)
async def test_one_broken_server_among_good_ones(
    servers: ExitStack, changes: dict[str, Any], code: str, hint: str
) -> None:
    """It fails alone and names itself."""
    good = servers.enter_context(serving(answers()))
    bad = servers.enter_context(serving(answers(**changes)))
    first, second = await diagnose(Settings(ollama={"urls": [good, bad]}), "ollama")
    assert first.state is State.OK
    assert (second.state, second.target, second.code) == (State.FAILED, bad, code)
    assert second.hint.startswith(hint)


async def test_the_server_with_another_digest_is_named(servers: ExitStack) -> None:
    """The one that differs from most servers, wherever it is in the list."""
    urls = [servers.enter_context(serving(answers(digest))) for digest in (OTHER, DIGEST, DIGEST)]
    found = await diagnose(Settings(ollama={"urls": urls}), "ollama")
    assert [one.state for one in found] == [State.FAILED, State.OK, State.OK]
    assert found[0].code == "model_digest_differs"
    assert found[0].hint == "Run `ollama pull all-minilm` on this server, or on all others."


async def test_a_stopped_server_and_an_unknown_name(servers: ExitStack) -> None:
    """Both are results, beside the server that works."""
    good = servers.enter_context(serving(answers()))
    urls = [good, f"http://127.0.0.1:{free_port()}", "dns+http://no-such-host.invalid:11434"]
    found = await diagnose(Settings(ollama={"urls": urls}), "ollama")
    assert sorted(one.detail for one in found if one.state is State.FAILED) == [
        f"Ollama at {urls[1]} refuses connections.",
        "The host name in 'http://no-such-host.invalid:11434' does not resolve.",
    ]
    assert {one.hint for one in found} == {"", "Start `ollama serve` there, or correct INGEST_OLLAMA__URLS."}


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_certificate_that_is_not_accepted(servers: ExitStack, tmp_path: Path, fault: Fault) -> None:
    """The hint is about the certificate, not about the server."""
    authority = PrivateAuthority(tmp_path)
    url = servers.enter_context(serving(answers(), authority.context(fault)))
    settings = Settings(ollama={"urls": [url]}, tls={"ca_file": authority.file})
    (found,) = await diagnose(settings, "ollama")
    assert (found.state, found.code) == (State.FAILED, "tls_failed")
    assert fault.value in found.detail
    assert "INGEST_TLS__CA_FILE" in found.hint


def gateway(**changes: Any) -> Answers:
    listed = {"servers": [{"url": "http://ollama-1:11434"}, {"url": "http://ollama-2:11434"}]}
    return answers(**{"/gateway/servers": lambda _: (200, listed), **changes})


async def test_a_gateway_is_tried_in_place_of_its_servers(servers: ExitStack) -> None:
    """The service and workers reach only the gateway; the gateway itself reaches the servers."""
    url, server = servers.enter_context(serving(gateway())), servers.enter_context(serving(answers()))
    settings = Settings(gateway={"url": [url]}, ollama={"urls": [server]})
    skipped, through = await diagnose(settings, "ollama", "gateway")
    assert (skipped.state, through.state) == (State.SKIPPED, State.OK)
    assert through.facts["servers"] == ["http://ollama-1:11434", "http://ollama-2:11434"]
    direct, through = await diagnose(settings, "ollama", "gateway", role=Role.GATEWAY)
    assert (direct.target, direct.state, through.state) == (server, State.OK, State.OK)


@pytest.mark.parametrize("path", ["/api/tags", "/api/embed"])
async def test_a_gateway_whose_servers_do_not_answer(servers: ExitStack, path: str) -> None:
    """It runs, so there is nothing to start: the fault is behind it."""
    broken = {path: lambda _: (503, {"error": "No Ollama server is available."})}
    url = servers.enter_context(serving(gateway(**broken)))
    found = worst(await diagnose(Settings(gateway={"url": [url]}), "gateway"))
    assert found.state is State.FAILED
    assert found.hint.startswith("Run `ingest doctor --role gateway` where the gateway runs")


async def test_an_address_that_is_no_gateway(servers: ExitStack) -> None:
    """A plain Ollama server embeds too, but nothing would share it fairly."""
    url = servers.enter_context(serving(answers()))
    found = worst(await diagnose(Settings(gateway={"url": [url]}), "gateway"))
    assert (found.state, found.hint) == (State.FAILED, "Start `ingest gateway` there, or correct INGEST_GATEWAY__URL.")
