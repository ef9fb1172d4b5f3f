"""How Ollama's answers are read: vectors, facts about a model, refusals. Source: Ollama 0.33, server/routes.go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import simdjson

from ingestion_engine.adapters.transport import Answer, read_retry_after
from ingestion_engine.domain.errors import FatalError, IngestionError, TextRefused, TransientError
from ingestion_engine.domain.records import ModelInfo

if TYPE_CHECKING:
    import numpy.typing as npt

REFUSALS = {
    "the input length exceeds the context length": "text_too_long",
    "input after truncation exceeds maximum context length": "text_too_long",
    "embedding contains NaN or Inf values": "embedding_nan",
    "json: unsupported value: NaN": "embedding_nan",  # of older servers, with status 500
    "invalid input type": "embedding_refused",
    "missing request body": "embedding_refused",
}
"""The only texts that say "never"; all else, other 400s too, may pass: a dead runner answers 400."""
LENGTH_TOLERANCE = 1e-3
"""Ollama normalises in float32; a 4,096-dimensional vector is then off by less than 1e-5.

More is another kind of vector.
"""


def translate_answer(response: Answer, url: str, model: str) -> IngestionError:
    """Return our error for an answer other than 200. Pure."""
    status, text = response.status_code, read_error(response)
    context: dict[str, Any] = {"url": url, "model": model, "status": status, **read_retry_after(response)}
    for words, code in REFUSALS.items():
        if status in (400, 500) and words in text:
            return TextRefused(code, f"{model}: {text}", **context)
    if (status == 404 and "model" in text) or (status == 400 and text in ("invalid model name", "model is required")):
        return model_not_found(url, model, text)
    if status in (401, 403):
        return FatalError("embedder_access_denied", f"Ollama at {url} answered {status}: {text}", **context)
    return TransientError("ollama_unavailable", f"Ollama at {url} answered {status}: {text}", **context)


def model_not_found(url: str, model: str, text: str) -> FatalError:
    """Return the error for a model that a server does not have. Pure."""
    hint = f"Run `ollama pull {model}` on that server, or choose a model that `ollama list` shows."
    return FatalError("model_not_found", f"Ollama at {url}: {text}", hint=hint, url=url, model=model)


def read_error(response: Answer) -> str:
    """Return ``error`` of a JSON answer, else the beginning of its text. Pure."""
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return response.text[:300]
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else response.text[:300]


def read_vectors(body: bytes, count: int, url: str, model: str) -> npt.NDArray[np.float32]:
    """Return ``float32[count, dimension]``, checked. Pure.

    The numbers go from JSON to one array of float64 and then float32, none of them a Python object on the way: a
    third of the time that a list of lists takes (25 against 79 µs for 768 numbers).

    Raises:
        TransientError: not the answer of an embedding server, or not one vector per text.
        TextRefused: "embedding_nan", "embedding_refused" for a vector that is not finite or not of length one.
    """
    try:
        answer: Any = simdjson.Parser().parse(body)
        rows = answer["embeddings"]
        lengths = {len(row) for row in rows}
        numbers = np.frombuffer(rows.as_buffer(of_type="d"), dtype=np.float64)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _nonsense(url, model, f"no list of vectors ({type(error).__name__})") from error
    if len(rows) != count or len(lengths) != 1 or numbers.size != count * max(lengths) or numbers.size == 0:
        raise _nonsense(url, model, f"{len(rows)} vectors of lengths {sorted(lengths)} for {count} texts")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
        vectors = numbers.reshape(count, -1).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        raise TextRefused("embedding_nan", f"{model}: a vector is not finite", url=url, model=model)
    if (np.abs(norms - 1) > LENGTH_TOLERANCE).any():
        worst = float(norms[np.argmax(np.abs(norms - 1))])
        said = f"{model}: a vector has length {worst:.4f}, not 1"
        raise TextRefused("embedding_refused", said, url=url, model=model)
    return vectors


def _nonsense(url: str, model: str, what: str) -> TransientError:
    return TransientError("ollama_answer_invalid", f"Ollama at {url} gave {what}", url=url, model=model)


def canonical_name(model: str) -> str:
    """Return a model's name as Ollama compares it: in lower case, with a tag, without default host and namespace."""
    name = model.strip().lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def find_digest(tags: Mapping[str, Any], model: str) -> str | None:
    """Return the digest of a model in an answer of ``/api/tags``, or None. Pure."""
    wanted = canonical_name(model)
    for entry in tags.get("models") or []:
        if wanted in (canonical_name(entry.get("name", "")), canonical_name(entry.get("model", ""))):
            return str(entry["digest"]).removeprefix("sha256:")
    return None


def read_model(shown: Mapping[str, Any], model: str, digest: str, url: str) -> ModelInfo:
    """Return a model's sizes from an answer of ``/api/show``. Pure.

    The context is the model's own, or ``num_ctx`` of its parameters where that is smaller (all-minilm: 512 and 256).

    Raises:
        FatalError: "model_not_embedding".
    """
    info: Mapping[str, Any] = shown.get("model_info") or {}
    sizes = {name.rsplit(".", 1)[-1]: value for name, value in info.items() if isinstance(value, int)}
    dimension = sizes.get("embedding_length")
    capabilities = shown.get("capabilities")
    if not dimension or (capabilities and "embedding" not in capabilities):
        said = f"{model} on {url} is no embedding model"
        raise FatalError("model_not_embedding", said, hint="Choose a model made for embeddings.", model=model, url=url)
    lengths = [sizes.get("context_length"), _read_num_ctx(shown.get("parameters") or "")]
    return ModelInfo(model, digest, dimension, min((n for n in lengths if n), default=None))


def _read_num_ctx(parameters: str) -> int | None:
    for line in parameters.splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "num_ctx" and value.strip().isdigit():
            return int(value)
    return None
