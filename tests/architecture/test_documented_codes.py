"""docs/api.md and docs/formats.md have every error code of objects and every code of warnings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ingestion_engine.domain.failure_hints import FAILURE_HINTS

ROOT = Path(__file__).resolve().parents[2]
ERRORS = frozenset({"ObjectError", "ObjectUnreadable", "OcrUnavailable", "ParserDied", "TextRefused", "PointsRefused"})
NEVER_OF_OBJECTS = frozenset(
    {
        "nested_too_deeply",  # a file in a file in a file: the outer object gets a warning
        "file_not_uploadable",  # of `ingest upload`
        "points_refused",  # becomes `store_refused`
    }
)


def _codes(*functions: str) -> Iterator[str]:
    """Yield the literal first argument of every call of the functions, by their last name."""
    for path in sorted((ROOT / "src" / "ingestion_engine").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            first = node.args[0]
            if name in functions and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _section(page: str, title: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"# {title}\n")[2]
    return text.partition("\n#")[0]


def test_every_error_code_of_objects_has_its_hint_in_the_manual() -> None:
    """The console and `GET /jobs/{id}/failures` show the same sentence."""
    manual = _section("api.md", "Objects that cannot be read")
    for code, hint in FAILURE_HINTS.items():
        assert f"| `{code}` | {hint} |" in manual
    assert set(_codes(*ERRORS)) - NEVER_OF_OBJECTS <= set(FAILURE_HINTS)


def test_error_codes_of_objects_are_documented() -> None:
    codes = set(_codes(*ERRORS)) - NEVER_OF_OBJECTS
    manual = _section("api.md", "Objects that cannot be read")
    assert {"corrupt_document", "no_text", "object_too_large", "ocr_unavailable", "embedding_failed"} <= codes
    assert [code for code in sorted(codes) if f"`{code}`" not in manual] == []


def test_codes_of_warnings_are_documented() -> None:
    codes = {code for code in _codes("ReadWarning", "warn") if code.islower() and "_" in code}
    manual = _section("formats.md", "Warnings")
    assert {"lines_skipped", "part_unreadable"} <= codes
    assert [code for code in sorted(codes) if f"| `{code}` |" not in manual] == []
