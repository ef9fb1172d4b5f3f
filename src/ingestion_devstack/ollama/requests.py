"""Request bodies of Ollama's API, read as its Go server reads them.

Unknown fields are ignored, names match in any case, null means "not given", bytes after the first JSON value are
ignored, broken unicode becomes U+FFFD. The texts of type errors are Go's; those of syntax errors come close. Source:
encoding/json and api/types.go, v0.33.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DEFAULT_KEEP_ALIVE_S = 300.0
_FOREVER_S = math.inf
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_RUNNER_OPTIONS = {
    "num_ctx": int,
    "num_batch": int,
    "num_gpu": int,
    "main_gpu": int,
    "use_mmap": bool,
    "num_thread": int,
    "draft_num_predict": int,
}
"""Options of which a changed value makes Ollama reload the runner. All others have no effect on embeddings."""
_GO_TYPES: dict[type, str] = {str: "string", bool: "bool", int: "int", dict: "map[string]interface {}"}


class BadRequestError(Exception):
    """The body cannot be used; answered with `status` and the message."""

    def __init__(self, message: str, status: int = 400) -> None:
        """`status` is the HTTP status of the answer."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """The options that decide how a runner is started. None: not given."""

    num_ctx: int | None = None
    num_batch: int | None = None
    others: tuple[tuple[str, int | bool], ...] = ()


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """A checked `POST /api/embed` or, with one text, `POST /api/embeddings`."""

    model: str
    texts: tuple[str, ...]
    truncate: bool
    dimensions: int
    """0 or less: the whole vector."""
    keep_alive_s: float
    """Seconds the model stays loaded after the call; infinite if the client gave a negative value."""
    options: Mapping[str, Any]


class Body:
    """The top-level object of a request body."""

    def __init__(self, raw: bytes, struct: str) -> None:
        """Parse `raw`; `struct` is the name of the Go type, for its error texts.

        Raises:
            BadRequestError: empty body, no JSON, or no object.
        """
        if not raw.strip():
            raise BadRequestError("missing request body")
        value = _parse_json(raw.decode("utf-8", errors="replace"))
        if value is not None and not isinstance(value, dict):
            raise BadRequestError(f"json: cannot unmarshal {_kind(value)} into Go value of type api.{struct}")
        self._struct = struct
        self._fields = {key.lower(): field for key, field in (value or {}).items()}

    def raw(self, name: str) -> Any:
        """Return the field as it came; None if absent or null."""
        return self._fields.get(name)

    def text(self, name: str) -> str:
        """Return a string field; empty if absent.

        Raises:
            BadRequestError: another type.
        """
        value = self._typed(name, str)
        return value if isinstance(value, str) else ""

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a boolean field.

        Raises:
            BadRequestError: another type.
        """
        value = self._typed(name, bool)
        return default if value is None else bool(value)

    def integer(self, name: str) -> int:
        """Return an integer field; 0 if absent.

        Raises:
            BadRequestError: another type, or a fraction.
        """
        value = self._typed(name, int)
        return value if isinstance(value, int) else 0

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object field; empty if absent.

        Raises:
            BadRequestError: another type.
        """
        value = self._typed(name, dict)
        return value if isinstance(value, dict) else {}

    def _typed(self, name: str, kind: type) -> Any:
        value = self._fields.get(name)
        if value is None or type(value) is kind:
            return value
        shown = f"number {value}" if kind is int and isinstance(value, float) else _kind(value)
        raise BadRequestError(
            f"json: cannot unmarshal {shown} into Go struct field {self._struct}.{name} of type {_GO_TYPES[kind]}"
        )


def read_embed_call(raw: bytes) -> EmbedCall:
    """Read the body of `POST /api/embed`.

    Raises:
        BadRequestError: with the real server's text.
    """
    body = Body(raw, "EmbedRequest")
    return EmbedCall(
        model=body.text("model"),
        keep_alive_s=_read_keep_alive(body.raw("keep_alive")),
        truncate=body.flag("truncate", default=True),
        dimensions=body.integer("dimensions"),
        options=body.mapping("options"),
        texts=_read_input(body.raw("input")),
    )


def read_legacy_call(raw: bytes) -> EmbedCall:
    """Read the body of `POST /api/embeddings`: one `prompt`; an empty one only loads the model.

    Raises:
        BadRequestError: with the real server's text.
    """
    body = Body(raw, "EmbeddingRequest")
    prompt = body.text("prompt")
    return EmbedCall(
        model=body.text("model"),
        keep_alive_s=_read_keep_alive(body.raw("keep_alive")),
        truncate=False,
        dimensions=0,
        options=body.mapping("options"),
        texts=(prompt,) if prompt else (),
    )


def read_runner_options(options: Mapping[str, Any]) -> RunnerOptions:
    """Pick the options that matter to a runner; unknown ones are ignored, as there.

    Raises:
        BadRequestError: status 500, as the real server answers a value of the wrong type.
    """
    found: dict[str, int | bool] = {}
    for name, kind in _RUNNER_OPTIONS.items():
        value = options.get(name)
        if value is None:
            continue
        if kind is bool and not isinstance(value, bool):
            raise BadRequestError(f'option "{name}" must be of type boolean', status=500)
        if kind is int and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadRequestError(f'option "{name}" must be of type integer', status=500)
        found[name] = kind(value)
    num_ctx, num_batch = found.pop("num_ctx", None), found.pop("num_batch", None)
    return RunnerOptions(num_ctx=num_ctx, num_batch=num_batch, others=tuple(found.items()))


def _parse_json(text: str) -> Any:
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, _ = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_read_float).raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            raise BadRequestError("unexpected EOF") from error
        raise BadRequestError(f"invalid character {text[error.pos]!r} looking for beginning of value") from error
    except RecursionError as error:
        raise BadRequestError("exceeded max depth") from error
    return value


def _read_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise BadRequestError(f"json: cannot unmarshal number {digits} into Go value of type float64")
    return number


def _refuse_constant(constant: str) -> None:
    raise BadRequestError(f"invalid character {constant.lstrip('-')[0]!r} looking for beginning of value")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _read_input(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (_repair_text(value),)
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(_repair_text(text) for text in value)
    raise BadRequestError("invalid input type")


def _repair_text(text: str) -> str:
    """Replace lone surrogates by U+FFFD; everything else stays."""
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")


def _read_keep_alive(value: Any) -> float:
    if value is None:
        return _DEFAULT_KEEP_ALIVE_S
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        kinds = {"bool": "bool", "list": "[]interface {}", "dict": "map[string]interface {}"}
        raise BadRequestError(f"Unsupported type: '{kinds[type(value).__name__]}'")
    seconds = _parse_duration(value) if isinstance(value, str) else float(value)
    return _FOREVER_S if seconds < 0 else seconds


def _parse_duration(text: str) -> float:
    quoted = json.dumps(text, ensure_ascii=False)
    digits = text.lstrip("+-") if len(text) - len(text.lstrip("+-")) <= 1 else ""
    sign = -1.0 if text.startswith("-") else 1.0
    if digits == "0":
        return 0.0
    if re.fullmatch(r"\d+\.?\d*", digits):
        raise BadRequestError(f"time: missing unit in duration {quoted}")
    if not digits or "".join(match.group() for match in _DURATION_PART.finditer(digits)) != digits:
        raise BadRequestError(f"time: invalid duration {quoted}")
    return sign * sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(digits))
