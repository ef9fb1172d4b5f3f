"""The package's own source as a zip that Ray can unpack as one of its ``py_modules``."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest date a zip can hold: the same files give the same bytes, whenever they were written."""

_SUFFIXES: Final = frozenset({".py", ".mako", ".typed"})


@dataclass(frozen=True, slots=True)
class PackageZip:
    """A zip and the name under which Ray's package store knows it."""

    name: str
    """``_ray_pkg_<hash>.zip``: the form that Ray gives its own uploads, so that its garbage collection applies."""
    data: bytes

    @property
    def uri(self) -> str:
        """What ``runtime_env["py_modules"]`` names."""
        return f"gcs://{self.name}"


@functools.cache
def build_package_zip(root: Path = Path(__file__).parents[2]) -> PackageZip:
    """Return the package's Python source, zipped. Deterministic: the same source has the same name.

    Ray unpacks the zip into a directory that it puts on ``PYTHONPATH`` (Ray 2.60, ``py_modules`` by ``gcs://`` URI:
    no top level is
    removed), so every path starts with the package's own name.

    Args:
        root: Directory of the package.
    """
    files = sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES and "__pycache__" not in path.parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(f"{root.name}/{path.relative_to(root).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    data = buffer.getvalue()
    return PackageZip(f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip", data)
