"""What is shipped to Ray: the product's source and nothing else."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import ingestion_engine
from ingestion_engine.submission.ray.package_zip import build_package_zip


def test_the_zip_holds_the_product_and_nothing_else() -> None:
    """Every module under the package's own name; nothing of the embedded stack, no cache, no test."""
    names = zipfile.ZipFile(io.BytesIO(build_package_zip().data)).namelist()
    root = Path(ingestion_engine.__file__).parent
    modules = {f"ingestion_engine/{path.relative_to(root).as_posix()}" for path in root.rglob("*.py")}
    assert modules <= set(names)
    assert {name.split("/")[0] for name in names} == {"ingestion_engine"}
    assert {Path(name).suffix for name in names} <= {".py", ".mako", ".typed"}
