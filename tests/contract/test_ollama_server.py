"""Ollama's API as the engine uses it: the embedded stand-in, or the real server named first in INGEST_OLLAMA__URLS."""

import base64
import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from ingestion_engine.adapters.ollama.word_pieces import WordPieces
from support.waiting import wait_for

MODEL = "all-minilm"
DEADLINE_S = 20
TOO_LONG = "the input length exceeds the context length"


@contextmanager
def running(*flags: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "ingestion_devstack.ollama.server", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
                yield process, client
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def standin() -> Iterator[httpx.Client]:
    with running("--faults", "--test-models") as (_, client):
        yield client


@pytest.fixture
def drill(standin: httpx.Client) -> Iterator[httpx.Client]:
    standin.post("/_faults", json={})
    yield standin
    standin.post("/_faults", json={})


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    urls = os.environ.get("INGEST_OLLAMA__URLS", "")
    if not urls:
        yield request.getfixturevalue("standin")
        return
    with httpx.Client(base_url=urls.split(",")[0].strip(), timeout=120) as client:
        yield client


def post(client: httpx.Client, texts: object, model: str = MODEL, **fields: object) -> httpx.Response:
    return client.post("/api/embed", json={"model": model, "input": texts, **fields})


def embed(client: httpx.Client, texts: object, model: str = MODEL, **fields: object) -> np.ndarray:
    response = post(client, texts, model, **fields)
    assert response.status_code == 200, response.text
    return np.array(response.json()["embeddings"], dtype=np.float32)


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


class TestSurface:
    """What clients ask before they embed."""

    def test_root_says_that_it_runs(self, server: httpx.Client) -> None:
        """GET / is plain text, HEAD / is enough for a health check."""
        assert server.get("/").text == "Ollama is running"
        assert server.head("/").status_code == 200
        assert server.get("/api/version").json()["version"]

    def test_tags_carry_the_digest(self, server: httpx.Client) -> None:
        """The model is listed under its full name with 64 hex digits of digest."""
        models = {model["name"]: model for model in server.get("/api/tags").json()["models"]}
        entry = models[f"{MODEL}:latest"]
        assert len(entry["digest"]) == 64
        assert int(entry["digest"], 16)
        assert entry["size"] > 0
        assert entry["details"]["family"] == "bert"

    def test_show_names_the_lengths(self, server: httpx.Client) -> None:
        """Context and embedding length are under the architecture's name; num_ctx is a parameter."""
        shown = server.post("/api/show", json={"model": MODEL}).json()
        assert shown["model_info"]["bert.context_length"] == 512
        assert shown["model_info"]["bert.embedding_length"] == 384
        assert "embedding" in shown["capabilities"]
        assert shown["parameters"].split() == ["num_ctx", "256"]

    def test_only_a_verbose_show_has_the_vocabulary(self, server: httpx.Client) -> None:
        """By id, in the form of GGUF: a piece that begins a word has U+2581 in front. Otherwise arrays are null."""
        brief, full = (
            server.post("/api/show", json={"model": MODEL, "verbose": verbose}).json()["model_info"]
            for verbose in (False, True)
        )
        assert brief["tokenizer.ggml.tokens"] is None
        assert brief["tokenizer.ggml.model"] == full["tokenizer.ggml.model"] == "bert"
        tokens = full["tokenizer.ggml.tokens"]
        assert len(tokens) == 30522
        assert [tokens[number] for number in (0, 100, 101, 102, 999, 1996, 2075)] == [
            "[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581!", "\u2581the", "ing",
        ]  # fmt: skip

    def test_show_takes_the_former_field_name(self, server: httpx.Client) -> None:
        """``name`` is what old clients send."""
        assert server.post("/api/show", json={"name": MODEL}).json()["model_info"]["bert.embedding_length"] == 384

    def test_ps_lists_the_loaded_model_with_its_context(self, server: httpx.Client) -> None:
        """The context in use is num_ctx, not what the model was trained for."""
        embed(server, "x")
        loaded = {model["name"]: model for model in server.get("/api/ps").json()["models"]}
        tagged = {model["name"]: model for model in server.get("/api/tags").json()["models"]}
        entry = loaded[f"{MODEL}:latest"]
        assert entry["context_length"] == 256
        assert entry["digest"] == tagged[f"{MODEL}:latest"]["digest"]
        assert {"size_vram", "expires_at"} <= entry.keys()

    def test_show_refuses_what_is_not_there(self, server: httpx.Client) -> None:
        """A missing model is 404, a missing name 400."""
        assert error_of(server.post("/api/show", json={"model": "nope"})) == (404, "model 'nope:latest' not found")
        assert error_of(server.post("/api/show", json={})) == (400, "model is required")

    def test_unknown_path_and_method(self, server: httpx.Client) -> None:
        """Routes that do not exist are 404, other methods 405, in plain text; HEAD is served like GET."""
        assert (server.get("/api/nope").status_code, server.get("/api/nope").text) == (404, "404 page not found")
        assert (server.get("/api/embed").status_code, server.get("/api/embed").text) == (405, "405 method not allowed")
        assert server.post("/").status_code == server.post("/api/tags").status_code == 405
        assert server.head("/api/tags").status_code == server.head("/api/version").status_code == 200


class TestVectors:
    """What comes back for a text."""

    def test_answer_has_all_fields(self, server: httpx.Client) -> None:
        """Special tokens count: this question has six word pieces and two of them."""
        answer = post(server, "why is the sky blue?").json()
        assert answer["model"] == MODEL
        assert answer["prompt_eval_count"] == 8
        assert answer["total_duration"] >= answer["load_duration"] > 0
        assert np.array(answer["embeddings"]).shape == (1, 384)

    def test_long_answers_are_sent_in_chunks(self, server: httpx.Client) -> None:
        """Without a length in advance, as Go's server sends whatever exceeds its buffer; short ones have a length."""
        long, short = post(server, "x"), server.get("/api/version")
        assert (long.headers.get("transfer-encoding"), "content-length" in long.headers) == ("chunked", False)
        assert int(short.headers["content-length"]) == len(short.content)

    def test_vectors_have_length_one(self, server: httpx.Client) -> None:
        """All vectors are normalised, in the order of the texts."""
        vectors = embed(server, ["one", "two words", "three words here"])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.array_equal(vectors[1], embed(server, "two words")[0])

    def test_same_text_same_bits(self, server: httpx.Client) -> None:
        """A vector depends on its text alone: not on batch mates, their lengths, position or concurrency."""
        texts = ["short", "a sentence of middling length about storage", "long " * 120, "größer 漢字 🙂", ""]
        alone = [embed(server, [text])[0] for text in texts]
        assert np.array_equal(embed(server, texts), np.array(alone))
        assert np.array_equal(embed(server, texts[::-1] * 2), np.array(alone[::-1] * 2))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for vectors in pool.map(lambda _: embed(server, texts), range(4)):
                assert np.array_equal(vectors, np.array(alone))

    @pytest.mark.parametrize(
        ("text", "paraphrase", "unrelated"),
        [
            ("The cat sleeps on the sofa", "A feline is dozing on the couch", "Quantum physics is hard"),
            ("How do I reset my password?", "I forgot my login credentials", "The soup needs more salt"),
            ("Shares fell sharply on Monday", "The stock market dropped", "She plays the violin"),
        ],
    )
    def test_meaning(self, server: httpx.Client, text: str, paraphrase: str, unrelated: str) -> None:
        """A paraphrase is clearly nearer than a sentence about something else."""
        first, near, far = embed(server, [text, paraphrase, unrelated])
        assert first @ near > first @ far + 0.2

    def test_no_input_no_vectors(self, server: httpx.Client) -> None:
        """No text and one empty text are different things."""
        assert embed(server, []).size == 0
        assert embed(server, "").size == 0
        assert embed(server, None).size == 0
        assert embed(server, [""]).shape == (1, 384)


class TestContext:
    """What happens to long texts."""

    def test_limit_is_num_ctx_with_special_tokens(self, server: httpx.Client) -> None:
        """Without truncation 254 word pieces pass and 255 are refused."""
        assert embed(server, "sky " * 254, truncate=False).shape == (1, 384)
        assert error_of(post(server, "sky " * 255, truncate=False)) == (400, TOO_LONG)

    def test_one_long_text_refuses_all(self, server: httpx.Client) -> None:
        """A call is all or nothing."""
        assert error_of(post(server, ["fine", "sky " * 300], truncate=False)) == (400, TOO_LONG)

    def test_long_words_are_split(self, server: httpx.Client) -> None:
        """A word over 100 characters has many word pieces, as base64 and hashes without spaces have."""
        encoded = base64.b64encode(bytes(range(96))).decode()
        assert len(encoded) == 128
        tokens = post(server, encoded).json()["prompt_eval_count"]
        assert 80 <= tokens - 2 <= 105
        assert error_of(post(server, encoded * 4, truncate=False)) == (400, TOO_LONG)

    @pytest.mark.parametrize(
        ("text", "has_marks"),
        [
            ("Größe, naïve, Łódź and Đà Nẵng: 12.5 % (æ/œ).", False),
            ("def f(x): return [x**2 for _ in range(10)]  # 漢字 🙂", False),
            ("Привет, мир! 대한민국의 수도는 서울이다", False),
            ("भारत एक विशाल देश है जिसकी संस्कृति बहुत प्राचीन है", True),
            ("بِسْمِ اللَّهِ, בְּרֵאשִׁית, ประเทศไทยเป็นประเทศที่", True),
        ],
    )
    def test_the_vocabulary_tells_the_number_of_tokens(self, server: httpx.Client, text: str, has_marks: bool) -> None:
        """The product counts exactly, and never too few where runners of different age treat combining marks apart."""
        shown = server.post("/api/show", json={"model": MODEL, "verbose": True}).json()["model_info"]
        counted = WordPieces(shown["tokenizer.ggml.tokens"]).count_tokens(text)
        evaluated = post(server, [text]).json()["prompt_eval_count"]
        assert counted >= evaluated if has_marks else counted == evaluated

    def test_a_hangul_syllable_is_one_letter(self, server: httpx.Client) -> None:
        """Only the first letter of its decomposition counts, as for Latin letters with accents."""
        assert post(server, "안녕하세요 세계").json()["prompt_eval_count"] - 2 == 7
        assert post(server, "größer").json()["prompt_eval_count"] == post(server, "großer").json()["prompt_eval_count"]

    def test_truncation_is_the_default_and_real(self, server: httpx.Client) -> None:
        """What is over the limit has no influence on the vector."""
        cut = embed(server, ["sky " * 254 + "volcano " * 200, "sky " * 254])
        assert cut[0] @ cut[1] > 0.9999


class TestErrors:
    """Every error is a JSON object with one text."""

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "missing request body"),
            (b'{"model":"all-minilm","input":[1]}', "invalid input type"),
            (b'{"model":"all-minilm","input":{"a":1}}', "invalid input type"),
            (b'{"model":7}', "json: cannot unmarshal number into Go struct field EmbedRequest.model of type string"),
            (b"[]", "json: cannot unmarshal array into Go value of type api.EmbedRequest"),
        ],
    )
    def test_bad_bodies(self, server: httpx.Client, body: bytes, message: str) -> None:
        """What cannot be read is 400 with the real server's text."""
        assert error_of(server.post("/api/embed", content=body)) == (400, message)

    def test_missing_model(self, server: httpx.Client) -> None:
        """An unknown model is 404, named as in the request."""
        for name in ("nope:1b", "nope", "x.y", "h/n/nope"):
            expected = f'model "{name}" not found, try pulling it first'
            assert error_of(post(server, "x", name)) == (404, expected)
        assert error_of(post(server, "x", "")) == (404, "model '' not found")
        assert error_of(post(server, "x", " ")) == (404, "model ' ' not found")

    @pytest.mark.parametrize(
        "name", ["a b", "a/b/c/d", "nope:", ":x", "x:y:z", "-x", "n.m/x", "a//b", "x@sha256:ab", "ö"]
    )
    def test_impossible_names(self, server: httpx.Client, name: str) -> None:
        """A name that no model can have is 400."""
        assert error_of(post(server, "x", name)) == (400, "invalid model name")
        assert error_of(server.post("/api/show", json={"model": name})) == (400, "invalid model name")

    @pytest.mark.parametrize(
        "name", ["Library/ALL-MiniLM", " all-minilm ", "registry.ollama.ai/library/all-minilm:latest"]
    )
    def test_names_match_in_any_form_and_unknown_fields_pass(self, server: httpx.Client, name: str) -> None:
        """A model is found without its tag, in full and in any case; unknown fields are ignored."""
        assert np.array_equal(embed(server, "x", name, colour="red"), embed(server, "x"))


