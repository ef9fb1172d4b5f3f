"""The corpus of ``ingest demo``: documents of this repository and generated files, three of them broken."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import ingestion_engine
from ingestion_devstack.demo.formats import (
    write_docx,
    write_email,
    write_epub,
    write_html,
    write_pdf,
    write_rtf,
)
from ingestion_devstack.demo.texts import HANDBOOK, NEWS
from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.runtime.settings import PREFIX, Settings

BROKEN = {
    "broken/cut-short.pdf": "corrupt_document",
    "broken/really-a-picture.md": "type_mismatch",
    "broken/empty.txt": "empty_document",
}
"""Keys that must fail, with their codes."""

_PACKAGE = Path(ingestion_engine.__file__).resolve().parent
_PACKAGES = ("domain", "pipeline", "state", "adapters", "driver", "services")
"""Packages whose docstrings become pages."""


def make_corpus() -> dict[str, bytes]:
    """Return every key below the prefix with its content. Deterministic for one version of the code."""
    corpus = dict(_own_documents())
    corpus.update(_handbook())
    corpus.update(_tables())
    corpus.update(_broken(corpus["handbook/reading-room.pdf"]))
    return corpus


def _own_documents() -> Iterator[tuple[str, bytes]]:
    """Yield the checkout's Markdown files, if there is a checkout, and pages made of the product's docstrings."""
    root = _PACKAGE.parents[1]
    if (root / "pyproject.toml").exists():
        for path in sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")]):
            yield f"docs/{path.relative_to(root)}", path.read_bytes()
    for package in _PACKAGES:
        paragraphs = list(_docstrings(_PACKAGE / package))
        yield f"reference/{package}.html", write_html(f"The package {package}", paragraphs).encode()


def _docstrings(package: Path) -> Iterator[str]:
    """Yield one paragraph per module of a package and per public class and function in it."""
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = "" if path.stem == "__init__" else f"Module {path.stem}: "
        yield f"{name}{_flat(ast.get_docstring(tree))}"
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("_") and (docstring := ast.get_docstring(node)):
                yield f"{node.name}: {_flat(docstring)}"


def _flat(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _handbook() -> dict[str, bytes]:
    titles = list(HANDBOOK)
    opening, water, lending, bees, baking = titles
    return {
        "handbook/reading-room.pdf": write_pdf(opening, HANDBOOK[opening]),
        "handbook/water-damage.docx": write_docx(water, HANDBOOK[water]),
        "handbook/lending.rtf": write_rtf(lending, HANDBOOK[lending]),
        "handbook/the whole book.epub": write_epub("Handbook", {opening: HANDBOOK[opening], bees: HANDBOOK[bees]}),
        "handbook/Bienen & Müll, 100 % (café).txt": "\n\n".join((bees, *HANDBOOK[bees])).encode("utf-16"),
        "mail/summer-party.eml": write_email(baking, HANDBOOK[baking], attachment="Bring plates and forks."),
        "archive/lending.txt.gz": gzip.compress("\n\n".join(HANDBOOK[lending]).encode(), mtime=0),
    }


def _tables() -> dict[str, bytes]:
    rows = [dict(zip(("date", "subject", "text"), entry, strict=True)) for entry in NEWS]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["variable", "default", "meaning"])
    writer.writerows(_settings_rows())
    items = "".join(f"<item date='{date}'><title>{subject}</title><p>{text}</p></item>" for date, subject, text in NEWS)
    return {
        "reference/settings.csv": table.getvalue().encode(),
        "reference/job-request.json": json.dumps(JobRequest.model_json_schema(), indent=1).encode(),
        "news/2026.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "news/2026.xml": f"<?xml version='1.0'?><news>{items}</news>".encode(),
    }


def _settings_rows() -> Iterator[tuple[str, str, str]]:
    defaults = Settings.model_construct()
    for name in Settings.model_fields:
        group = getattr(defaults, name)
        for field, info in getattr(type(group), "model_fields", {}).items():
            variable = f"{PREFIX}{name}__{field}".upper()
            yield variable, str(getattr(group, field)), _flat(info.description)


def _broken(pdf: bytes) -> dict[str, bytes]:
    return {
        "broken/cut-short.pdf": pdf[: len(pdf) // 3],
        "broken/really-a-picture.md": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
        "broken/empty.txt": b"",
    }
