"""The suite of the Embedder port over Ollama's API: a stand-in, and small servers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from aiohttp import web

from ingestion_engine.adapters.ollama.embedder import OllamaEmbedder
from ingestion_engine.adapters.ollama.responses import canonical_name, read_vectors, translate_response
from ingestion_engine.domain.errors import FatalError, RequestFailed, TextRefused, TextTooLong, TransientError
from ingestion_engine.domain.ports import EMBED_TRIES
from ingestion_engine.runtime.limiter import TokenBucket
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from support.answering import Answers, serving
from support.servers import RunningServer

MODEL = "hash-384"
QUICK = RetryPolicy(first_s=0.02, longest_s=0.1, deadline_s=5.0)
SHORT = RetryPolicy(first_s=0.01, longest_s=0.02, deadline_s=0.15)


@pytest.fixture
async def embedder(ollama_server: RunningServer) -> AsyncIterator[OllamaEmbedder]:
    arm(ollama_server)
    embedder = OllamaEmbedder([ollama_server.url], in_flight=4, retry=QUICK, describe_retry=SHORT)
    yield embedder
    await embedder.close()
    arm(ollama_server)


def arm(server: RunningServer, **fault: Any) -> None:
    httpx.post(f"{server.url}/_faults", json=fault).raise_for_status()


def stats(server: RunningServer) -> dict[str, Any]:
    return dict(httpx.get(f"{server.url}/_stats").json())


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class TestVectors:
    """Vectors returned for texts."""

    async def test_order_is_kept(self, embedder: OllamaEmbedder) -> None:
        """Row i belongs to text i, whatever the batch."""
        texts = [f"text {number}" for number in range(50)]
        together = await embedder.embed(MODEL, texts)
        assert (together.shape, together.dtype) == ((50, 384), np.float32)
        for number in (0, 17, 49):
            alone = await embedder.embed(MODEL, [texts[number]])
            assert np.array_equal(alone[0], together[number])
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)

    async def test_no_texts_no_request(self, embedder: OllamaEmbedder) -> None:
        """An empty batch sends no request."""
        assert (await embedder.embed(MODEL, [])).shape[0] == 0
        assert embedder.calls == 0

    async def test_the_real_model(self, embedder: OllamaEmbedder) -> None:
        """Similar texts are nearer than different ones."""
        cat, kitten, tax = await embedder.embed("all-minilm", ["a cat sleeps", "a kitten naps", "tax law of 1987"])
        assert cat @ kitten > cat @ tax + 0.2

    async def test_calls_count_responses_with_vectors(
        self, embedder: OllamaEmbedder, ollama_server: RunningServer
    ) -> None:
        """One per batch with vectors; refusals and retries are not counted."""
        arm(ollama_server, status=503, body={"error": "server busy"}, count=2)
        await embedder.embed(MODEL, ["a", "b"])
        with pytest.raises(TextRefused):
            await embedder.embed(MODEL, ["x" * 9000])
        await embedder.embed(MODEL, ["c"])
        assert embedder.calls == 2

    async def test_requests_in_flight_are_bounded(self, ollama_server: RunningServer) -> None:
        """Twenty callers, two requests at once."""
        seen = {"now": 0, "most": 0}

        async def slow(_: bytes) -> tuple[int, Any]:
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
            await asyncio.sleep(0.01)
            seen["now"] -= 1
            return 200, {"embeddings": [[1.0, 0.0]]}

        with serving({"/api/embed": lambda body: asyncio.run(slow(body))}) as url:
            embedder = OllamaEmbedder([url], in_flight=2)
            await asyncio.gather(*(embedder.embed("m", ["t"]) for _ in range(20)))
            await embedder.close()
        assert (seen["most"], embedder.calls) == (2, 20)

    async def test_nothing_is_truncated_and_options_are_constant(self) -> None:
        """Every request has truncate:false and the same options."""
        bodies: list[dict[str, Any]] = []

        def record(body: bytes) -> tuple[int, Any]:
            bodies.append(orjson.loads(body))
            return 200, {"embeddings": [[0.6, 0.8]] * len(bodies[-1]["input"])}

        with serving({"/api/embed": record}) as url:
            embedder = OllamaEmbedder([url], in_flight=1)
            await embedder.embed("m", ["one"])
            await embedder.embed("m", ["two", "three"])
            await embedder.close()
        assert [body["truncate"] for body in bodies] == [False, False]
        assert len({orjson.dumps(body.get("options")) for body in bodies}) == 1
        assert [body["input"] for body in bodies] == [["one"], ["two", "three"]]


class TestRefusals:
    """Permanent errors."""

    async def test_too_long(self, embedder: OllamaEmbedder) -> None:
        """A text beyond the context length has its own class, because the chunk can be cut."""
        with pytest.raises(TextTooLong) as refused:
            await embedder.embed(MODEL, ["fine", "x" * 9000])
        assert refused.value.code == "text_too_long"

    async def test_not_a_number(self, embedder: OllamaEmbedder) -> None:
        """The server reports it."""
        with pytest.raises(TextRefused) as refused:
            await embedder.embed(MODEL, ["fine", "bad \x00NaN text"])
        assert refused.value.code == "embedding_nan"

    async def test_unknown_model(self, embedder: OllamaEmbedder, ollama_server: RunningServer) -> None:
        """Both calls are fatal, name the server and the command to run, and are not retried."""
        before = stats(ollama_server)["embed_requests"]
        with pytest.raises(FatalError) as embedding:
            await embedder.embed("nope", ["x"])
        with pytest.raises(FatalError) as describing:
            await embedder.describe("nope")
        assert {embedding.value.code, describing.value.code} == {"model_not_found"}
        assert "ollama pull nope" in embedding.value.hint
        assert stats(ollama_server)["embed_requests"] == before + 1

    @pytest.mark.parametrize(
        ("status", "text", "code"),
        [
            (400, "the input length exceeds the context length", "text_too_long"),
            (400, "input after truncation exceeds maximum context length", "text_too_long"),
            (400, "embedding contains NaN or Inf values", "embedding_nan"),
            (500, "json: unsupported value: NaN", "embedding_nan"),
            (400, "invalid input type", "embedding_refused"),
            (400, "missing request body", "embedding_refused"),
        ],
    )
    def test_permanent_texts(self, status: int, text: str, code: str) -> None:
        """Exactly these texts of Ollama's source are permanent."""
        error = translate_response(httpx.Response(status, json={"error": text}), "http://o", "m")
        kind = TextTooLong if code == "text_too_long" else TextRefused
        assert (type(error), error.code) == (kind, code)

    @pytest.mark.parametrize(
        ("status", "text"),
        [
            (400, 'do embedding request: Post "http://127.0.0.1:1/embedding": EOF'),
            (400, "error reading embed response: unexpected EOF"),
            (400, "unexpected server status: llm server loading model"),
            (400, "something nobody has seen"),
            (404, "404 page not found"),
            (408, "timeout"),
            (429, "slow down"),
            (499, "request canceled"),
            (500, "model runner has unexpectedly stopped"),
            (502, "<html>bad gateway</html>"),
            (503, "server busy, please try again.  maximum pending requests exceeded"),
        ],
    )
    def test_transient_texts(self, status: int, text: str) -> None:
        """A dead runner responds 400 too: errors not known to be permanent are transient."""
        assert type(translate_response(httpx.Response(status, json={"error": text}), "http://o", "m")) is TransientError

    def test_access_denied_is_fatal(self) -> None:
        """A proxy before Ollama may require authentication."""
        for status in (401, 403):
            error = translate_response(httpx.Response(status, text="no"), "http://o", "m")
            assert (type(error), error.code) == (FatalError, "embedder_access_denied")

    def test_retry_after_is_kept(self) -> None:
        """A proxy states it in seconds."""
        answer = httpx.Response(503, text="busy", headers={"retry-after": "7"})
        assert translate_response(answer, "http://o", "m").context["retry_after_s"] == 7


