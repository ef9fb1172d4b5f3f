"""The form for a new job: from fields to the request, and from errors back to fields. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from starlette.datastructures import FormData

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import JobRequest, Mode, StoreName
from ingestion_engine.runtime.addresses import for_caller
from ingestion_engine.runtime.validation import describe_fault

MODES: Final = (Mode.SYNC, Mode.FULL)
"""Modes that the form offers; verify and repair belong to a collection."""

GENERAL: Final = ""
"""Field of errors that belong to no single one."""

_TEXTS: Final = {
    "bucket": "source.bucket",
    "prefix": "source.prefix",
    "collection": "collection",
    "alias": "alias",
    "model": "embedding.model",
    "embed_prefix": "embedding.prefix",
    "query_prefix": "embedding.query_prefix",
}
_NUMBERS: Final = {
    "max_chars": "chunking.max_chars",
    "overlap_chars": "chunking.overlap_chars",
    "parallelism": "parallelism",
    "priority": "priority",
    "min_objects": "failure_budget.min_objects",
}
_LINES: Final = {"include": "source.include", "exclude": "source.exclude"}
_EXACT: Final = frozenset({"prefix", "embed_prefix", "query_prefix"})
"""Fields in which a space at the end has a meaning: ``search_document: ``."""

_FLAGS: Final = ("allow_mass_delete", "retry_failed")

_FIELDS: Final = {
    **{path: name for names in (_TEXTS, _NUMBERS, _LINES) for name, path in names.items()},
    **{name: name for name in ("mode", "stores", "metadata", *_FLAGS)},
    "delete_missing": "keep_missing",
    "failure_budget.max_fraction": "max_failed_percent",
    "max_runtime_s": "max_runtime_hours",
    "chunking": "overlap_chars",
    "engine": "engine",
}
"""Field of the form by the path in the request."""

_WORDS: Final = {"overlap_chars": "overlap in characters", "max_chars": "the characters of a chunk"}
"""What the form calls fields that errors name."""

_DEFAULTS: Final[Mapping[str, str]] = {"mode": Mode.SYNC.value}


@dataclass(slots=True)
class JobForm:
    """Texts of the form as they were entered, and what is wrong with them by field."""

    values: dict[str, str] = field(default_factory=lambda: dict(_DEFAULTS))
    stores: tuple[str, ...] = tuple(store.value for store in StoreName)
    errors: dict[str, str] = field(default_factory=dict)
    hint: str | None = None
    """What to do about a general error."""

    def text(self, name: str) -> str:
        """Return the text of a field."""
        return self.values.get(name, "")

    @property
    def is_advanced(self) -> bool:
        """True when a folded field has a value or an error, so that it is not hidden."""
        plain = {"bucket", "prefix", "collection", "alias", "mode", "engine", "stores", GENERAL}
        return any(text for name, text in self.values.items() if name not in plain) or any(set(self.errors) - plain)

    @classmethod
    def read(cls, form: FormData) -> JobForm:
        """Return the texts of a form that was sent."""
        texts = {name: value.replace("\r\n", "\n") for name, value in form.items() if isinstance(value, str)}
        texts = {name: text if name in _EXACT else text.strip() for name, text in texts.items()}
        if texts.get("bucket", "").startswith("s3://") and not texts.get("prefix"):
            # a URL that was copied from elsewhere
            texts["bucket"], _, texts["prefix"] = texts["bucket"].removeprefix("s3://").partition("/")
        stores = tuple(str(value) for value in form.getlist("stores"))
        return cls({name: texts.get(name, "") for name in {*_FIELDS.values()} - {"stores"}}, stores)

    @classmethod
    def of_request(cls, request: Mapping[str, Any], engine: str) -> JobForm:
        """Return the texts for a request as stored, with empty fields for defaults."""
        plain = JobRequest.model_validate({"source": {"bucket": "aaa"}, "collection": "a"}).model_dump(mode="json")
        values = {name: _find_text(request, plain, path) for name, path in {**_TEXTS, **_NUMBERS}.items()}
        values |= {name: "\n".join(_find(request, path) or ()) for name, path in _LINES.items()}
        values |= {name: "yes" if request.get(name) else "" for name in _FLAGS}
        values["keep_missing"] = "" if request.get("delete_missing", True) else "yes"
        values["metadata"] = "\n".join(f"{name}={value}" for name, value in (request.get("metadata") or {}).items())
        share = _find_text(request, plain, "failure_budget.max_fraction")
        values["max_failed_percent"] = f"{float(share) * 100:g}" if share else ""
        hours = _find_text(request, plain, "max_runtime_s")
        values["max_runtime_hours"] = f"{float(hours) / 3600:g}" if hours else ""
        is_full = request.get("mode") == Mode.FULL or bool(request.get("plan_full"))
        values |= {"mode": (Mode.FULL if is_full else Mode.SYNC).value, "engine": engine}
        return cls(values, tuple(request.get("stores") or (store.value for store in StoreName)))

    def to_request(self) -> JobRequest | None:
        """Return the request; None when there are errors, which are noted at their fields."""
        body: dict[str, Any] = {"source": {"bucket": ""}, "stores": list(self.stores)}
        for name, path in _TEXTS.items():
            if self.text(name):
                _put(body, path, self.text(name))
        for name, path in _LINES.items():
            if self.text(name):
                _put(body, path, [line.strip() for line in self.text(name).splitlines() if line.strip()])
        for name in _FLAGS:
            body[name] = self.text(name) == "yes"
        body["delete_missing"] = self.text("keep_missing") != "yes"
        body["mode"] = self.text("mode") if self.text("mode") in {mode.value for mode in MODES} else Mode.SYNC.value
        for name, path in _NUMBERS.items():
            self._read_number(name, path, body)
        self._read_number("max_failed_percent", "failure_budget.max_fraction", body, factor=0.01)
        self._read_number("max_runtime_hours", "max_runtime_s", body, factor=3600)
        self._read_metadata(body)
        if not self.text("bucket"):
            self.errors["bucket"] = "Enter the name of a bucket."
        try:
            request = JobRequest.model_validate(body)
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                self._note(".".join(str(part) for part in fault["loc"]), describe_fault(fault))
            return None
        return None if self.errors else request

    def note(self, error: SubmissionError) -> None:
        """Note a refusal of the service at the field that it names, or above the form."""
        message = for_caller(error.message)
        text = f"{message} {error.hint or ''}".strip()
        name = self._find_field(error.field or "")
        self.errors.setdefault(name, message if name == GENERAL else text)
        self.hint = error.hint if name == GENERAL else self.hint

    def _note(self, path: str, reason: str) -> None:
        for technical, plain in _WORDS.items():
            reason = reason.replace(technical, plain)
        sentence = reason[:1].upper() + reason[1:].rstrip(".") + "."
        name = self._find_field(path)
        if name == "collection" and reason == "required unless alias is given":
            sentence = "Enter a collection, or an alias."
        self.errors.setdefault(name, sentence)

    def _find_field(self, path: str) -> str:
        while path:
            if path in _FIELDS:
                return _FIELDS[path]
            path = path.rpartition(".")[0]
        return GENERAL

    def _read_number(self, name: str, path: str, body: dict[str, Any], *, factor: float | None = None) -> None:
        text = self.text(name)
        if not text:
            return
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            self.errors[name] = "Enter a number."
            return
        if factor is not None:
            value *= factor
        is_whole = path != "failure_budget.max_fraction"
        if is_whole and (not abs(value) < 2**53 or value != int(value)):
            self.errors[name] = "Enter a whole number."
            return
        _put(body, path, int(value) if is_whole else value)

    def _read_metadata(self, body: dict[str, Any]) -> None:
        entries: dict[str, str] = {}
        for line in self.text("metadata").splitlines():
            name, separator, value = line.partition("=")
            if not line.strip():
                continue
            if not separator or not name.strip():
                self.errors["metadata"] = f"Enter one name=value per line; {line.strip()[:60]!r} is none."
                return
            entries[name.strip()] = value.strip()
        if entries:
            body["metadata"] = entries


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        body = body.setdefault(name, {})
    body[last] = value


def _find(body: Mapping[str, Any], path: str) -> Any:
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _find_text(request: Mapping[str, Any], plain: Mapping[str, Any], path: str) -> str:
    value = _find(request, path)
    is_default = value is None or (value == _find(plain, path) and not path.startswith(("source", "collection")))
    return "" if is_default else str(value)
