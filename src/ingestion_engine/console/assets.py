"""The static files of the console, read once when the process starts."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = "/console/static"

_FOLDER: Final = Path(__file__).parent / "static"

_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    media_type: str
    data: bytes
    compressed: bytes
    """The same, compressed with gzip."""


class Assets:
    """All static files by their path.

    The version is a hash over all of them and part of their URLs, so browsers may keep each file for ever.
    """

    def __init__(self) -> None:
        self._files = dict(_read_files())
        digest = hashlib.sha256()
        for path, asset in sorted(self._files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(asset.data).digest())
        self.version = digest.hexdigest()[:12]

    def find(self, path: str) -> Asset | None:
        """Return a file; None where there is none."""
        return self._files.get(path)

    def url(self, path: str) -> str:
        """Return the URL of a file. Raises KeyError: there is none."""
        if path not in self._files:
            raise KeyError(path)
        return f"{ROOT}/{self.version}/{path}"


def _read_files() -> Iterator[tuple[str, Asset]]:
    for file in sorted(_FOLDER.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            path = file.relative_to(_FOLDER).as_posix()
            yield path, Asset(_MEDIA_TYPES[file.suffix], data, gzip.compress(data, mtime=0))


ASSETS: Final = Assets()
