"""The source of this package as a zip that Ray unpacks as one of its ``py_modules``."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest date in a zip: equal files give equal bytes, whenever they were written."""

_SUFFIXES: Final = frozenset({".py", ".mako", ".typed"})


@dataclass(frozen=True, slots=True)
class PackageZip:
    """A zip and its name in Ray's package store."""

    name: str
    """``_ray_pkg_<hash>.zip``: the form of Ray's own uploads, so that its garbage collection applies."""
    data: bytes

    @property
    def uri(self) -> str:
        """URI for ``runtime_env["py_modules"]``."""
        return f"gcs://{self.name}"


@functools.cache
def build_package_zip(root: Path = Path(__file__).parents[2]) -> PackageZip:
    """Return the Python source of the package as a zip. Deterministic: equal source has an equal name.

    Ray unpacks the zip into a directory that it puts on ``PYTHONPATH`` (Ray 2.60, ``py_modules`` by ``gcs://`` URI: no
    top level is removed), so every path starts with the name of the package.

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
