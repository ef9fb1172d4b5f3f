"""A simulated Ollama: the API that embedding clients use, S endpoints (ports), each with one or more slots behind it.

    python benchmarks/sim_ollama.py --endpoints 8 --request-ms 10 --text-ms 15
    python benchmarks/sim_ollama.py --slots 4 --text-ms 15 --char-us 10 --context 256

A slot serves one request at a time, as a real server does with an embedding model. A request of n texts occupies it for
``request_ms + n * text_ms + characters * char_us``, divided by the speed of its endpoint; further requests queue. An
endpoint with several slots is one URL in front of several servers: the balancer gives each request to a slot when it
arrives (``slots.Balance``). A request whose client disconnects leaves its place. With all costs 0 it answers at once.

A token is four characters; with ``--tokens wordpiece`` it is a word piece of all-MiniLM-L6-v2, and ``/api/show`` with
``verbose`` has the vocabulary. With ``"truncate": false`` a text over the context is refused as the real server refuses
it: after all other texts of the request have been embedded. A text that is cut keeps the vector of the whole.

Its own cost is negligible. Vectors are looked up, not computed: for each dimension ``VECTORS`` unit vectors are
rendered as JSON once, and the CRC-32 of a text selects one. So the same text always has the same vector, and an answer
is a few byte strings joined. Models are named ``sim-N`` with the dimension N.

Control, at every port and at the URL ``control``, which no fault hits (it is printed beside ``urls``):

* ``GET /sim/counters`` returns the counts since ``POST /sim/reset``, whose body may set other costs (fields of
  ``Costs``).
* ``GET /sim/log`` returns the records of finished requests since the reset (``embed_log.Record``): what a check needs
  to prove caps and shares.
* ``POST /sim/faults`` arms a fault (``Fault``), or removes faults (``{"endpoint": 2, "armed": false}``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import enum
import functools
import hashlib
import os
import re
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import orjson
from embed_log import Outcome, Record
from http_server import Ports, Reply, Request, answer_json, make_answer, make_chunked, open_ports, serve
from slots import Balance, Balancer, Clock, LoopClock, Work

VECTORS = 1024
"""Different vectors per dimension; 8.5 MB of JSON for 768."""
CONTEXT_LENGTH = 8192
CHARS_PER_TOKEN = 4
PRIORITY = -15
"""Of the simulation's process, if it may set it: it uses little, and must notice a request when it arrives."""
LOG_RECORDS = 1_000_000
"""Records kept; about 300 bytes each."""
VERSION = "0.33.0"
_MODEL = re.compile(r"sim-([1-9][0-9]{0,4})(?::latest)?")
DIMENSIONS = (384, 768, 1536)
CONTEXT_EXCEEDED = "the input length exceeds the context length"
ERRORS = {
    400: 'do embedding request: Post "http://127.0.0.1:1/v1/embeddings": EOF',
    500: "llama runner process has terminated: exit status 2",
    503: "server busy, please try again.  maximum pending requests exceeded",
}
"""Texts of errors that are not the client's: a runner that died, one that does not start, a full queue."""


@functools.lru_cache(maxsize=8)
def render_vectors(dimension: int) -> list[bytes]:
    """Return ``VECTORS`` unit vectors as JSON, the same in every process."""
    vectors = np.random.default_rng(dimension).standard_normal((VECTORS, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY) for vector in vectors]


@dataclass(frozen=True, slots=True)
class Costs:
    """What a request costs, and how long a text may be."""

    request_ms: float = 0.0
    text_ms: float = 0.0
    char_us: float = 0.0
    """Microseconds per character."""
    refusal_ms: float = 5.0
    """Cost of a text that is refused; measured on a real server."""
    context: int = CONTEXT_LENGTH
    """Tokens that a text may have."""


