"""A corpus of mixed, partly broken objects under difficult keys; the same seed gives the same bytes.

For tests, drills and benchmarks. Nothing is downloaded: every format is written here or by the library that
applications use.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from support.corpus import formats
from support.corpus.broken import BROKEN
from support.corpus.keys import AWKWARD_KEYS, seaweedfs_stores
from support.corpus.pdf import build_pdf
from support.corpus.text import FOREIGN, write_big_text, write_paragraphs, write_sentence

MIB = 1024 * 1024

_NAMES = ("Ada", "Boris", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana")
_CITIES = ("Lisbon", "Nagoya", "Tromsø", "Lagos", "Cusco", "Izmir")


@dataclass(frozen=True, slots=True)
class CorpusObject:
    """One object to put into a bucket and what must become of it."""

    key: str
    body: bytes
    content_type: str | None
    metadata: dict[str, str]
    expected: Literal["done", "failed", "skipped"]
    expected_code: str | None = None


def generate_corpus(
    objects: int = 1000,
    seed: int = 7,
    broken: float = 0.05,
    big_text_bytes: int = 30 * MIB,
    *,
    bomb_bytes: int = 600 * MIB,
    only_seaweedfs: bool = False,
) -> Iterator[CorpusObject]:
    """Yield the objects of a corpus, keys all different, in no particular order. Deterministic.

    Args:
        objects: How many in all, at least 20.
        seed: Decides every byte.
        broken: Share of objects that must fail, in up to ``len(BROKEN)`` ways.
        big_text_bytes: Size of one large text; 0 leaves it out.
        bomb_bytes: What bombs unpack to; more than the limit in force, or they are no bombs.
        only_seaweedfs: Replace keys that SeaweedFS cannot store (``seaweedfs_stores``) by ordinary ones.

    Cost: about 10 ms per object on average, most of it in Office files; the bombs take 3 s once.
    """
    rng = random.Random(seed)
    count = 0
    for special in _specials(rng, objects, broken, big_text_bytes, bomb_bytes):
        if only_seaweedfs and not seaweedfs_stores(special.key, len(special.body)):
            continue
        count += 1
        yield special
    for number in range(count, objects):
        suffix, content_type, build = _FORMATS[number % len(_FORMATS)]
        key = f"{rng.choice(('reports', 'handbook', 'notes', 'mail/2024'))}/{number:05d}{suffix}"
        declared = content_type if number % 3 else ("binary/octet-stream" if number % 2 else None)
        yield CorpusObject(key, build(rng, number), declared, _metadata(rng, number), "done")


def _metadata(rng: random.Random, number: int) -> dict[str, str]:
    return {} if number % 4 else {"author": rng.choice(_NAMES), "source-id": str(number)}


def _specials(
    rng: random.Random, objects: int, broken: float, big_text_bytes: int, bomb_bytes: int
) -> Iterator[CorpusObject]:
    for marker in ("", "reports/", "empty folder/", "reports/deep/er/")[1 : 1 + max(1, objects // 250)]:
        yield CorpusObject(marker, b"", "application/x-directory", {}, "skipped")
    if big_text_bytes:
        yield CorpusObject(
            "big/large.txt", write_big_text(big_text_bytes, rng.randrange(2**32)), "text/plain", {}, "done"
        )
    for number in range(round(objects * broken)):
        way = BROKEN[number % len(BROKEN)]
        key = f"broken/{number:04d} {way.name}{way.suffix}"
        yield CorpusObject(key, way.build(number, bomb_bytes), way.content_type, {}, "failed", way.code)
    for number, key in enumerate(AWKWARD_KEYS[: max(1, objects // 5)]):
        text = "\n\n".join([f"This object has an awkward key, number {number}.", *write_paragraphs(rng, 300)])
        yield CorpusObject(key, text.encode(), "text/plain", {}, "done")


def _sections(rng: random.Random) -> list[tuple[str, list[str]]]:
    return [(f"Part {i} on {rng.choice(_CITIES)}", write_paragraphs(rng, rng.randint(400, 1300))) for i in range(1, 4)]


def _title(rng: random.Random, number: int) -> str:
    return f"Register {number}: {rng.choice(_CITIES)}"


def _rows(rng: random.Random, count: int) -> list[list[str]]:
    head = ["id", "name", "city", "remark"]
    return [head, *([str(i), rng.choice(_NAMES), rng.choice(_CITIES), write_sentence(rng, i)] for i in range(count))]


def _text(rng: random.Random, number: int) -> bytes:
    return "\n\n".join([_title(rng, number), *write_paragraphs(rng, rng.randint(300, 4500))]).encode()


def _foreign(rng: random.Random, number: int) -> bytes:
    encoding, pattern = list(FOREIGN.items())[number // len(_FORMATS) % len(FOREIGN)]
    return "\n".join(pattern.format(number * 1000 + i) for i in range(rng.randint(5, 25))).encode(encoding)


def _json(rng: random.Random, number: int) -> bytes:
    items = [{"id": i, "name": rng.choice(_NAMES), "note": write_sentence(rng, i)} for i in range(rng.randint(2, 14))]
    return json.dumps({"title": _title(rng, number), "items": items}, ensure_ascii=False, indent=1).encode()


def _jsonl(rng: random.Random, number: int) -> bytes:
    rows = ({"id": number, "row": i, "note": write_sentence(rng, i)} for i in range(rng.randint(2, 14)))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _pages(rng: random.Random) -> list[list[str]]:
    return [write_paragraphs(rng, rng.randint(500, 1800)) for _ in range(rng.randint(1, 3))]


def _plain_pdf(rng: random.Random, number: int) -> bytes:
    return build_pdf(f"Register {number}", _pages(rng))


def _mail(rng: random.Random, number: int) -> bytes:
    attachment = formats.build_csv(_rows(rng, 3)) if number % 2 else None
    paragraphs = write_paragraphs(rng, rng.randint(200, 2500))
    return formats.build_eml(_title(rng, number), paragraphs, html_only=number % 5 == 0, attachment=attachment)


def _log(rng: random.Random, number: int) -> bytes:
    return "\n".join(write_sentence(rng, number * 100 + i) for i in range(rng.randint(3, 30))).encode()


def _workbook(rng: random.Random, number: int) -> bytes:
    return formats.build_xlsx(
        _title(rng, number), [("Register", _rows(rng, rng.randint(3, 20))), ("Notes", [["note", "n"], ["x", 1]])]
    )


_FORMATS: tuple[tuple[str, str | None, Callable[[random.Random, int], bytes]], ...] = (
    (".txt", "text/plain", _text),
    (".md", "text/markdown", lambda rng, n: formats.build_markdown(_title(rng, n), _sections(rng))),
    (".html", "text/html", lambda rng, n: formats.build_html(_title(rng, n), _sections(rng))),
    (".pdf", "application/pdf", _plain_pdf),
    (".csv", "text/csv", lambda rng, _n: formats.build_csv(_rows(rng, rng.randint(3, 25)))),
    (".json", "application/json", _json),
    (".txt", None, _foreign),
    (".docx", None, lambda rng, n: formats.build_docx(_title(rng, n), _sections(rng))),
    (".eml", "message/rfc822", _mail),
    (".jsonl", "application/x-ndjson", _jsonl),
    (".rtf", "application/rtf", lambda rng, n: formats.build_rtf(_title(rng, n), _sections(rng))),
    (".epub", "application/epub+zip", lambda rng, n: formats.build_epub(_title(rng, n), _sections(rng))),
    (".xml", "application/xml", lambda rng, n: formats.build_xml(_title(rng, n), _sections(rng))),
    (".xlsx", None, _workbook),
    (".txt.gz", "application/gzip", lambda rng, n: formats.build_gzip(_text(rng, n))),
    (".htm", "text/html", lambda rng, n: formats.build_html(_title(rng, n), _sections(rng), charset="iso-8859-1")),
    (".pptx", None, lambda rng, n: formats.build_pptx(_title(rng, n), _sections(rng))),
    ("", "text/plain", _text),
    (".log", "text/plain", _log),
    (".pdf.gz", None, lambda rng, n: formats.build_gzip(_plain_pdf(rng, n))),
)  # fmt: skip
