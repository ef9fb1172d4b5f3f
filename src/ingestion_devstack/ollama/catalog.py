"""The models of a stand-in server by name, and their descriptions in the form of Ollama 0.33 (`api/types.go`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ingestion_devstack.ollama.model import EmbeddingModel
from ingestion_devstack.ollama.runner import Runner

_ARCHITECTURE = "bert"
_NEVER = "2318-01-01T00:00:00Z"
"""What a real server shows for a model that stays loaded is as far away."""


class Catalog:
    """Runners by model name, in any case; the tag `latest`, the namespace and the host of the library are optional."""

    def __init__(self, runners: Sequence[Runner]) -> None:
        """Keep `runners` in the order in which they are listed."""
        self._modified_at = datetime.now(UTC).isoformat()
        self._by_name = {runner.model.name: runner for runner in runners}

    def find(self, name: str) -> Runner | None:
        """Return the runner of a model; None if there is no such model."""
        return self._by_name.get(full_name(name).lower().removeprefix("registry.ollama.ai/").removeprefix("library/"))

    def list_models(self) -> list[dict[str, Any]]:
        """Return the entries of `/api/tags`. Cost: the first call reads the weights for the digest."""
        return [
            {
                "name": model.name,
                "model": model.name,
                "modified_at": self._modified_at,
                "size": model.size_bytes,
                "digest": model.read_digest(),
                "details": _details(model),
                "capabilities": ["embedding"],
            }
            for model in (runner.model for runner in self._by_name.values())
        ]

    def list_loaded(self) -> list[dict[str, Any]]:
        """Return the entries of `/api/ps`. Cost: the first call reads the weights for the digest."""
        return [
            {
                "name": model.name,
                "model": model.name,
                "size": model.size_bytes,
                "digest": model.read_digest(),
                "details": _details(model),
                "expires_at": _NEVER,
                "size_vram": 0,
                "context_length": model.num_ctx,
            }
            for model in (runner.model for runner in self._by_name.values() if runner.is_loaded)
        ]

    def show(self, model: EmbeddingModel, *, verbose: bool) -> dict[str, Any]:
        """Return the answer of `/api/show`; without `verbose`, arrays are null."""
        vocabulary = model.read_vocabulary()
        return {
            "modelfile": f"# Modelfile of the embedded stand-in\nFROM {model.name}\n",
            "parameters": f"{'num_ctx':<30} {model.num_ctx}",
            "template": "{{ .Prompt }}",
            "details": _details(model),
            "model_info": {
                "general.architecture": _ARCHITECTURE,
                f"{_ARCHITECTURE}.context_length": model.trained_context,
                f"{_ARCHITECTURE}.embedding_length": model.dimension,
                f"{_ARCHITECTURE}.pooling_type": 1,
                **({} if vocabulary is None else describe_vocabulary(vocabulary, verbose=verbose)),
            },
            "capabilities": ["embedding"],
            "modified_at": self._modified_at,
        }


def describe_vocabulary(vocabulary: Sequence[str], *, verbose: bool) -> dict[str, Any]:
    """Return what `/api/show` has for word pieces in the form of a GGUF file; arrays are null unless verbose.

    Imitates Ollama, convert/convert_bert.go and fs/ggml/gguf.go.
    """
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": vocabulary if verbose else None,
    }


def full_name(name: str) -> str:
    """Return a model's name with its tag, as errors name a missing model."""
    stripped = name.strip()
    return stripped if not stripped or ":" in stripped else f"{stripped}:latest"


def _details(model: EmbeddingModel) -> dict[str, Any]:
    is_neural = model.size_bytes > 0
    return {
        "parent_model": "",
        "format": "onnx" if is_neural else "hash",
        "family": _ARCHITECTURE,
        "families": [_ARCHITECTURE],
        "parameter_size": "23M" if is_neural else "0",
        "quantization_level": "INT8" if is_neural else "F32",
    }