class FaultKind(enum.StrEnum):
    """What an endpoint does wrong."""

    HANG = "hang"
    """It accepts requests and does not answer them, as a frozen process. When the fault is removed it goes on."""
    ERROR = "error"
    """Embed requests are answered with ``status`` and ``error``."""
    EMPTY = "empty"
    """The texts with the marker get vectors without a number, the others of the request theirs."""
    DROP = "drop"
    """Embed requests: the connection is closed without an answer."""
    REFUSE = "refuse"
    """Connections are refused and the open ones aborted, as when the server is killed."""
    DIGEST = "digest"
    """``/api/tags`` has another digest for every model, as after a pull of another version; vectors stay the same."""
    MISSING = "missing"
    """No model is there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; an endpoint may have one of each kind."""

    kind: FaultKind
    status: int = 503
    error: str = ""
    """By default the text of the real server for the status 400 (EOF of the runner), 500 or 503."""
    delay_s: float = 0.0
    """Time until an error or a drop, during which no slot is occupied."""
    count: int | None = None
    """Requests that are still hit; None means no end."""
    marker: str = ""
    """Errors, drops and empty vectors hit requests only when a text contains it, as a text that stops the runner."""
    only_embed: bool = False
    """A hang hits embed requests only: the runner is frozen, not the server."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One port: its slots, its faults, and what they hold back."""

    number: int
    port: int
    balancer: Balancer
    faults: dict[FaultKind, Fault] = field(default_factory=dict)
    held: list[Callable[[], None]] = field(default_factory=list)
    """What happens when a hang is removed."""

    def hit(self, kind: FaultKind, texts: Sequence[str]) -> Fault | None:
        """Return an armed fault that concerns one of the texts, and count it."""
        fault = self.faults.get(kind)
        if fault is not None and not any(fault.marker in text for text in texts):
            return None
        if fault is not None and fault.count is not None:
            if fault.count <= 1:
                self.faults.pop(kind)
            else:
                self.faults[kind] = replace(fault, count=fault.count - 1)
        return fault


@dataclass(slots=True, eq=False)
class _Call:
    """A request of ``POST /api/embed`` that was read."""

    endpoint: Endpoint
    headers: dict[str, str]
    texts: list[str]
    is_over: list[bool]
    """Which texts are refused; empty if none is."""
    reply: Reply
    answer: Callable[[], bytes]
    arrival: float