class TestOutages:
    """Transient errors."""

    @pytest.mark.parametrize("status", [500, 503, 400])
    async def test_failures_are_retried(
        self, embedder: OllamaEmbedder, ollama_server: RunningServer, status: int
    ) -> None:
        """Three failures, then vectors, in one call."""
        arm(ollama_server, status=status, body={"error": "unexpected server status"}, count=3)
        before = stats(ollama_server)["embed_requests"]
        assert (await embedder.embed(MODEL, ["x"])).shape == (1, 384)
        assert stats(ollama_server)["embed_requests"] == before + 4

    async def test_a_runner_that_dies_blames_no_text(
        self, ollama_server: RunningServer, embedder: OllamaEmbedder
    ) -> None:
        """Its 400 is repeated, and the reloaded model gives the same vectors."""
        before = await embedder.embed("hash-384", ["a", "b"])
        arm(ollama_server, kills_runner=True, count=2)
        assert np.array_equal(await embedder.embed("hash-384", ["a", "b"]), before)

    async def test_the_deadline_ends_the_retries(self, ollama_server: RunningServer) -> None:
        """The error then contains the server's text."""
        embedder = OllamaEmbedder([ollama_server.url], in_flight=1, retry=SHORT)
        arm(ollama_server, status=503, body={"error": "server busy"})
        with pytest.raises(TransientError, match="server busy"):
            await embedder.embed(MODEL, ["x"])
        await embedder.close()
        arm(ollama_server)

    async def test_refused_connections(self) -> None:
        """A refused connection is an outage for both calls."""
        embedder = OllamaEmbedder([dead_url()], in_flight=1, retry=SHORT, describe_retry=SHORT)
        with pytest.raises(TransientError):
            await embedder.embed(MODEL, ["x"])
        with pytest.raises(TransientError):
            await embedder.describe(MODEL)
        await embedder.close()

    async def test_a_dead_server_of_the_pool_is_avoided(self, ollama_server: RunningServer) -> None:
        """The other server is used; after one failure the dead one is avoided."""
        dead = dead_url()
        embedder = OllamaEmbedder([dead, ollama_server.url], in_flight=1, retry=QUICK)
        for number in range(6):
            await embedder.embed(MODEL, [str(number)])
        assert [server.failures for server in embedder.pool.servers] == [1, 0]
        assert embedder.calls == 6
        await embedder.close()

    @pytest.mark.parametrize(
        "answer",
        [
            {"embeddings": [[1.0, 0.0], [1.0, 0.0]]},
            {"embeddings": [[]]},
            {"vectors": []},
            {"embeddings": [["a"]]},
            [],
        ],
    )
    async def test_invalid_responses_are_not_stored(self, answer: Any) -> None:
        """A response without one vector per text, all of one length, is an outage."""
        with serving({"/api/embed": lambda _: (200, answer)}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, retry=SHORT)
            with pytest.raises(TransientError) as broken:
                await embedder.embed("m", ["x"])
            await embedder.close()
        assert broken.value.code == "ollama_answer_invalid"

    def test_a_whole_number_beyond_64_bits_is_no_vector(self) -> None:
        """It is an outage as other invalid responses are."""
        with pytest.raises(TransientError) as broken:
            read_vectors(b'{"embeddings": [[123456789012345678901]]}', 1, url="http://a", model="m")
        assert broken.value.code == "ollama_answer_invalid"

    @pytest.mark.parametrize("tags", [{}, {"status": "ok"}, {"models": "x"}, {"models": [None]}, {"models": [{}]}])
    async def test_a_list_of_models_of_another_server_says_nothing_of_the_model(self, tags: Any) -> None:
        """A proxy's or another server's JSON with status 200 is an outage; it ends no job as ``model_not_found``."""
        with serving({"/api/tags": lambda _: (200, tags), "/api/show": lambda _: (200, tags)}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, describe_retry=SHORT)
            with pytest.raises(TransientError) as foreign:
                await embedder.describe("m")
            await embedder.close()
        assert foreign.value.code == "ollama_answer_invalid"

    @pytest.mark.parametrize("shown", [{}, {"message": "ok"}, {"model_info": "x"}])
    async def test_a_description_of_another_server_says_nothing_of_the_model(self, shown: Any) -> None:
        """It ends no job as ``model_not_embedding``."""
        tags = {"models": [{"name": "m:latest", "digest": "d" * 64}]}
        with serving({"/api/tags": lambda _: (200, tags), "/api/show": lambda _: (200, shown)}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, describe_retry=SHORT)
            with pytest.raises(TransientError) as foreign:
                await embedder.describe("m")
            await embedder.close()
        assert foreign.value.code == "ollama_answer_invalid"

    @pytest.mark.parametrize(
        ("vector", "code"),
        [([1e39, 0.0], "embedding_nan"), ([0.5, 0.5], "embedding_refused"), ([0, 0], "embedding_refused")],
    )
    async def test_vectors_are_finite_and_of_length_one(self, vector: list[float], code: str) -> None:
        """A text with a bad vector is refused, so that halving finds it."""
        with serving({"/api/embed": lambda _: (200, {"embeddings": [[1.0, 0.0], vector]})}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, retry=SHORT)
            with pytest.raises(TextRefused) as refused:
                await embedder.embed("m", ["x", "y"])
            await embedder.close()
        assert refused.value.code == code

    async def test_another_dimension_is_another_model(self, ollama_server: RunningServer) -> None:
        """It is detected without reading the digest again."""
        answers = iter([[1.0, 0.0], [1.0, 0.0, 0.0]])
        with serving({"/api/embed": lambda _: (200, {"embeddings": [next(answers)]})}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, retry=SHORT)
            await embedder.embed("m", ["x"])
            with pytest.raises(FatalError) as differs:
                await embedder.embed("m", ["y"])
            await embedder.close()
        assert differs.value.code == "model_digest_differs"


