"""Read Ollama's responses: vectors, facts about a model, refusals. Source: Ollama 0.33, server/routes.go."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import simdjson

from ingestion_engine.adapters.ollama.failed_tries import FAILED_SERVERS
from ingestion_engine.adapters.transport import Response, excerpt, read_retry_after
from ingestion_engine.domain.errors import (
    FatalError,
    FlowDropped,
    IngestionError,
    TextRefused,
    TextTooLong,
    TransientError,
)
from ingestion_engine.domain.records import ModelInfo

if TYPE_CHECKING:
    import numpy.typing as npt

_LOAD = re.compile(rb'"load_duration": ?([0-9]{1,18})[,}\s]')
"""In nanoseconds."""
_TAIL_BYTES = 512
"""What follows the vectors has about 90 bytes."""

REFUSALS: Mapping[str, tuple[type[TextRefused], str]] = {
    "the input length exceeds the context length": (TextTooLong, "text_too_long"),
    "input after truncation exceeds maximum context length": (TextTooLong, "text_too_long"),
    "embedding contains NaN or Inf values": (TextRefused, "embedding_nan"),
    "json: unsupported value: NaN": (TextRefused, "embedding_nan"),  # from older servers, with status 500
    "invalid input type": (TextRefused, "embedding_refused"),
    "missing request body": (TextRefused, "embedding_refused"),
}
"""Class and code of each permanent refusal, by its text.

Every other error, other 400s too, may be temporary: a dead runner responds 400.
"""
_MODEL_MISSING = re.compile(r"""model (?:'[^']*'|"[^"]*") not found""")
"""Some handlers add ": …" or ", try pulling it first"; the name is the request's or the full one."""
_NORMALIZER_OPTIONS = ("tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents")
"""True or absent in nearly all models; servers before June 2026 ignore another value."""
LENGTH_TOLERANCE = 1e-3
"""Largest deviation of a vector's length from 1. Ollama normalises in float32, which leaves a 4,096-dimensional vector
off by less than 1e-5; a larger deviation means another kind of vector."""


def translate_response(response: Response, url: str, model: str, *, service: str = "ollama") -> IngestionError:
    """Return the product's error for a response other than 200 of "ollama" or the "gateway" before it. Pure."""
    status, text = response.status_code, read_error(response)
    message = f"{service.capitalize()} at {url} responded {status}: {excerpt(response) if text is None else text}"
    context: dict[str, Any] = {"url": url, "model": model, "status": status, **read_retry_after(response)}
    failed_servers = response.headers.get(FAILED_SERVERS, "") if service == "gateway" else ""
    if failed_servers.isascii() and failed_servers.isdigit():
        context["failed_servers"] = int(failed_servers)
    if status in (401, 403):
        return FatalError("embedder_access_denied", message, **context)
    if text is None:  # not Ollama's form: a proxy's page says nothing about model and texts
        return TransientError(f"{service}_unavailable", message, **context)
    if status == HTTPStatus.PRECONDITION_FAILED and service == "gateway":
        hint = "Serve the former model again, or ingest into a new collection."
        return FatalError("model_digest_differs", message, hint=hint, **context)
    if status == HTTPStatus.GONE and service == "gateway":
        return FlowDropped("flow_dropped", message, hint="Its job was canceled.", **context)
    for words, (kind, code) in REFUSALS.items():
        if status in (400, 500) and words in text:
            return kind(code, f"{model}: {text}", **context)
    is_missing = status == 404 and _MODEL_MISSING.match(text)
    if is_missing or (status == 400 and text in ("invalid model name", "model is required")):
        return model_not_found(url, model, text, service=service)
    return TransientError(f"{service}_unavailable", message, **context)


def model_not_found(url: str, model: str, text: str, *, service: str = "ollama") -> FatalError:
    """Return the error for a model that does not exist on a server, or on any behind the "gateway". Pure."""
    where = "that server" if service == "ollama" else "each server of the gateway (its INGEST_OLLAMA__URLS)"
    hint = f"Run `ollama pull {model}` on {where}, or choose a model that `ollama list` shows."
    return FatalError("model_not_found", f"{service.capitalize()} at {url}: {text}", hint=hint, url=url, model=model)