class TestStandIn:
    """What is the stand-in's own: life cycle, queue, test models, faults."""

    def test_drills_need_their_flags(self, standin: httpx.Client) -> None:
        """Without flags there are no faults, counters and test models; another process gives the same bits."""
        with running() as (_, client):
            assert client.post("/_faults", json={}).status_code == 404
            assert client.get("/_stats").status_code == 404
            assert post(client, "x", "hash-384").status_code == 404
            assert np.array_equal(embed(client, "sky " * 50), embed(standin, "sky " * 50))

    def test_sigterm_ends_cleanly_in_the_middle_of_work(self) -> None:
        """The call in flight is refused, and the exit code is 0."""
        with running("--faults") as (process, client), concurrent.futures.ThreadPoolExecutor(1) as pool:
            busy = pool.submit(post, client, ["sky " * 250] * 500)
            wait_for(lambda: client.get("/_stats").json()["in_flight"] == 1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            assert error_of(busy.result(DEADLINE_S)) == (503, "server is shutting down")

    def test_waiting_request_of_a_gone_client_is_dropped(self, drill: httpx.Client) -> None:
        """One call at a time; a client that leaves the queue costs no inference, and the next one is served."""
        embed(drill, "x")
        before = drill.get("/_stats").json()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(embed, drill, ["sky " * 250] * 20)
            wait_for(lambda: drill.get("/_stats").json()["in_flight"] == 1)
            impatient = httpx.Timeout(DEADLINE_S, read=0.15)
            with pytest.raises(httpx.ReadTimeout):
                drill.post("/api/embed", json={"model": MODEL, "input": ["y"] * 5}, timeout=impatient)
            assert not first.done()
            assert embed(drill, "z").shape == (1, 384)
            assert first.result(DEADLINE_S).shape == (20, 384)
        after = drill.get("/_stats").json()
        assert after["embed_requests"] == before["embed_requests"] + 3
        assert after["texts_embedded"] == before["texts_embedded"] + 20 + 1

    def test_running_request_of_a_gone_client_stops(self, drill: httpx.Client) -> None:
        """The texts that are left are not embedded."""
        embed(drill, "x")
        before = drill.get("/_stats").json()
        impatient = httpx.Timeout(DEADLINE_S, read=0.3)
        with pytest.raises(httpx.ReadTimeout):
            drill.post("/api/embed", json={"model": MODEL, "input": ["sky " * 250] * 200}, timeout=impatient)
        wait_for(lambda: drill.get("/_stats").json()["in_flight"] == 0)
        assert drill.get("/_stats").json()["texts_embedded"] < before["texts_embedded"] + 200

    @pytest.mark.parametrize("field", [{"dimensions": 64}, {"options": {"num_ctx": 64}}, {"keep_alive": 0}])
    def test_fields_that_are_not_served_are_refused(self, standin: httpx.Client, field: dict[str, Any]) -> None:
        """What would change the answer on a real server is 501 and named, never ignored."""
        expected = f'The Ollama stand-in does not serve the field "{next(iter(field))}".'
        assert error_of(post(standin, "x", **field)) == (501, expected)

    @pytest.mark.parametrize("path", ["/api/embeddings", "/api/generate", "/api/pull"])
    def test_paths_that_are_not_served_are_404(self, standin: httpx.Client, path: str) -> None:
        """Like every unknown path of a real server."""
        assert standin.post(path, json={"model": MODEL}).status_code == 404

    @pytest.mark.parametrize("dimension", [384, 768])
    def test_hash_models(self, standin: httpx.Client, dimension: int) -> None:
        """Vectors are unit, distinct per text, equal for equal texts, and cut at 2,048 tokens of 4 characters."""
        texts = [f"text {number}" for number in range(200)]
        vectors = embed(standin, texts, f"hash-{dimension}")
        assert vectors.shape == (200, dimension)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert len({vector.tobytes() for vector in vectors}) == 200
        assert np.array_equal(vectors[7], embed(standin, texts[7], f"hash-{dimension}:latest")[0])
        longest = "x" * 8192
        assert np.array_equal(*embed(standin, [longest, longest + "y"], f"hash-{dimension}"))
        assert error_of(post(standin, longest + "y", f"hash-{dimension}", truncate=False)) == (400, TOO_LONG)

    def test_hash_model_refuses_its_marker(self, standin: httpx.Client) -> None:
        """The marker stands for a text whose vector is not a number; the whole call fails."""
        refused = post(standin, ["fine", "bad \x00NaN text"], "hash-384")
        assert error_of(refused) == (400, "embedding contains NaN or Inf values")

    @pytest.mark.parametrize("bad", ["bad \x00NaN text", "x" * 8193])
    def test_texts_embedded_in_vain_are_counted(self, drill: httpx.Client, bad: str) -> None:
        """A refused call has cost the inference of all its other texts; an answered one none in vain."""
        before = drill.get("/_stats").json()
        assert post(drill, ["a", bad, "b", "c"], "hash-384", truncate=False).status_code == 400
        embed(drill, ["d", "e"], "hash-384")
        after = drill.get("/_stats").json()
        counted = {name: after[name] - before[name] for name in after}
        assert (counted["texts_embedded"], counted["texts_in_vain"], counted["refused_requests"]) == (5, 3, 1)

    def test_ps_lists_what_is_loaded(self) -> None:
        """Nothing at the start, then the models that were used, also after a runner has died."""
        with running("--faults", "--test-models") as (_, client):
            assert client.get("/api/ps").json() == {"models": []}
            embed(client, "x", "hash-384")
            assert [model["name"] for model in client.get("/api/ps").json()["models"]] == ["hash-384:latest"]
            client.post("/_faults", json={"kills_runner": True, "count": 1})
            post(client, "x", "hash-384")
            assert len(client.get("/api/ps").json()["models"]) == 1

    def test_a_model_without_word_pieces_has_no_vocabulary(self, standin: httpx.Client) -> None:
        """Clients then count tokens by an estimate."""
        shown = standin.post("/api/show", json={"model": "hash-384", "verbose": True}).json()
        assert not [name for name in shown["model_info"] if name.startswith("tokenizer")]

    @pytest.mark.parametrize("field", [{"system": "be brief"}, {"options": {"num_ctx": 64}}])
    def test_show_refuses_what_it_does_not_serve(self, standin: httpx.Client, field: dict[str, Any]) -> None:
        """A real server would answer something else."""
        expected = f'The Ollama stand-in does not serve the field "{next(iter(field))}".'
        assert error_of(standin.post("/api/show", json={"model": MODEL, **field})) == (501, expected)

    def test_a_fault_hits_n_calls(self, drill: httpx.Client) -> None:
        """Faults hit embed calls only, and end by themselves."""
        before = drill.get("/_stats").json()
        fault = {"status": 503, "body": {"error": "busy"}, "count": 2}
        assert drill.post("/_faults", json=fault).status_code == 200
        assert drill.get("/api/tags").status_code == 200
        assert [post(drill, "x", "hash-384").status_code for _ in range(3)] == [503, 503, 200]
        after = drill.get("/_stats").json()
        assert after["embed_requests"] == before["embed_requests"] + 3
        assert after["texts_embedded"] == before["texts_embedded"] + 1

    def test_a_runner_that_dies(self, drill: httpx.Client) -> None:
        """The call is 400 as if it were to blame; the next one loads the model again and gets the same bits."""
        before = embed(drill, "sky " * 50)
        drill.post("/_faults", json={"kills_runner": True, "count": 1})
        status, text = error_of(post(drill, "sky " * 50))
        assert status == 400
        assert text.startswith("do embedding request: Post ")
        assert text.endswith(": EOF")
        again = post(drill, "sky " * 50).json()
        assert again["load_duration"] > 50_000_000
        assert np.array_equal(np.array(again["embeddings"], dtype=np.float32), before)

    def test_a_text_that_stops_the_runner(self, drill: httpx.Client) -> None:
        """Every call with the text fails; the others are served."""
        drill.post("/_faults", json={"kills_runner": True, "marker": "poison"})
        answers = [post(drill, texts, "hash-384").status_code for texts in ("x", ["x", "a poisonous text"], "x")]
        drill.post("/_faults", json={})
        assert answers == [200, 400, 200]

    def test_a_text_without_a_vector(self, drill: httpx.Client) -> None:
        """Null in its place; the others of the call have theirs."""
        drill.post("/_faults", json={"loses_vectors": True, "marker": "poison"})
        answer = post(drill, ["x", "a poisonous text"], "hash-384").json()["embeddings"]
        drill.post("/_faults", json={})
        assert (len(answer[0]), answer[1]) == (384, None)

    def test_a_fault_can_be_slowness_only(self, drill: httpx.Client) -> None:
        """Without a status the delayed call gets its real answer."""
        drill.post("/_faults", json={"delay_s": 0.2, "count": 1})
        begun = time.monotonic()
        assert embed(drill, "x", "hash-384").shape == (1, 384)
        assert time.monotonic() - begun >= 0.2  # a lower bound, which a slow machine cannot break

    @pytest.mark.parametrize("fault", [{"state": 503}, {"status": 99}, {"status": 503, "count": -1}, []])
    def test_impossible_faults_are_refused(self, drill: httpx.Client, fault: object) -> None:
        """A misspelt drill must not pass as a drill."""
        assert drill.post("/_faults", json=fault).status_code == 400
