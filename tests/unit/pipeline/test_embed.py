"""The embed stage: which text a batch was refused for is found with little inference, and always the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.domain.errors import TextRefused, TextTooLong
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Chunk
from ingestion_engine.pipeline.chunking.chunk import split_refused
from ingestion_engine.pipeline.embed import EmbedStage

LONG, NAN = "L", "N"


@dataclass
class ServerLike:
    """Refuses a request after it has embedded all its other texts, as Ollama does."""

    requests: list[tuple[str, ...]] = field(default_factory=list)
    in_vain: int = 0

    async def embed(self, model: str, texts: Sequence[str], *, digest: str | None = None) -> npt.NDArray[np.float32]:
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
