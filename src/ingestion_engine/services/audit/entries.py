"""Entries of the audit log."""

from __future__ import annotations

import datetime as dt
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from ingestion_engine.domain.audit import Outcome
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import escape_unseen
from ingestion_engine.runtime.timestamps import Moment, format_milliseconds

TEXT_MAX: Final = 128
"""Characters of a name in an entry; the rest is cut off. Names of collections and keys are not longer."""

PATH_MAX: Final = 1024
"""Characters of a prefix in an entry: the longest key of S3."""

MASK: Final = "***"
"""What stands in an entry for a secret."""

SECRET_MIN: Final = 6
"""Length of the shortest value that is taken for a secret: a shorter one would be found in every text."""

_API_KEY: Final = re.compile(r"(ingest_[a-z0-9]{10}_)[A-Za-z0-9]{16,}")
"""An API key as `ingest keys` makes it; its id, which is no secret, stays."""
_JWT: Final = re.compile(
    r"(?:(?<![A-Za-z0-9_-])|(?<=%[0-9A-Fa-f]{2}))eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*"
)
"""A signed token, at the beginning of a word or after an escape of a URL."""
_ACCOUNT: Final = re.compile(r"(://)[^/@\s]+@")

_RANDOM_BITS: Final = 80
_ID_DIGITS: Final = 32


REFUSALS: Final = frozenset({401, 403, 421, 429})
"""Statuses of answers that refuse the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One entry. Texts are cut, and free of secrets and control characters (``Redactor``)."""

    id: str
    """32 hexadecimal digits; they begin with the Unix milliseconds, so ids sort by time."""
    at: Moment
    outcome: Outcome
    operation: str
    """Id of the operation, as in OpenAPI; a command as ``keys.create``; ``unmatched`` when no route matches."""
    who: str = ""
    """Name of the API key or of the person; empty when the caller is unknown."""
    kind: str = "unknown"
    """How the caller is known: ``key``, ``oidc``, ``anonymous``, ``command``, ``service``; else ``unknown``."""
    key_id: str | None = None
    address: str | None = None
    """Address of the client."""
    method: str | None = None
    status: int | None = None
    code: str | None = None
    """Code of the problem; None when the request had success."""
    request_id: str | None = None
    subject: str | None = None
    """Name of what is changed: collection, alias or key."""
    job_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What else the operation is about, for example bucket and prefix."""
    begun: str | None = None
    """Id of the entry of the beginning of the same change."""
    number: int = 1
    """Number of equal refusals that this entry stands for."""
    until: Moment | None = None
    """When the last of them was."""

    def values(self) -> dict[str, Any]:
        """Return the columns of the row."""
        return {**_shallow(self), "outcome": self.outcome.value, "details": dict(self.details)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> AuditEntry:
        """Return the entry of a row; the inverse of ``values``."""
        return cls(**{**row, "outcome": Outcome(row["outcome"])})

    def line(self) -> dict[str, Any]:
        """Return the entry as the object of a JSON line; what has no value is left out. Pure."""
        given = {**_shallow(self), "at": format_milliseconds(self.at), "until": format_milliseconds(self.until)}
        given["outcome"], given["details"] = self.outcome.value, dict(self.details)
        if self.number == 1:
            del given["number"]
        return {name: value for name, value in given.items() if value not in (None, "", {})}


def _shallow(entry: AuditEntry) -> dict[str, Any]:
    return {one.name: getattr(entry, one.name) for one in fields(entry)}


class EntryIds:
    """Creates ids that sort in the order of creation. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def make(self) -> str:
        """Return 48 bits of Unix milliseconds and 80 random bits, as hexadecimal digits."""
        with self._lock:
            fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
            if fresh >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                fresh = self._last + 1
            self._last = fresh
        return f"{fresh:0{_ID_DIGITS}x}"


new_entry_id: Final = EntryIds().make


def first_id(moment: Moment) -> str:
    """Return the lowest id that an entry of a moment can have. Pure."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return f"{milliseconds << _RANDOM_BITS:0{_ID_DIGITS}x}"


def id_moment(entry_id: str) -> Moment | None:
    """Return when an id was made; None for a text that is no id. Pure."""
    if len(entry_id) != _ID_DIGITS or not set(entry_id) <= set("0123456789abcdef"):
        return None
    try:
        return dt.datetime.fromtimestamp((int(entry_id, 16) >> _RANDOM_BITS) / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return None


class Redactor:
    """Removes secrets from texts: those of the settings, those that a request brings, and what looks like one."""

    def __init__(self, secrets_known: Collection[str] = ()) -> None:
        self._known = _by_length(secrets_known)

    def clean(self, entry: AuditEntry, own: Collection[str] = ()) -> AuditEntry:
        """Return an entry without secrets, control characters and long texts. Pure.

        Args:
            entry: The entry.
            own: Credentials of the request that the entry is about. They are looked for in what the request has given,
                not in what the service knows of it by itself: a caller would mask its own address with it.
        """
        known = _by_length([*self._known, *own])

        def text(value: Any, limit: int = TEXT_MAX) -> Any:
            return None if value is None else _clean_text(str(value), known, limit)

        def fact(value: Any) -> Any:
            return None if value is None else _clean_text(str(value), self._known, TEXT_MAX)

        return replace(
            entry,
            who=fact(entry.who),
            key_id=fact(entry.key_id),
            address=fact(entry.address),
            operation=fact(entry.operation),
            code=fact(entry.code),
            request_id=text(entry.request_id),
            subject=text(entry.subject),
            job_id=text(entry.job_id),
            details={
                text(name): value if isinstance(value, bool | int | None) else text(value, PATH_MAX)
                for name, value in list(entry.details.items())[:16]
            },
        )


def _by_length(texts: Collection[str]) -> list[str]:
    """Return the secrets, longest first: one may contain another. Pure."""
    return sorted({text for text in texts if len(text) >= SECRET_MIN}, key=len, reverse=True)


def _clean_text(text: str, known: Collection[str], limit: int) -> str:
    """Return a text without secrets and control characters, cut to its length. Pure."""
    text = text[: 8 * PATH_MAX]  # before the search, whose time grows with the length
    for secret in known:
        text = text.replace(secret, MASK)
    text = _API_KEY.sub(rf"\1{MASK}", text)
    text = _ACCOUNT.sub(rf"\1{MASK}@", _JWT.sub(MASK, text))
    shown = escape_unseen(text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def find_secrets(settings: Settings) -> list[str]:
    """Return every secret value of the settings, and the passwords in their URLs. Pure."""
    found: list[str] = []

    def search(value: Any) -> None:
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, BaseModel):
            for name in type(value).model_fields:
                search(getattr(value, name))
        elif isinstance(value, str) and "://" in value and "@" in value:
            account = value.partition("://")[2].rpartition("@")[0]
            password = account.partition(":")[2]
            found.extend((password, unquote(password)))
        elif isinstance(value, list | tuple):
            for one in value:
                search(one)

    search(settings)
    return [value for value in found if value]