class TestFailedRequests:
    """Requests that servers receive and fail: their texts may be at fault."""

    @pytest.mark.parametrize(
        "failure",
        [
            (400, {"error": 'do embedding request: Post "http://127.0.0.1:1/embedding": EOF'}),
            (500, {"error": "model runner has unexpectedly stopped"}),
            (502, b"<html>bad gateway</html>"),
            (200, {"embeddings": [[]]}),
            (200, {"embeddings": [None]}),
            (200, {"embeddings": [[0.6, None]]}),
        ],
    )
    async def test_a_request_is_given_up_after_four_failures(self, failure: tuple[Any, ...]) -> None:
        """At different servers while there are some that have not failed it; other requests are served."""
        failed: list[int] = []

        def answers(number: int) -> Any:
            def embed(body: bytes) -> tuple[Any, ...]:
                if b"poison" not in body:
                    return 200, {"embeddings": [[1.0, 0.0]]}
                failed.append(number)
                return failure

            return {"/api/embed": embed, "/api/tags": lambda _: (200, TAGS)}

        with serving(answers(0)) as first, serving(answers(1)) as second, serving(answers(2)) as third:
            embedder = OllamaEmbedder([first, second, third], in_flight=1, retry=QUICK)
            for tries in (EMBED_TRIES, 1):
                with pytest.raises(RequestFailed):
                    await embedder.embed("m", ["poison"], tries=tries)
                assert (await embedder.embed("m", ["text"])).shape == (1, 2)
            await embedder.close()
        assert len(failed) == EMBED_TRIES + 1
        assert set(failed[:3]) == {0, 1, 2}

    async def test_a_server_that_dies_under_a_request_fails_it(self) -> None:
        """One that refuses connections, or has no room, does not."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = await asyncio.start_server(lambda _, writer: writer.close(), sock=listener)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            embedder = OllamaEmbedder([url], in_flight=1, retry=QUICK)
            with pytest.raises(RequestFailed):
                await embedder.embed("m", ["x"])
            server.close()
            await embedder.close()
        for url, answer in ((dead_url(), None), (None, (503, {"error": "server busy"}))):
            with contextlib.ExitStack() as stack:
                at = url or stack.enter_context(serving({"/api/embed": lambda _, answer=answer: answer}))
                embedder = OllamaEmbedder([at], in_flight=1, retry=SHORT)
                with pytest.raises(TransientError) as outage:
                    await embedder.embed("m", ["x"])
                await embedder.close()
                assert type(outage.value) is TransientError


TAGS = {"models": [{"name": "m:latest", "model": "m:latest", "digest": "d" * 64}]}


class TestServers:
    """Which servers get requests, and when."""

    async def test_a_pause_that_a_proxy_asks_for(self) -> None:
        """The next request comes after it, although the retry policy would come sooner."""
        times: list[float] = []

        def answer(_: bytes) -> tuple[Any, ...]:
            times.append(time.monotonic())
            if len(times) == 1:
                return 503, {"error": "server busy"}, {"Retry-After": "1"}
            return 200, {"embeddings": [[1.0, 0.0]]}

        with serving({"/api/embed": answer}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, retry=QUICK)
            await embedder.embed("m", ["x"])
            await embedder.close()
        assert times[1] - times[0] >= 1.0

    async def test_a_server_that_comes_back_with_another_digest_gets_no_request(self) -> None:
        """Its models are read before the request that would try it again: no vector of another model is stored."""
        asked: list[str] = []

        def embed(_: bytes) -> tuple[Any, ...]:
            asked.append("embed")
            return (200, {"embeddings": [[1.0, 0.0]]}) if len(asked) != 2 else (500, {"error": "runner stopped"})

        def tags(_: bytes) -> tuple[Any, ...]:
            digest = "a" * 64 if len(asked) < 2 else "b" * 64
            return 200, {"models": [{"name": "m:latest", "digest": digest}]}

        with serving({"/api/embed": embed, "/api/tags": tags}) as url:
            embedder = OllamaEmbedder([url], in_flight=1, retry=QUICK)
            await embedder.embed("m", ["x"], digest="a" * 64)
            with pytest.raises(FatalError) as differs:
                await embedder.embed("m", ["y"], digest="a" * 64)
            await embedder.close()
        assert (differs.value.code, len(asked)) == ("model_digest_differs", 2)

    async def test_every_address_of_a_name(self) -> None:
        """A name is resolved, and its addresses are asked as it: a proxy there may serve several names."""
        hosts: list[str] = []

        async def answer(request: web.BaseRequest) -> web.Response:
            hosts.append(request.headers["Host"])
            return web.json_response({"embeddings": [[1.0, 0.0]]})

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        embedder = OllamaEmbedder([f"dns+http://localhost:{port}"], in_flight=1, retry=QUICK)
        await embedder.embed("m", ["x"])
        assert [server.address.server_name for server in embedder.pool.servers if server.done] == ["localhost"]
        assert set(hosts) == {f"localhost:{port}"}
        await embedder.close()
        await runner.cleanup()


class TestDescribe:
    """Facts about a model, read before a job starts."""

    async def test_sizes_and_digest(self, embedder: OllamaEmbedder) -> None:
        """num_ctx of the parameters limits the context; the tag `latest` may be omitted."""
        info = await embedder.describe("all-minilm")
        assert (info.dimension, info.context_length, len(info.digest)) == (384, 256, 64)
        assert (await embedder.describe("all-minilm:latest")).digest == info.digest
        other = await embedder.describe("hash-768")
        assert (other.dimension, other.digest) == (768, hashlib.sha256(b"hash-768:latest").hexdigest())

    async def test_a_server_that_differs_is_not_used(self, ollama_server: RunningServer) -> None:
        """Two servers with another build of a model under one name: of as many, that of the first configured counts."""
        with serving(_catalog("hash-384:latest", "f" * 64, 384)) as url:
            embedder = OllamaEmbedder([ollama_server.url, url], in_flight=1, describe_retry=SHORT)
            info = await embedder.describe("hash-384")
            for number in range(4):
                await embedder.embed("hash-384", [str(number)])
            assert embedder.pool.find_differing("hash-384") == {url: "f" * 64}
            assert [server.done for server in embedder.pool.servers] == [4, 0]
            wanted = await embedder.describe("hash-384", digest="f" * 64)
            await embedder.close()
        assert info.digest == hashlib.sha256(b"hash-384:latest").hexdigest()
        assert wanted.digest == "f" * 64

    async def test_an_unavailable_server_is_ignored(self, ollama_server: RunningServer) -> None:
        """The available servers agree; the unavailable one does not delay the result for long."""
        embedder = OllamaEmbedder([dead_url(), ollama_server.url], in_flight=1, describe_retry=SHORT)
        assert (await embedder.describe(MODEL)).dimension == 384
        await embedder.close()

    async def test_a_server_without_the_model_is_not_used(self, ollama_server: RunningServer) -> None:
        """Every request to it would fail."""
        with serving(_catalog("other:latest", "f" * 64, 384)) as url:
            embedder = OllamaEmbedder([ollama_server.url, url], in_flight=1, describe_retry=SHORT)
            assert (await embedder.describe("hash-384")).dimension == 384
            for number in range(4):
                await embedder.embed("hash-384", [str(number)])
            assert [server.done for server in embedder.pool.servers] == [4, 0]
            await embedder.close()

    async def test_a_model_that_no_server_has_is_fatal(self) -> None:
        """It names one of the servers that lack it."""
        with serving(_catalog("other:latest", "f" * 64, 384)) as url:
            embedder = OllamaEmbedder([url], in_flight=1, describe_retry=SHORT)
            with pytest.raises(FatalError) as missing:
                await embedder.describe("hash-384")
            await embedder.close()
        assert (missing.value.code, missing.value.context["url"]) == ("model_not_found", url)

    async def test_a_chat_model_is_refused(self) -> None:
        """It has no embedding capability."""
        with serving(_catalog("chat:latest", "f" * 64, 384, capabilities=["completion"])) as url:
            embedder = OllamaEmbedder([url], in_flight=1, describe_retry=SHORT)
            with pytest.raises(FatalError) as refused:
                await embedder.describe("chat")
            await embedder.close()
        assert refused.value.code == "model_not_embedding"

    @pytest.mark.parametrize(
        "name", ["all-minilm", "All-MiniLM:latest", "library/all-minilm", " registry.ollama.ai/library/all-minilm "]
    )
    def test_spellings_of_one_name(self, name: str) -> None:
        """Case, default tag, namespace and host do not matter."""
        assert canonical_name(name) == "all-minilm:latest"

    def test_names_that_differ(self) -> None:
        """A host with a port is not a tag."""
        assert canonical_name("host:5000/me/model") == "host:5000/me/model:latest"
        assert canonical_name("model:22m") == "model:22m"


class TestTokenizer:
    """The server's own tokenizer, for a worker that cuts chunks by it."""

    async def test_a_text_that_just_fits_is_embedded_and_one_token_more_is_refused(
        self, embedder: OllamaEmbedder
    ) -> None:
        """What is counted is what the server counts, in any script."""
        info = await embedder.describe("all-minilm")
        count = await embedder.load_tokenizer(info)
        assert count is not None
        assert info.context_length is not None
        for unit in ("sky ", "Überprüfung ", "안녕하세요 ", "हिन्दी ", "QUJDRA== ", "東"):
            number = next(n for n in range(1, 300) if count(unit * (n + 1)) > info.context_length)
            assert (await embedder.embed("all-minilm", [unit * number])).shape == (1, 384)
            with pytest.raises(TextTooLong):
                await embedder.embed("all-minilm", [unit * (number + 1)])

    async def test_a_model_with_other_tokens_has_no_counter(self, embedder: OllamaEmbedder) -> None:
        """Its chunks are estimated."""
        assert await embedder.load_tokenizer(await embedder.describe("hash-384")) is None

    @pytest.mark.parametrize(
        ("shown", "kind", "is_counted"),
        [
            ({"tokenizer.ggml.model": "bert"}, "bert", True),
            ({"tokenizer.ggml.model": "bert", "tokenizer.ggml.normalizer.lowercase": True}, "bert", True),
            ({"tokenizer.ggml.model": "bert", "tokenizer.ggml.normalizer.lowercase": False}, None, False),
            ({"tokenizer.ggml.model": "t5"}, "t5", False),
            ({}, None, False),
        ],
    )
    async def test_the_description_decides(self, shown: dict[str, Any], kind: str | None, is_counted: bool) -> None:
        """Only word pieces of lower-cased text are counted, and the vocabulary is read once for a digest."""
        digest = hashlib.sha256(repr(shown).encode()).hexdigest()
        asked: list[bool] = []

        def show(body: bytes) -> tuple[int, Any]:
            asked.append(orjson.loads(body).get("verbose", False))
            pieces = ["[UNK]", "\u2581a", "b"] if asked[-1] else None
            info = {"bert.embedding_length": 8, "bert.context_length": 512, **shown, "tokenizer.ggml.tokens": pieces}
            return 200, {"model_info": info, "capabilities": ["embedding"]}

        catalog = _catalog("m:latest", digest, 8) | {"/api/show": show}
        with serving(catalog) as url:
            embedder = OllamaEmbedder([url], in_flight=1, describe_retry=SHORT)
            info = await embedder.describe("m")
            counters = [await embedder.load_tokenizer(info) for _ in range(2)]
            await embedder.close()
        assert info.tokenizer == kind
        assert [counter and counter("ab B x") for counter in counters] == [2 + 4 if is_counted else None] * 2
        assert asked == [False, True] if is_counted else [False]

    async def test_a_server_that_shows_no_vocabulary_leaves_it_to_the_estimate(self) -> None:
        """A release that does not know ``verbose`` answers without it."""
        info = {"bert.embedding_length": 8, "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": None}
        shown = {"model_info": info, "capabilities": ["embedding"]}
        catalog = _catalog("m:latest", "e" * 64, 8) | {"/api/show": lambda _: (200, shown)}
        with serving(catalog) as url:
            embedder = OllamaEmbedder([url], in_flight=1, describe_retry=SHORT)
            assert await embedder.load_tokenizer(await embedder.describe("m")) is None
            await embedder.close()


