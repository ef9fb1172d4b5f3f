"""The documentation agrees with the tree: its links, its index, and its map of the packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes

_ROOT = Path(__file__).resolve().parents[2]
_DOCS = _ROOT / "docs"
_LONGEST_LINE = 120
_PAGES = sorted([*_ROOT.glob("*.md"), *_DOCS.rglob("*.md"), *(_ROOT / "benchmarks").glob("*.md")])


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    """A link with an anchor names a page that exists and a heading on it."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            linked = (page.parent / target).resolve() if target else page
            assert linked.is_file(), target
            assert anchor in _anchors(linked), f"{target}#{anchor}"


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_lines_of_prose_are_at_most_120_characters_long(page: Path) -> None:
    """Tables and blocks of code may be wider."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > _LONGEST_LINE and not line.startswith("|")] == []


@pytest.mark.parametrize(
    ("page", "upload"),
    [
        ("README.md", r"^ingest upload (\S+) s3://"),
        ("docs/deploy/compose.md", r'-v "\$PWD/\.\./(\S+):/data:ro" cli upload'),
    ],
)
def test_what_is_uploaded_first_is_documents(page: str, upload: str) -> None:
    """All of it is read, so that the first job of a new user succeeds."""
    (folder,) = re.findall(upload, (_ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    files = [path for path in (_ROOT / folder).rglob("*") if path.is_file()]
    assert files
    for path in files:
        body = path.read_bytes()
        raw = RawObject(ObjectRef("docs", _name(path), "", len(body), ""), body, None, {})
        assert parse_bytes(raw, FrozenLimits()).text


def test_the_index_lists_every_page() -> None:
    """docs/README.md links to each page and to each decision record."""
    index = (_DOCS / "README.md").read_text(encoding="utf-8")
    linked = {(_DOCS / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index)}
    assert {page.resolve() for page in _DOCS.rglob("*.md")} - {_DOCS / "README.md"} <= linked


def test_the_architecture_lists_every_package() -> None:
    """The table of packages has each top-level package of the product, and no row of it names a missing one."""
    page = (_DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Packages")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    source = _ROOT / "src" / "ingestion_engine"
    assert [name for name in named if not (source / name).exists()] == []
    assert {f"{path.parent.name}/" for path in source.glob("*/__init__.py")} <= named


def test_the_formats_list_every_warning() -> None:
    """Each code that a reader gives a warning is in the table of docs/formats.md, and that table names no other."""
    page = (_DOCS / "formats.md").read_text(encoding="utf-8")
    table = page.split("## Warnings")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    readers = _ROOT / "src" / "ingestion_engine" / "pipeline" / "parsing"
    source = "\n".join(path.read_text(encoding="utf-8") for path in readers.rglob("*.py"))
    assert set(re.findall(r"\bReadWarning\(\s*\"(\w+)\"", source)) <= documented
    assert [code for code in documented if f'"{code}"' not in source] == []