def read_error(response: Response) -> str | None:
    """Return ``error`` of a JSON response, or None when the response is not in Ollama's form. Pure."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, str) else None


def read_vectors(body: bytes, count: int, *, url: str, model: str) -> npt.NDArray[np.float32]:
    """Return the validated vectors of a response, ``float32[count, dimension]``. Pure.

    The numbers go from JSON to one array of float64 and then float32 without becoming Python objects, which takes a
    third of the time of a list of lists (25 against 79 µs for 768 numbers).

    Raises:
        TransientError: the response is not that of an embedding server, or not one vector per text.
        TextRefused: "embedding_nan", "embedding_refused" for a vector that is not finite or not of length one.
    """
    try:
        response: Any = simdjson.Parser().parse(body)
        rows = response["embeddings"]
        lengths = {len(row) for row in rows}
        numbers = np.frombuffer(rows.as_buffer(of_type="d"), dtype=np.float64)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:  # the last: beyond 64 bits
        raise _invalid(url, model, f"no list of vectors ({type(error).__name__})") from error
    if len(rows) != count or len(lengths) != 1 or numbers.size != count * max(lengths) or numbers.size == 0:
        raise _invalid(url, model, f"{len(rows)} vectors of lengths {sorted(lengths)} for {count} texts")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
        vectors = numbers.reshape(count, -1).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        message = f"Model '{model}' returned a vector that is not finite."
        raise TextRefused("embedding_nan", message, url=url, model=model)
    if (np.abs(norms - 1) > LENGTH_TOLERANCE).any():
        worst = float(norms[np.argmax(np.abs(norms - 1))])
        message = f"Model '{model}' returned a vector of length {worst:.4f} instead of 1."
        raise TextRefused("embedding_refused", message, url=url, model=model)
    return vectors


def read_load_s(body: bytes) -> float:
    """Return the seconds for which a successful ``POST /api/embed`` waited until its model was loaded. Pure.

    Some milliseconds when it was; 0 where a server does not say it. Ollama writes it behind the vectors.
    """
    found = _LOAD.search(body, max(0, len(body) - _TAIL_BYTES))
    return int(found[1]) / 1e9 if found else 0.0


def _invalid(url: str, model: str, content: str) -> TransientError:
    return TransientError("ollama_answer_invalid", f"Ollama at {url} returned {content}.", url=url, model=model)


@functools.lru_cache(maxsize=1024)
def canonical_name(model: str) -> str:
    """Return a model's name as Ollama compares it: lower case, with a tag, without default host and namespace. Pure."""
    name = model.strip().lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def read_digests(tags: Mapping[str, Any], *, url: str, model: str = "") -> dict[str, str]:
    """Return the digest by canonical name of every model in a response of ``/api/tags``. Pure.

    Raises:
        TransientError: the response is no list of models, so it is not Ollama's; ``model`` is named in it.
    """
    digests: dict[str, str] = {}
    try:
        for entry in tags["models"] or []:
            digest = str(entry["digest"]).removeprefix("sha256:")
            for name in (entry["name"], entry.get("model") or ""):
                digests.setdefault(canonical_name(name), digest)
    except (AttributeError, LookupError, TypeError) as error:
        raise _invalid(url, model, f"no list of models ({type(error).__name__})") from error
    return digests


def read_model(shown: Mapping[str, Any], *, model: str, digest: str, url: str) -> ModelInfo:
    """Return a model's sizes from a response of ``/api/show``. Pure.

    The context length is the model's own, or ``num_ctx`` of its parameters if that is smaller (all-minilm: 512, 256).

    Raises:
        FatalError: "model_not_embedding".
        TransientError: the response does not describe a model, so it is not Ollama's.
    """
    if not isinstance(shown.get("model_info") or {}, dict) or not shown.keys() & {"model_info", "details"}:
        raise _invalid(url, model, "no description of the model")
    info: Mapping[str, Any] = shown.get("model_info") or {}
    sizes = {name.rsplit(".", 1)[-1]: value for name, value in info.items() if isinstance(value, int)}
    dimension = sizes.get("embedding_length")
    capabilities = shown.get("capabilities")
    if not dimension or (capabilities and "embedding" not in capabilities):
        message = f"Model '{model}' at {url} is not an embedding model."
        raise FatalError("model_not_embedding", message, hint="Choose an embedding model.", model=model, url=url)
    lengths = [sizes.get("context_length"), _read_num_ctx(shown.get("parameters") or "")]
    context_length = min((n for n in lengths if n), default=None)
    tokenizer = info.get("tokenizer.ggml.model")
    if not isinstance(tokenizer, str) or False in map(info.get, _NORMALIZER_OPTIONS):
        tokenizer = None
    return ModelInfo(model, digest, dimension, context_length=context_length, tokenizer=tokenizer)


def read_vocabulary(shown: Mapping[str, Any]) -> list[str]:
    """Return the pieces of a model's tokenizer in a verbose response of ``/api/show``; none if it has none. Pure."""
    pieces = (shown.get("model_info") or {}).get("tokenizer.ggml.tokens")
    return pieces if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces) else []


def _read_num_ctx(parameters: str) -> int | None:
    for line in parameters.splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "num_ctx" and value.strip().isdigit():
            return int(value)
    return None