class Clock:
    """A clock that advances only with sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class TestRetriesAndRates:
    """Retries and rates, with an injected clock."""

    async def test_rate_is_kept(self) -> None:
        """One second's texts immediately, then ten texts per second."""
        clock = Clock()
        bucket = TokenBucket(10, clock=clock, sleep=clock.sleep)
        times = []
        for _ in range(7):
            await bucket.take(5)
            times.append(round(clock.now - 100, 6))
        assert times == [0, 0, 0.5, 1, 1.5, 2, 2.5]
        clock.now += 60
        await bucket.take(40)
        assert round(clock.now - 162.5, 6) == 3

    async def test_retries_end_at_the_deadline(self) -> None:
        """Pauses grow, are spread over half their step, and the last error is raised."""
        clock = Clock()
        tries: list[float] = []

        async def fail() -> None:
            tries.append(clock.now)
            raise TransientError("x", f"try {len(tries)}")

        policy = RetryPolicy(first_s=1, longest_s=4, deadline_s=20)
        with pytest.raises(TransientError) as last:
            await retry_async(fail, TransientError, policy, sleep=clock.sleep, clock=clock)
        pauses = [after - before for before, after in itertools.pairwise(tries)]
        assert last.value.message == f"try {len(tries)}"
        assert clock.now <= 120
        assert all(step / 2 <= pause <= step for pause, step in zip(pauses, [1, 2, 4, 4, 4, 4, 4, 4, 4], strict=False))
        assert len(pauses) >= 5

    async def test_other_errors_are_not_retried(self) -> None:
        """Only transient errors are retried."""
        tries = []

        async def fail() -> None:
            tries.append(1)
            raise FatalError("x", "no")

        with pytest.raises(FatalError):
            await retry_async(fail, TransientError, QUICK)
        assert len(tries) == 1


def _catalog(name: str, digest: str, dimension: int, capabilities: list[str] | None = None) -> Answers:
    def show(body: bytes) -> tuple[int, Any]:
        if canonical_name(orjson.loads(body)["model"]) != name:
            return 404, {"error": "model 'x' not found"}
        info = {"general.architecture": "bert", "bert.embedding_length": dimension}
        return 200, {"model_info": info, "capabilities": capabilities or ["embedding"]}

    return {"/api/tags": lambda _: (200, {"models": [{"name": name, "digest": digest}]}), "/api/show": show}
