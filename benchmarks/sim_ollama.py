"""A simulated Ollama: the API that embedding clients use, S endpoints (ports), each one request at a time.

    python benchmarks/sim_ollama.py --endpoints 8 --request-ms 10 --text-ms 15

A request of n texts occupies its endpoint for ``request_ms + n * text_ms``; further requests queue, as on a
real server. Time is kept by the clock of the schedule: a request starts when it arrives or when the
endpoint is free, whichever is later, so a timer that fires late delays an answer but never costs capacity. With both
costs 0 it answers at once.

Its own cost is negligible. Vectors are looked up, not computed: for each dimension ``VECTORS`` unit vectors are
rendered as JSON once, and the CRC-32 of a text selects one. So the same text always has the same vector, and an answer
is a few byte strings joined. Models are named ``sim-N`` with the dimension N.

``GET /sim/counters`` returns the counts since ``POST /sim/reset``, whose body may set other costs.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import re
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from http_server import Reply, Request, answer_json, make_answer, serve

VECTORS = 1024
"""Different vectors per dimension; 8.5 MB of JSON for 768."""
CONTEXT_LENGTH = 8192
_MODEL = re.compile(r"sim-([1-9][0-9]{0,4})(?::latest)?")
DIMENSIONS = (384, 768, 1536)


@functools.lru_cache(maxsize=8)
def render_vectors(dimension: int) -> list[bytes]:
    """Return ``VECTORS`` unit vectors as JSON, the same in every process."""
    vectors = np.random.default_rng(dimension).standard_normal((VECTORS, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY) for vector in vectors]


@dataclass(slots=True)
class Endpoint:
    """Schedule and counters of one server; times in seconds of the monotonic clock."""

    free_at: float = 0.0
    busy_s: float = 0.0
    calls: int = 0
    texts: int = 0
    first_start: float | None = None
    last_end: float = 0.0

    def schedule(self, now: float, cost_s: float, texts: int) -> float:
        """Queue a request; return the time of its answer."""
        start = max(now, self.free_at)
        self.free_at = self.last_end = start + cost_s
        self.busy_s += cost_s
        self.calls += 1
        self.texts += texts
        if self.first_start is None:
            self.first_start = start
        return self.free_at


@dataclass(slots=True)
class Pool:
    """All endpoints, and the cost of a request."""

    request_ms: float
    text_ms: float
    endpoints: dict[int, Endpoint] = field(default_factory=dict)
    """Endpoints by port."""
    other_calls: int = 0
    first_call_at: float | None = None
    """Wall clock, which is comparable between processes."""

    def reset(self, request_ms: float | None = None, text_ms: float | None = None) -> None:
        """Reset the counters; set other costs if given."""
        self.request_ms = self.request_ms if request_ms is None else request_ms
        self.text_ms = self.text_ms if text_ms is None else text_ms
        self.endpoints.clear()
        self.other_calls, self.first_call_at = 0, None

    def schedule(self, port: int, now: float, texts: int) -> float:
        """Call ``Endpoint.schedule`` for a request of ``texts`` texts at a port."""
        if self.first_call_at is None:
            self.first_call_at = time.time()
        cost_s = (self.request_ms + self.text_ms * texts) / 1000
        return self.endpoints.setdefault(port, Endpoint()).schedule(now, cost_s, texts)

    def counters(self) -> dict[str, Any]:
        """Return the counts since the last reset; ``busy_share`` covers all ports that were called."""
        used = [endpoint for endpoint in self.endpoints.values() if endpoint.first_start is not None]
        first = min((e.first_start for e in used if e.first_start is not None), default=0.0)
        span_s = max((e.last_end for e in used), default=0.0) - first
        busy_s = sum(e.busy_s for e in used)
        return {
            "calls": sum(e.calls for e in used),
            "texts": sum(e.texts for e in used),
            "other_calls": self.other_calls,
            "endpoints_used": len(used),
            "busy_s": busy_s,
            "span_s": span_s,
            "busy_share": busy_s / (span_s * len(used)) if span_s > 0 else 0.0,
            "first_call_at": self.first_call_at,
            "each": {str(port): {"calls": e.calls, "busy_s": e.busy_s} for port, e in self.endpoints.items()},
        }


class SimulatedOllama:
    """Request handler of the simulation; ``handle`` is passed to ``http_server.serve``."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        models = [f"sim-{dimension}" for dimension in DIMENSIONS]
        entries = [_describe_entry(name) for name in models]
        self._fixed = {
            ("GET", "/"): make_answer(b"Ollama is running", kind="text/plain"),
            ("HEAD", "/"): make_answer(b""),
            ("GET", "/api/version"): answer_json({"version": "0.33.0"}),
            ("GET", "/api/tags"): answer_json({"models": entries}),
            ("GET", "/api/ps"): answer_json({"models": [{**e, "context_length": CONTEXT_LENGTH} for e in entries]}),
        }

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        if request.path == "/api/embed":
            self._embed(request, reply)
        elif request.path == "/sim/counters":
            reply(answer_json(self.pool.counters()))
        elif request.path == "/sim/reset":
            self.pool.reset(**orjson.loads(request.body or b"{}"))
            reply(answer_json({}))
        elif request.path == "/api/show":
            self.pool.other_calls += 1
            reply(_show(orjson.loads(request.body).get("model", "")))
        else:
            self.pool.other_calls += 1
            unknown = answer_json({"error": f"the simulation does not support {request.path}"}, status="404 Not Found")
            reply(self._fixed.get((request.method, request.path), unknown))

    def _embed(self, request: Request, reply: Reply) -> None:
        body = orjson.loads(request.body)
        dimension = read_dimension(body["model"])
        if dimension is None:
            reply(_not_found(body["model"]))
            return
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        loop = asyncio.get_running_loop()
        now = loop.time()
        answer_at = self.pool.schedule(request.port, now, len(texts))
        answer = make_answer(embed(body["model"], dimension, texts))
        if answer_at <= now:
            reply(answer)
        else:
            loop.call_at(answer_at, reply, answer)