def count_by_chars(text: str) -> int:
    """Return the number of four-character tokens."""
    return -(-len(text) // CHARS_PER_TOKEN)


class SimulatedOllama:
    """Request handler of the simulation; ``handle`` is passed to ``http_server.serve`` or ``open_ports``."""

    def __init__(
        self,
        costs: Costs | None = None,
        *,
        slots: int = 1,
        balance: Balance = Balance.LEAST_CONNECTIONS,
        speeds: Sequence[float] = (),
        vocabulary: Sequence[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Simulate endpoints; ``use`` names their ports.

        Args:
            costs: Cost of a request.
            slots: Servers behind each endpoint.
            balance: How they are chosen.
            speeds: Speeds of the endpoints, 1 by default.
            vocabulary: Word pieces; by default tokens are characters.
            clock: Time and timers; by default those of the running loop.
        """
        self.costs = Costs() if costs is None else costs
        self.endpoints: list[Endpoint] = []
        self.log: deque[Record] = deque(maxlen=LOG_RECORDS)
        self._slots, self._balance, self._speeds = slots, balance, speeds
        self._clock = LoopClock() if clock is None else clock
        self._vocabulary = vocabulary
        self._count_tokens = count_by_chars if vocabulary is None else _count_by_pieces(vocabulary)
        self._by_port: dict[int, Endpoint] = {}
        self._ports: Ports | None = None
        self._reset_counts()

    def use(self, ports: Ports, count: int) -> None:
        """Take the first ``count`` of the open ports as endpoints."""
        self._ports = ports
        for url in ports.urls[:count]:
            self.add_endpoint(int(url.rpartition(":")[2]))

    def add_endpoint(self, port: int) -> Endpoint:
        """Serve a port."""
        number = len(self.endpoints)
        endpoint = Endpoint(number, port, Balancer(self._clock, self._slots, balance=self._balance))
        for slot in endpoint.balancer.slots:
            slot.speed = self._speeds[number] if number < len(self._speeds) else 1.0
        self.endpoints.append(endpoint)
        self._by_port[port] = endpoint
        return endpoint

    def _reset_counts(self) -> None:
        self.log.clear()
        self.other_calls, self.first_call_at = 0, None
        self._since = self._clock.time()
        for endpoint in self.endpoints:
            for slot in endpoint.balancer.slots:
                slot.busy_s = 0.0

    def reset(self, **costs: Any) -> None:
        """Reset counters and log; set other costs if given."""
        self.costs = replace(self.costs, **costs)
        self._reset_counts()

    other_calls: int
    first_call_at: float | None
    """Wall clock, which is comparable between processes."""

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        if request.path.startswith("/sim/"):
            self._control(request, reply)
            return
        endpoint = self._by_port.get(request.port)
        if endpoint is None:
            reply(_unknown(request))
            return
        hang = endpoint.faults.get(FaultKind.HANG)
        is_embed = request.path == "/api/embed" and request.method == "POST"
        if hang is not None and (is_embed or not hang.only_embed):
            self._hold(endpoint, request, reply)
        elif is_embed:
            self._embed(endpoint, request, reply)
        else:
            self.other_calls += 1
            reply(self._describe(endpoint, request))

    # Embedding

    def _embed(self, endpoint: Endpoint, request: Request, reply: Reply) -> None:
        if self.first_call_at is None:
            self.first_call_at = time.time()
        try:
            model, texts, is_cut = read_call(request.body)
        except ValueError as error:
            reply(answer_json({"error": str(error)}, status="400 Bad Request"))
            return
        dimension = None if FaultKind.MISSING in endpoint.faults else read_dimension(model)
        now = self._clock.time()
        tokens = list(map(self._count_tokens, texts))
        is_over: list[bool] = []
        if max(tokens, default=0) > self.costs.context:
            if is_cut:
                tokens = [min(count, self.costs.context) for count in tokens]
            else:
                is_over = [count > self.costs.context for count in tokens]
        call = _Call(endpoint, request.headers, texts, is_over, reply, lambda: b"", now)
        fault = endpoint.hit(FaultKind.DROP, texts) or endpoint.hit(FaultKind.ERROR, texts)
        if fault is not None:
            self._fail(call, fault)
        elif dimension is None:
            self._record(call, Outcome.FAILED)
            reply(_not_found(model))
        else:
            found, empty = dimension, endpoint.hit(FaultKind.EMPTY, texts)
            marker = None if empty is None else empty.marker
            call.answer = lambda: make_chunked(embed(model, found, texts, tokens=sum(tokens), empty=marker))
            self._submit(call)

    def _submit(self, call: _Call) -> None:
        costs = self.costs
        text_s = [costs.text_ms / 1000] * len(call.texts)
        if costs.char_us:
            text_s = [plain + len(text) * costs.char_us / 1e6 for plain, text in zip(text_s, call.texts, strict=True)]
        for index in (index for index, is_over in enumerate(call.is_over) if is_over):
            text_s[index] = costs.refusal_ms / 1000
        work = Work(costs.request_ms / 1000, text_s, functools.partial(self._finish, call))
        call.reply.on_gone = functools.partial(call.endpoint.balancer.cancel, work)
        call.endpoint.balancer.submit(work)

    def _finish(self, call: _Call, work: Work) -> None:
        if work.is_canceled:
            self._record(call, Outcome.CANCELED, work)
        elif any(call.is_over):
            self._record(call, Outcome.REFUSED, work)
            self._send(call, answer_json({"error": CONTEXT_EXCEEDED}, status="400 Bad Request"))
        else:
            self._record(call, Outcome.ANSWERED, work)
            self._send(call, call.answer())

    def _send(self, call: _Call, answer: bytes) -> None:
        if FaultKind.HANG in call.endpoint.faults:
            call.endpoint.held.append(functools.partial(call.reply, answer))
        else:
            call.reply(answer)

    def _fail(self, call: _Call, fault: Fault) -> None:
        def end() -> None:
            self._record(call, Outcome.FAILED)
            if fault.kind is FaultKind.DROP:
                call.reply.drop()
            else:
                text = fault.error or ERRORS.get(fault.status, "injected fault")
                call.reply(answer_json({"error": text}, status=f"{fault.status} Fault"))

        if fault.delay_s > 0:
            self._clock.call_later(fault.delay_s, end)
        else:
            end()

    def _hold(self, endpoint: Endpoint, request: Request, reply: Reply) -> None:
        arrival, gone = self._clock.time(), False

        def leave() -> None:
            nonlocal gone
            gone = True
            if request.path == "/api/embed":
                _, texts, _ = read_call(request.body)
                call = _Call(endpoint, request.headers, texts, [], reply, lambda: b"", arrival)
                self._record(call, Outcome.FAILED)

        def go_on() -> None:
            if not gone:
                self.handle(request, reply)

        reply.on_gone = leave
        endpoint.held.append(go_on)

    def _record(self, call: _Call, outcome: Outcome, work: Work | None = None) -> None:
        headers = call.headers
        done = 0 if work is None else work.embedded
        self.log.append(
            Record(
                endpoint=call.endpoint.number,
                slot=0 if work is None else work.slot,
                arrival=call.arrival,
                start=None if work is None else work.start,
                end=self._clock.time() if work is None or work.end is None else work.end,
                texts=len(call.texts),
                chars=sum(map(len, call.texts)),
                embedded=done - sum(call.is_over[:done]),
                outcome=outcome,
                flow=headers.get("ingest-flow", ""),
                band=headers.get("ingest-band", ""),
                request_id=headers.get("x-request-id", ""),
            )
        )

    # Descriptions

    def _describe(self, endpoint: Endpoint, request: Request) -> bytes:
        names = [] if FaultKind.MISSING in endpoint.faults else [f"sim-{dimension}" for dimension in DIMENSIONS]
        salt = "other" if FaultKind.DIGEST in endpoint.faults else ""
        match request.method, request.path:
            case ("GET", "/"):
                return make_answer(b"Ollama is running", kind="text/plain")
            case ("HEAD", "/"):
                return make_answer(b"")
            case ("GET", "/api/version"):
                return answer_json({"version": VERSION})
            case ("GET", "/api/tags"):
                return answer_json({"models": [_describe_entry(name, salt) for name in names]})
            case ("GET", "/api/ps"):
                loaded = {"expires_at": "2100-01-01T00:00:00Z", "size_vram": 0, "context_length": self.costs.context}
                return answer_json({"models": [{**_describe_entry(name, salt), **loaded} for name in names]})
            case ("POST", "/api/show"):
                return self._show(request, has_models=bool(names))
        return _unknown(request)

    def _show(self, request: Request, *, has_models: bool) -> bytes:
        body = orjson.loads(request.body)
        model = body.get("model") or body.get("name") or ""
        dimension = read_dimension(model) if has_models else None
        if dimension is None:
            return _not_found(model)
        render_vectors(dimension)  # so that the first answer is as fast as the others
        architecture = "sim" if self._vocabulary is None else "bert"
        info: dict[str, Any] = {
            "general.architecture": architecture,
            f"{architecture}.context_length": self.costs.context,
            f"{architecture}.embedding_length": dimension,
        }
        if self._vocabulary is not None:
            from ingestion_devstack.ollama.catalog import describe_vocabulary

            info |= describe_vocabulary(self._vocabulary, verbose=bool(body.get("verbose")))
        details = _describe_entry(model)["details"]
        return answer_json({"details": details, "model_info": info, "capabilities": ["embedding"], "parameters": ""})

    # Control

    def _control(self, request: Request, reply: Reply) -> None:
        match request.method, request.path:
            case (_, "/sim/counters"):
                reply(answer_json(self.counters()))
            case (_, "/sim/log"):
                reply(make_answer(orjson.dumps(list(self.log))))
            case ("POST", "/sim/reset"):
                self.reset(**orjson.loads(request.body or b"{}"))
                reply(answer_json({}))
            case ("POST", "/sim/faults"):
                task = asyncio.ensure_future(self.arm(**orjson.loads(request.body or b"{}")))
                task.add_done_callback(lambda done: reply(_answer_armed(done)))
            case ("POST", "/sim/speed"):
                body = orjson.loads(request.body)
                self.set_speed(body["endpoint"], body["speed"])
                reply(answer_json({}))
            case _:
                reply(_unknown(request))

    def set_speed(self, endpoint: int, speed: float) -> None:
        """Set the speed of an endpoint's slots for requests that start later."""
        for slot in self.endpoints[endpoint].balancer.slots:
            slot.speed = speed

    async def arm(
        self, endpoint: int | None = None, kind: str | None = None, *, armed: bool = True, **values: Any
    ) -> None:
        """Arm a fault or remove faults.

        Args:
            endpoint: Number of the endpoint; None means all.
            kind: Kind of the fault; None, with ``armed`` false only, means all.
            armed: False to remove.
            values: Further fields of ``Fault``.
        """
        kinds = list(FaultKind) if kind is None else [FaultKind(kind)]
        if armed and kind is None:
            raise ValueError("a fault has a kind")
        faults = [Fault(one, **values) for one in kinds]
        for one in self.endpoints if endpoint is None else [self.endpoints[endpoint]]:
            for fault in faults:
                if armed:
                    one.faults[fault.kind] = fault
                else:
                    one.faults.pop(fault.kind, None)
            await self._apply(one)

    async def _apply(self, endpoint: Endpoint) -> None:
        if self._ports is not None:
            if FaultKind.REFUSE in endpoint.faults:
                self._ports.shut(endpoint.port)
            else:
                await self._ports.open(endpoint.port)
        if FaultKind.HANG not in endpoint.faults:
            held, endpoint.held = endpoint.held, []
            for action in held:
                action()

    def counters(self) -> dict[str, Any]:
        """Return the counts since the last reset; ``busy_share`` covers all slots of endpoints that were called.

        Requests that have not ended yet are in ``in_flight`` only.
        """
        log = [one for one in self.log if one.arrival >= self._since]
        worked = [one for one in log if one.start is not None]
        used = {one.endpoint for one in log}
        starts = [one.start for one in worked if one.start is not None]
        span_s = max(one.end for one in worked) - min(starts) if worked else 0.0
        busy = {number: sum(slot.busy_s for slot in self.endpoints[number].balancer.slots) for number in used}
        busy_s = sum(busy.values())
        outcomes = {outcome.value: sum(one.outcome is outcome for one in log) for outcome in Outcome}
        return {
            "calls": len(log),
            "texts": sum(one.texts for one in log),
            "chars": sum(one.chars for one in log),
            "embedded": sum(one.embedded for one in log),
            "in_vain": sum(one.in_vain for one in log),
            "outcomes": outcomes,
            "in_flight": sum(one.balancer.load for one in self.endpoints),
            "other_calls": self.other_calls,
            "endpoints_used": len(used),
            "busy_s": busy_s,
            "span_s": span_s,
            "busy_share": busy_s / (span_s * len(used) * self._slots) if span_s > 0 else 0.0,
            "first_call_at": self.first_call_at,
            "each": {
                str(self.endpoints[number].port): {
                    "calls": sum(one.endpoint == number for one in log),
                    "busy_s": busy[number],
                }
                for number in sorted(used)
            },
        }


def read_dimension(model: str) -> int | None:
    """Return the dimension in a model's name; None for an unknown model."""
    found = _MODEL.fullmatch(model)
    return int(found[1]) if found and int(found[1]) in DIMENSIONS else None


def read_call(raw: bytes) -> tuple[str, list[str], bool]:
    """Return model, texts and ``truncate`` of an embed request.

    Raises:
        ValueError: with the answer's text.
    """
    body = orjson.loads(raw)
    texts = (body.get("input") or []) if isinstance(body, dict) else None
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("invalid input type")
    return body.get("model") or "", texts, body.get("truncate") is not False


def embed(model: str, dimension: int, texts: list[str], *, tokens: int, empty: str | None = None) -> bytes:
    """Return the body of an answer; the vectors of texts that contain ``empty`` have no numbers."""
    rendered = render_vectors(dimension)
    found = [rendered[zlib.crc32(text.encode()) % VECTORS] for text in texts]
    if empty is not None:
        found = [b"[]" if empty in text else vector for text, vector in zip(texts, found, strict=True)]
    vectors = b",".join(found)
    tail = b'],"total_duration":1000000,"load_duration":1000000,"prompt_eval_count":%d}' % tokens
    return b'{"model":"%b","embeddings":[' % model.encode() + vectors + tail


def _count_by_pieces(vocabulary: Sequence[str]) -> Callable[[str], int]:
    from ingestion_engine.adapters.ollama.word_pieces import WordPieces

    pieces = WordPieces(vocabulary)
    return lambda text: len(pieces.encode(text)) + 2


def load_vocabulary() -> Sequence[str]:
    """Return the word pieces of all-MiniLM-L6-v2."""
    from ingestion_devstack.ollama.minilm import read_vocabulary

    return read_vocabulary()


def _describe_entry(name: str, salt: str = "") -> dict[str, Any]:
    digest = hashlib.sha256((name + salt).encode()).hexdigest()
    details = {"format": "gguf", "family": "sim", "families": ["sim"], "parameter_size": "0", "quantization_level": ""}
    full = f"{name}:latest"
    return {
        "name": full, "model": full, "modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": digest,
        "details": details,
    }  # fmt: skip


def _not_found(model: str) -> bytes:
    return answer_json({"error": f"model '{model}' not found"}, status="404 Not Found")


def _unknown(request: Request) -> bytes:
    text = f"the simulation does not support {request.method} {request.path}"
    return answer_json({"error": text}, status="404 Not Found")


def _answer_armed(done: asyncio.Task[None]) -> bytes:
    error = done.exception()
    return answer_json({}) if error is None else answer_json({"error": str(error)}, status="400 Bad Request")


@contextlib.asynccontextmanager
async def open_simulation(simulated: SimulatedOllama, endpoints: int = 1) -> AsyncIterator[list[str]]:
    """Serve in this process and loop for the duration of the context; yields the endpoints' URLs. For tests."""
    async with open_ports(simulated.handle, endpoints) as ports:
        simulated.use(ports, endpoints)
        yield ports.urls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=1, help="URLs")
    parser.add_argument("--slots", type=int, default=1, help="servers behind each of them")
    parser.add_argument("--balance", type=Balance, choices=list(Balance), default=Balance.LEAST_CONNECTIONS)
    parser.add_argument("--speeds", default="", help="comma-separated, one per endpoint; 0.5 takes twice as long")
    parser.add_argument("--tokens", choices=("chars", "wordpiece"), default="chars")
    for one in fields(Costs):
        kind = int if one.name == "context" else float
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=one.default)
    options = parser.parse_args()
    simulated = SimulatedOllama(
        Costs(**{one.name: getattr(options, one.name) for one in fields(Costs)}),
        slots=options.slots,
        balance=options.balance,
        speeds=[float(speed) for speed in options.speeds.split(",") if speed],
        vocabulary=load_vocabulary() if options.tokens == "wordpiece" else None,
    )

    @contextlib.asynccontextmanager
    async def use(ports: Ports) -> AsyncIterator[dict[str, Any]]:
        simulated.use(ports, options.endpoints)
        yield {"urls": ports.urls[: options.endpoints], "control": ports.urls[-1]}

    with contextlib.suppress(OSError):  # so that times of arrival are true on a busy machine, where that is permitted
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    serve(simulated.handle, options.endpoints + 1, extra=use)


if __name__ == "__main__":
    main()
