"""API keys of a file.

The file (``INGEST_API__KEYS_FILE``) is a JSON list with hashes of keys::

    [{"name": "docs-team", "id": "k3v9x0c2aa", "secrets": [{"sha256": "<64 hex digits>"}],
      "scopes": ["search", "read"], "buckets": ["docs-*"], "collections": ["handbook*"],
      "expires_at": "2027-01-31T00:00:00Z"},
     {"name": "admin", "key_sha256": "<64 hex digits>"}]

The second form is that of former releases, and of keys that the operator has made. ``ingest keys`` edits the file; the
service reads it again when it changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from ingestion_engine.access.keys.entries import ApiKey, KeyBook
from ingestion_engine.access.principal import Principal
from ingestion_engine.runtime.settings import SettingsError
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.runtime.validation import describe_faults

_KEYS: Final = TypeAdapter(list[ApiKey])
_VARIABLE: Final = "INGEST_API__KEYS_FILE"

_log = get_logger(__name__)


class KeyRing:
    """The keys of a file; a ``CredentialSource``.

    Args:
        path: The file.
        now: Clock.

    Raises:
        SettingsError: the file cannot be read or is not a list of keys.
    """

    title: Final = "API key"

    def __init__(self, path: Path, *, now: Callable[[], Moment] = utc_now) -> None:
        self._path = path
        self._now = now
        self._read_at, self._book = _read_book(path)

    @property
    def entries(self) -> Sequence[ApiKey]:
        """The entries of the file, as last read."""
        return self._book.entries

    async def find(self, bearer: str) -> Principal | None:
        """Return the caller that has a key, or None. Raises SubmissionError "unauthenticated" as ``KeyBook.find``."""
        return self._reread().find(bearer, self._now())

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the file has the key of a caller, with the same rights."""
        return self._reread().confirms(principal, self._now())

    async def recall(self, credential: str) -> Principal | None:
        """Return the caller of a secret, by its hash, as it is now."""
        return self._reread().recall(credential)

    def _reread(self) -> KeyBook:
        """Return the keys; reads the file again when it has changed. An invalid file leaves the keys unchanged."""
        try:
            if _read_change(self._path) != self._read_at:
                self._read_at, self._book = _read_book(self._path)
        except (OSError, SettingsError) as error:
            _log.warning("API keys not reloaded", extra={"error": str(error)})
        return self._book


def _read_change(path: Path) -> tuple[int, int, int]:
    """Return what differs after every change of a file, also one within the resolution of its time."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read_book(path: Path) -> tuple[tuple[int, int, int], KeyBook]:
    try:
        changed = _read_change(path)
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{_VARIABLE}: Cannot read {str(path)!r}: {error.strerror}.") from error
    return changed, _parse_book(data)


def _parse_book(data: bytes) -> KeyBook:
    try:
        return KeyBook(_KEYS.validate_json(data))
    except ValidationError as error:
        raise SettingsError(f"{_VARIABLE}: {describe_faults(error)}") from None  # the input has hashes of keys
    except ValueError as error:
        raise SettingsError(f"{_VARIABLE}: {error}") from None


class KeyFile:
    """Changes the file of API keys; a ``KeyStorage``. Safe in several processes at once.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)

    async def list_keys(self) -> Sequence[ApiKey]:
        """Return all entries in the order of the file. Raises SettingsError."""
        return self._read().entries

    async def change(self, apply: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Replace all entries by the result of a function, atomically.

        A new file has the mode 0600; an existing one keeps its owner, and its mode but for access of others.

        Raises:
            SettingsError: the file is not a list of keys, or the result has two keys of the same name.
            OSError: the file cannot be written.
        """
        target = self._path.resolve()  # a link stays one
        with _locked(target.parent):
            entries = KeyBook(apply(self._read().entries)).entries
            _write(target, entries)

    def _read(self) -> KeyBook:
        return _parse_book(self._path.read_bytes()) if self._path.exists() else KeyBook()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other editors of files in a folder out."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, entries: Sequence[ApiKey]) -> None:
    """Write a file next to the old one, and put it in its place."""
    data = orjson.dumps([dump_entry(entry) for entry in entries], option=orjson.OPT_INDENT_2) + b"\n"
    old = path.stat() if path.exists() else None
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if old is not None:
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode) & 0o660 | 0o600)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a loss of power could bring a revoked key back
    finally:
        os.close(folder)


def dump_entry(entry: ApiKey) -> dict[str, Any]:
    """Return an entry as JSON types, without what is not set. Pure."""
    dumped = entry.model_dump(mode="json", exclude_defaults=True)
    if entry.scopes is not None:
        dumped["scopes"] = sorted(entry.scopes)
    return dumped