def read_dimension(model: str) -> int | None:
    """Return the dimension in a model's name; None for an unknown model."""
    found = _MODEL.fullmatch(model)
    return int(found[1]) if found and int(found[1]) in DIMENSIONS else None


def embed(model: str, dimension: int, texts: list[str]) -> bytes:
    """Return the body of an answer."""
    rendered = render_vectors(dimension)
    vectors = b",".join([rendered[zlib.crc32(text.encode()) % VECTORS] for text in texts])
    tail = b'],"total_duration":1000000,"load_duration":1000000,"prompt_eval_count":%d}' % (200 * len(texts))
    return b'{"model":"%b","embeddings":[' % model.encode() + vectors + tail


def _describe_entry(name: str) -> dict[str, Any]:
    digest = hashlib.sha256(name.encode()).hexdigest()
    details = {"format": "gguf", "family": "sim", "families": ["sim"], "parameter_size": "0", "quantization_level": ""}
    full = f"{name}:latest"
    return {
        "name": full, "model": full, "modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": digest,
        "details": details,
    }  # fmt: skip


def _show(model: str) -> bytes:
    dimension = read_dimension(model)
    if dimension is None:
        return _not_found(model)
    render_vectors(dimension)  # so that the first answer is as fast as the others
    info = {
        "general.architecture": "sim", "sim.context_length": CONTEXT_LENGTH, "sim.embedding_length": dimension,
    }  # fmt: skip
    details = _describe_entry(model)["details"]
    return answer_json({"details": details, "model_info": info, "capabilities": ["embedding"], "parameters": ""})


def _not_found(model: str) -> bytes:
    return answer_json({"error": f"model '{model}' not found"}, status="404 Not Found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=1)
    parser.add_argument("--request-ms", type=float, default=0.0, help="cost of a request")
    parser.add_argument("--text-ms", type=float, default=0.0, help="cost of each of its texts")
    options = parser.parse_args()
    serve(SimulatedOllama(Pool(options.request_ms, options.text_ms)).handle, options.endpoints)


if __name__ == "__main__":
    main()
