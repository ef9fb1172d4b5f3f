"""Scanned pages are recognised where it is turned on: by a program that ends with its parser process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import (
    PARSER_VERSION,
    ocr_time_s,
    parse_bytes,
    parse_object,
    parser_version,
)
from ingestion_engine.pipeline.parsing.process import pool
from ingestion_engine.pipeline.parsing.process.pool import close_parsers
from ingestion_engine.runtime.settings import OcrSettings, Settings
from ingestion_engine.services.specs import freeze_limits
from support.pdf_builder import PdfBuilder, show
from support.waiting import wait_for

LIMITS = FrozenLimits(ocr_languages="eng+deu")

_STAND_IN = """#!{python} -I
import pathlib, sys, time
log = pathlib.Path(__file__).with_name("log")
picture = sys.stdin.buffer.read()
mark, columns, rows, depth = picture.split(maxsplit=4)[:4]
pixels = picture[-int(columns) * int(rows):]
with log.open("a") as lines:
    print(sys.argv[1:], mark.decode(), columns.decode(), rows.decode(), min(pixels), max(pixels), file=lines)
{then}
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Tesseract, first on the path of programs, which records its calls in ``log`` beside it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "tesseract"
    write_program(path, 'print("Recognised words\\f")')
    return path


def write_program(path: Path, then: str) -> None:
    path.write_text(_STAND_IN.format(python=sys.executable, then=then))
    path.chmod(0o755)


def calls(program: Path) -> list[str]:
    log = program.with_name("log")
    return log.read_text().splitlines() if log.exists() else []


def make_raw(body: bytes) -> RawObject:
    return RawObject(ObjectRef("docs", "a.pdf", "etag", len(body), "2024-01-02T03:04:06Z"), body, None, {})


def read(body: bytes, limits: FrozenLimits = LIMITS) -> Document:
    return parse_bytes(make_raw(body), limits)


def scan(pages: int = 1, **page: object) -> bytes:
    builder = PdfBuilder()
    for _ in range(pages):
        index = builder.add_picture_page()
        for name, value in page.items():
            builder.pdf.pages[index].obj["/" + name] = value
    return builder.save()


def test_only_pages_without_characters_are_recognised(program: Path) -> None:
    """As a grey picture of 300 dots per inch, in the languages of the job."""
    builder = PdfBuilder()
    builder.add_page(show("Typed words"))
    builder.add_picture_page()
    builder.add_page(b"")
    document = read(builder.save())
    assert document.text == "Typed words\n\nRecognised words"
    assert [span.page for span in document.pages] == [1, 2]
    assert document.warnings == ()
    assert calls(program) == ["['stdin', 'stdout', '-l', 'eng+deu', '--dpi', '300'] P5 2479 3508 128 255"]


def test_it_is_off_by_default(program: Path) -> None:
    with pytest.raises(ObjectError) as caught:
        read(scan(), FrozenLimits())
    assert caught.value.code == "no_text"
    assert "Set INGEST_OCR__ENABLED" in caught.value.hint
    assert calls(program) == []


def test_pages_are_recognised_as_they_are_shown_and_giants_coarser(program: Path) -> None:
    read(scan(Rotate=90))
    read(scan(MediaBox=[0, 0, 14_400, 14_400]))
    assert [line.split()[-4:-2] for line in calls(program)] == [["3508", "2479"], ["6324", "6324"]]


def test_pages_beyond_the_limit_are_a_warning(program: Path) -> None:
    document = read(scan(5), FrozenLimits(ocr_languages="eng", ocr_max_pages=2))
    assert len(calls(program)) == 2
    assert [(warning.code, warning.count) for warning in document.warnings] == [("page_without_text", 3)]
    assert "limit" in document.warnings[0].detail


def test_a_page_whose_fonts_name_no_letters_is_recognised(program: Path) -> None:
    builder = PdfBuilder()
    font = builder.make_font(names={code: f"g{code}" for code in range(65, 91)})
    builder.add_page(show("ABCDEFGHIJKLMNOP", font="G"), fonts={"G": font})
    document = read(builder.save())
    assert (document.text, document.warnings) == ("Recognised words", ())


def test_pictures_in_which_nothing_is_recognised_are_no_text(program: Path) -> None:
    write_program(program, "")
    with pytest.raises(ObjectError) as caught:
        read(scan())
    assert (caught.value.code, caught.value.hint) == ("no_text", "")
    assert len(calls(program)) == 1


def test_a_worker_without_the_program_or_a_language_says_so(program: Path) -> None:
    """The object fails by name, and another job tries it again."""
    write_program(program, "sys.exit(\"Failed loading language 'deu'\")")
    with pytest.raises(ObjectError) as caught:
        read(scan())
    assert (caught.value.code, caught.value.retryable) == ("ocr_unavailable", True)
    assert "'deu'" in str(caught.value)
    program.unlink()
    with pytest.raises(ObjectError) as caught:
        read(scan())
    assert caught.value.code == "ocr_unavailable"
    assert "not installed" in str(caught.value)


async def test_the_program_ends_with_its_parser_process(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However that ends: at the time limit, with its worker, or because its job was canceled as here."""
    pid = program.with_name("pid")
    write_program(program, f"import os; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)")
    monkeypatch.setattr(pool, "GROW_AFTER_S", 60.0)
    close_parsers()
    try:
        parse = asyncio.create_task(parse_object(make_raw(scan()), limits=LIMITS))
        await asyncio.to_thread(wait_for, lambda: pid.exists() and pid.read_text(), 20)
        number = pid.read_text()
        parse.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parse
        await asyncio.to_thread(wait_for, lambda: not _is_running(number), 20)
    finally:
        close_parsers()


def _is_running(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_only_pdfs_get_the_time_for_recognition() -> None:
    """A page takes seconds; another parser that hangs is killed as soon as without recognition."""
    assert ocr_time_s(b"junk\r\n%PDF-1.7", LIMITS) == LIMITS.ocr_timeout_s
    assert ocr_time_s(b"PK\x03\x04", LIMITS) == 0.0
    assert ocr_time_s(b"%PDF-1.7", FrozenLimits()) == 0.0


def test_settings_are_frozen_and_part_of_what_determines_the_text() -> None:
    """Workers agree; turning it on has every object read once more."""
    assert freeze_limits(Settings(), 1).ocr_languages is None
    limits = freeze_limits(Settings(ocr=OcrSettings(enabled=True, languages="deu", max_pages=7)), 1)
    assert (limits.ocr_languages, limits.ocr_max_pages, limits.ocr_timeout_s) == ("deu", 7, 600.0)
    assert parser_version(FrozenLimits()) == PARSER_VERSION
    assert parser_version(limits) == f"{PARSER_VERSION}+ocr:deu:7"
