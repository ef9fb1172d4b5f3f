"""The embed stage: which text a batch was refused for is found with little inference, and always the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.domain.errors import DimensionDiffers, RequestFailed, TextRefused, TextTooLong, TransientError
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.ports import EMBED_TRIES
from ingestion_engine.domain.probe_text import make_probe_text
from ingestion_engine.domain.records import Chunk
from ingestion_engine.pipeline import embed as embed_module
from ingestion_engine.pipeline.chunking.chunk import split_refused
from ingestion_engine.pipeline.embed import TRIES_ALONE, EmbedStage
from ingestion_engine.runtime.retry import RetryPolicy

LONG, NAN = "L", "N"


@dataclass
class ServerLike:
    """Refuses a request after it has embedded all its other texts, as Ollama does."""

    requests: list[tuple[str, ...]] = field(default_factory=list)
    in_vain: int = 0

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = 1
    ) -> npt.NDArray[np.float32]:
        self.requests.append(tuple(texts))
        refused = [text for text in texts if LONG in text or NAN in text]
        if not refused:
            return np.array([[len(text)] for text in texts], dtype=np.float32)
        self.in_vain += len(texts) - len(refused)
        kind = TextTooLong if LONG in refused[0] else TextRefused
        raise kind("text_too_long" if LONG in refused[0] else "embedding_nan", "refused")


def chunk(text: str) -> Chunk:
    return Chunk(PointId(text), 0, text, 0, len(text), text)


def embed(texts: Sequence[str]) -> tuple[list[object], EmbedStage, ServerLike]:
    server = ServerLike()
    stage = EmbedStage(server, "m", digest="d", prefix="", split=lambda _: None)  # type: ignore[arg-type]
    return list(asyncio.run(stage.embed_chunks([chunk(text) for text in texts]))), stage, server


def test_one_long_text_costs_the_inference_of_one_batch() -> None:
    """It is the longest, so it is sent alone next, then the rest together."""
    texts = [f"text {number:02}" for number in range(15)] + [f"much longer than the others {LONG}"]
    results, stage, server = embed(texts)
    assert [isinstance(result, TextTooLong) for result in results] == [False] * 15 + [True]
    assert [len(request) for request in server.requests] == [16, 1, 15]
    assert (stage.calls, stage.refusals, stage.in_vain, stage.texts) == (3, 2, server.in_vain, 15)
    assert server.in_vain == 15


def test_neighbours_about_as_long_are_sent_alone_too() -> None:
    """What is wrong with one estimate is wrong with the next ones: three long texts, still one batch in vain."""
    texts = [f"text {number:02}" for number in range(13)] + [f"{'much longer ' * 4}{n} {LONG}" for n in range(3)]
    results, _, server = embed(texts)
    assert sum(isinstance(result, TextTooLong) for result in results) == 3
    assert [len(request) for request in server.requests] == [16, 1, 1, 1, 13]
    assert server.in_vain == 13


def test_a_text_without_a_vector_is_found_without_halving() -> None:
    """Its length says nothing: those before it in the order are sent alone, those behind it together."""
    texts = [f"text {number:02}" for number in range(16)]
    texts[5] = f"tex{NAN} 05"
    results, _, server = embed(texts)
    assert [isinstance(result, TextRefused) for result in results] == [number == 5 for number in range(16)]
    assert [len(request) for request in server.requests] == [16, *[1] * 6, 10]
    assert server.in_vain == 15


def test_the_halves_of_a_refused_text_are_sent_alone() -> None:
    """One of them may be too long again."""
    server = ServerLike()
    stage = EmbedStage(server, "m", digest="d", prefix="", split=split_refused)  # type: ignore[arg-type]
    results = asyncio.run(stage.embed_chunks([chunk(f"one two three {LONG}")]))
    assert [len(request) for request in server.requests] == [1] * len(server.requests)
    assert server.in_vain == 0
    assert len(results) == 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "", "", LONG, NAN]), st.integers(1, 9)), max_size=24))
def test_any_refusals_cost_at_most_two_requests_per_text(marks: list[tuple[str, int]]) -> None:
    """Every text has its own outcome, in order; what was embedded in vain is counted; the same calls every time."""
    texts = [f"{number:02}{'x' * length}{mark}" for number, (mark, length) in enumerate(marks)]
    results, stage, server = embed(texts)
    expected = [{LONG: TextTooLong, NAN: TextRefused}.get(mark) for mark, _ in marks]
    assert [type(result) if isinstance(result, TextRefused) else None for result in results] == expected
    assert stage.calls == len(server.requests) <= max(2 * len(texts) - 1, 0)
    assert stage.refusals == sum(any(LONG in t or NAN in t for t in request) for request in server.requests)
    assert stage.in_vain == server.in_vain <= 2 * len(texts)
    assert embed(texts)[2].requests == server.requests


POISON = "P"


@dataclass
class BreakableServer(ServerLike):
    """Fails every request with a marked text, as a runner that such a text stops; ``tries`` repeats count as one."""

    is_down: bool = False
    longest: int = 10_000
    """A longer text fails it too: it has no memory for more."""
    wrong: bool = False
    """Answer the marked text with a vector of another length instead."""
    failures: int = 0

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = EMBED_TRIES
    ) -> npt.NDArray[np.float32]:
        is_broken = self.is_down or any(POISON in text or len(text) > self.longest for text in texts)
        if is_broken:
            self.requests.append(tuple(texts))
            self.failures += tries
            if self.wrong:
                raise DimensionDiffers("model_digest_differs", "another length")
            raise RequestFailed("ollama_unavailable", "EOF")
        return await super().embed(model, texts, digest=digest)


async def no_sleep(_: float) -> None: ...


def embed_at(server: ServerLike, texts: Sequence[str]) -> tuple[list[object], EmbedStage]:
    stage = EmbedStage(server, "m", digest="d", prefix="", split=lambda _: None, sleep=no_sleep)  # type: ignore[arg-type]
    return list(asyncio.run(stage.embed_chunks([chunk(text) for text in texts]))), stage


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["", "", "", POISON, LONG]), min_size=1, max_size=12), st.booleans())
def test_texts_that_break_the_embedder_are_found_among_others(marks: list[str], wrong: bool) -> None:
    """Any number of them, whatever else is refused: each has its own outcome, at bounded cost."""
    texts = [f"text {number:02}{mark}" for number, mark in enumerate(marks)]
    server = BreakableServer(wrong=wrong)
    results, stage = embed_at(server, texts)
    codes = [result.code if isinstance(result, TextRefused) else "" for result in results]
    assert codes == [{POISON: "embedding_failed", LONG: "text_too_long"}.get(mark, "") for mark in marks]
    poisonous = marks.count(POISON)
    assert stage.calls == len(server.requests) <= 3 * len(marks) + 5 * poisonous + 2
    # The batch, the rest of it after a refusal, and each of the texts alone.
    assert server.failures <= 2 * EMBED_TRIES + poisonous * (TRIES_ALONE + EMBED_TRIES)


def test_a_text_is_blamed_between_plain_texts_of_its_length() -> None:
    """Each failure alone follows a plain text that was embedded, and one more is embedded before the blame."""
    text = f"{POISON} {'word ' * 60}"
    server = BreakableServer()
    [refused], stage = embed_at(server, [text])
    assert isinstance(refused, TextRefused)
    assert "embedded a plain text of its length each time: EOF" in refused.message
    plain = make_probe_text(text)
    assert server.requests == [(text,), *[(plain,), (text,)] * TRIES_ALONE, (plain,)]
    assert len(text) / 2 <= len(plain) + 1 <= len(text)
    assert (stage.in_vain, stage.texts) == (TRIES_ALONE + 1, 0)


@pytest.mark.parametrize("server", [BreakableServer(is_down=True), BreakableServer(longest=200)], ids=["down", "small"])
def test_an_outage_blames_no_text(server: BreakableServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain text fails too, of any length or of that of the chunk: the partition will be retried."""
    monkeypatch.setattr(embed_module, "_OUTAGE", RetryPolicy(first_s=1, longest_s=1, deadline_s=0))
    with pytest.raises(TransientError) as outage:
        embed_at(server, ["one", "word " * 90, "three"])
    assert outage.value.code == "ollama_unavailable"


def test_another_model_blames_no_text() -> None:
    """All vectors have another length then: the job stops."""
    with pytest.raises(DimensionDiffers):
        embed_at(BreakableServer(is_down=True, wrong=True), ["one", "two"])


def test_an_outage_between_two_tries_blames_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain text is asked for after the last failure too."""
    monkeypatch.setattr(embed_module, "_OUTAGE", RetryPolicy(first_s=1, longest_s=1, deadline_s=0))
    server = BreakableServer()

    async def go_down(_: float) -> None:
        server.is_down = len(server.requests) > 2 * TRIES_ALONE - 1

    stage = EmbedStage(server, "m", digest="d", prefix="", split=lambda _: None, sleep=go_down)  # type: ignore[arg-type]
    with pytest.raises(TransientError):
        asyncio.run(stage.embed_chunks([chunk(POISON)]))
