"""The models a stand-in server has, by the names Ollama would accept, and how its API describes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from ingestion_devstack.ollama.runner import Runner

_DEFAULT_NAMESPACE = "library"
_DEFAULT_TAG = "latest"
_NAME = re.compile(r"(?:\w[\w-]*/)?\w[\w.-]*(?::\w[\w.-]*)?", re.ASCII)
"""[namespace/]model[:tag]; a registry's host in front is accepted by the real server only."""
_PUBLISHED = "all-minilm"
_PUBLISHED_TAGS = ("22m", "l6-v2")
"""Tags under which the model is found as well."""
_ARCHITECTURE = "bert"


class InvalidNameError(Exception):
    """The text is no model name at all."""


class Catalog:
    """Runners by model name, in any case; the tag `latest` and the namespace `library` may be left out."""

    def __init__(self, runners: list[Runner]) -> None:
        """`runners` in the order in which they are listed."""
        self.runners = runners
        self._modified_at = datetime.now(UTC).isoformat()
        self._by_name = {runner.model.name: runner for runner in runners}
        if published := self._by_name.get(f"{_PUBLISHED}:{_DEFAULT_TAG}"):
            self._by_name |= {f"{_PUBLISHED}:{tag}": published for tag in _PUBLISHED_TAGS}

    def find(self, name: str) -> Runner | None:
        """Return the runner of a model; None if there is no such model.

        Raises:
            InvalidNameError: the real server would not parse the name.
        """
        name = name.strip()
        if not _NAME.fullmatch(name):
            raise InvalidNameError(name)
        canonical = name.lower().removeprefix(f"{_DEFAULT_NAMESPACE}/")
        return self._by_name.get(canonical if ":" in canonical else f"{canonical}:{_DEFAULT_TAG}")

    def list_models(self) -> list[dict[str, Any]]:
        """Return the entries of `/api/tags`. Cost: the first call reads the weights for the digest."""
        return [
            {
                "name": runner.model.name,
                "model": runner.model.name,
                "modified_at": self._modified_at,
                "size": runner.model.size_bytes,
                "digest": runner.model.read_digest(),
                "details": _details(runner)
                | {"context_length": runner.model.trained_context, "embedding_length": runner.model.dimension},
                "capabilities": ["embedding"],
            }
            for runner in self.runners
        ]

    def list_loaded(self) -> list[dict[str, Any]]:
        """Return the entries of `/api/ps`: the longest to stay first."""
        loaded = sorted((r for r in self.runners if r.is_loaded), key=lambda r: r.expires_at, reverse=True)
        return [
            {
                "name": runner.model.name,
                "model": runner.model.name,
                "size": runner.model.size_bytes,
                "digest": runner.model.read_digest(),
                "details": _details(runner),
                "expires_at": runner.expires_at.isoformat(),
                "size_vram": 0,
                "context_length": runner.context_length,
            }
            for runner in loaded
        ]

    def show(self, runner: Runner) -> dict[str, Any]:
        """Return the answer of `/api/show`."""
        model = runner.model
        parameters = "" if model.default_num_ctx is None else f"{'num_ctx':<30} {model.default_num_ctx}"
        return {
            "modelfile": f"# Modelfile of the embedded stand-in\nFROM {model.name}\n",
            "parameters": parameters,
            "template": "{{ .Prompt }}",
            "details": _details(runner),
            "model_info": {
                "general.architecture": _ARCHITECTURE,
                f"{_ARCHITECTURE}.context_length": model.trained_context,
                f"{_ARCHITECTURE}.embedding_length": model.dimension,
                f"{_ARCHITECTURE}.pooling_type": 1,
            },
            "capabilities": ["embedding"],
            "modified_at": self._modified_at,
        }


def _details(runner: Runner) -> dict[str, Any]:
    is_neural = runner.model.size_bytes > 0
    return {
        "parent_model": "",
        "format": "onnx" if is_neural else "hash",
        "family": _ARCHITECTURE,
        "families": [_ARCHITECTURE],
        "parameter_size": "23M" if is_neural else "0",
        "quantization_level": "INT8" if is_neural else "F32",
    }
