"""An embedder that refuses and counts as Ollama does, without inference: what it embedded in vain can be seen.

A request with a text over the context embeds all its other texts first and is then refused (seen on Ollama 0.33).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingestion_engine.domain.errors import TextTooLong
from ingestion_engine.domain.records import ModelInfo

DIMENSION = 8


@dataclass
class CountingEmbedder:
    """Embedder of one model. Everything is counted from its creation."""

    count: Callable[[str], int]
    """Tokens of a text, special ones included."""
    context_length: int = 256
    shows_tokenizer: bool = True
    """False as for a model whose tokenizer the product cannot use."""
    calls: int = 0
    """Requests that returned vectors."""
    refused: int = 0
    refused_alone: int = 0
    """Refused requests of one text: nothing was embedded."""
    embedded: int = 0
    """Texts embedded, also in vain."""
    in_vain: int = 0
    """Texts embedded in refused requests."""
    tokens: int = 0
    tokens_in_vain: int = 0

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        info = ModelInfo(model, "sha256:counting", DIMENSION, self.context_length)
        if not self.shows_tokenizer or "tokenizer" not in {field.name for field in dataclasses.fields(info)}:
            return info  # a former commit reads no tokenizer
        return dataclasses.replace(info, tokenizer="bert")

    async def load_tokenizer(self, model: ModelInfo) -> Callable[[str], int] | None:
        return self.count if model.tokenizer else None

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = 1
    ) -> npt.NDArray[np.float32]:
        counts = [self.count(text) for text in texts]
        good = [count for count in counts if count <= self.context_length]
        self.embedded += len(good)
        self.tokens += sum(good)
        if len(good) < len(texts):
            self.refused += 1
            self.refused_alone += len(texts) == 1
            self.in_vain += len(good)
            self.tokens_in_vain += sum(good)
            raise TextTooLong("text_too_long", "the input length exceeds the context length")
        self.calls += 1
        return np.stack([_vector(text) for text in texts])

    async def close(self) -> None: ...


def _vector(text: str) -> npt.NDArray[np.float32]:
    """Return a unit vector that depends only on the text."""
    vector = np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIMENSION], dtype=np.uint8).astype(np.float32) + 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)
