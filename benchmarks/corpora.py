"""Generators of objects to ingest; the same call gives the same bytes. Texts and PDFs come from the tests' corpus."""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.corpus.pdf import build_pdf
from support.corpus.text import write_big_text, write_paragraphs, write_sentence

MB = 1_000_000

BLOCK_BYTES = 8 * MB


def repeat_blocks(make: Callable[[int], bytes], size_bytes: int) -> Iterator[bytes]:
    """Text or JSONL of any size in blocks: one block repeated, so that generating it takes no time or memory.

    Every sentence ends with the number of its block: equal chunks would cost a worker less memory than different ones.
    """
    block = make(min(BLOCK_BYTES, size_bytes))
    for number in range(max(1, round(size_bytes / len(block)))):
        yield block.replace(b". ", b" %d. " % number).replace(b'."', b' %d."' % number)


PDF_PAGES = (1,) * 80 + (3,) * 60 + (12,) * 32 + (60,) * 20 + (700,) * 4 + (1400,) * 4
"""Pages of 200 PDFs; a page of text has about 3.9 kB, so the largest have 5.4 MB."""


def make_text(size_bytes: int) -> bytes:
    """Return plain text in paragraphs."""
    return write_big_text(size_bytes, seed=1)


MARKDOWN_CHARS = 7_900
"""With headings about eight chunks of 1,000 characters where cuts ignore sections; this product cuts at sections, which
gives about eleven."""


def make_markdown(rng: random.Random, chars: int = MARKDOWN_CHARS) -> bytes:
    """Return a Markdown document of sections with headings and some lists."""
    parts = [f"# Report {rng.randrange(10**9)}\n"]
    for number, paragraph in enumerate(write_paragraphs(rng, chars)):
        if number % 4 == 0:
            parts.append(f"## Section {number // 4 + 1}\n")
        parts.append(("- " if number % 7 == 6 else "") + paragraph + "\n")
    return "\n".join(parts).encode()


def make_csv(size_bytes: int) -> bytes:
    """Return a CSV table of four columns."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "name", "amount", "remark"])
    rng = random.Random(2)
    number = 0
    while out.tell() < size_bytes:
        number += 1
        writer.writerow([number, f"name {number % 977}", rng.randrange(10**6) / 100, write_sentence(rng, number)])
    return out.getvalue().encode()


def make_jsonl(size_bytes: int) -> bytes:
    """Return JSON Lines with one record of five fields per line."""
    rng = random.Random(3)
    lines: list[str] = []
    size = 0
    while size < size_bytes:
        number = len(lines)
        record = {"id": number, "tags": ["a", f"t{number % 31}"], "amount": rng.random(), "at": {"page": number % 7}}
        lines.append(json.dumps({**record, "note": write_sentence(rng, number)}) + "\n")
        size += len(lines[-1])
    return "".join(lines).encode()


def make_json(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a JSON document with one list of the records in blocks of JSON Lines."""
    yield b'{"title": "Register", "records": [{}'
    for block in blocks:
        yield b",\n" + block.strip().replace(b"\n", b",\n")
    yield b"]}"


def make_xml(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield an XML document with one element for each paragraph in blocks of text, some of it emphasised."""
    yield b'<?xml version="1.0"?>\n<register><title>Register</title>\n'
    for block in blocks:
        for number, paragraph in enumerate(html.escape(block.decode()).split("\n\n")):
            first, _, rest = paragraph.partition(" ")
            yield f'<entry id="{number}"><note><b>{first}</b> {rest}</note></entry>\n'.encode()
    yield b"</register>"


def make_html(size_bytes: int) -> bytes:
    """Return an HTML page with headings, bold text and lists among its paragraphs."""
    rng = random.Random(4)
    parts = ["<!doctype html><html><head><title>Register</title><style>p {margin: 1em}</style></head><body>"]
    size = 0
    number = 0
    while size < size_bytes:
        number += 1
        paragraphs = "".join(f"<p>{html.escape(p)} <b>See {number}.</b></p>\n" for p in write_paragraphs(rng, 1500))
        parts.append(f"<h2 id='s{number}'>Section {number}</h2>\n{paragraphs}<ul><li>one</li><li>two</li></ul>\n")
        size += len(parts[-1])
    return "".join([*parts, "</body></html>"]).encode()


def make_pdf(rng: random.Random, pages: int, number: int) -> bytes:
    """Return a PDF of pages of text, about 3.9 kB each."""
    return build_pdf(f"Register {number}", [write_paragraphs(rng, 3000) for _ in range(pages)])


def make_pdfs(number_of_pdfs: int = len(PDF_PAGES)) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of PDFs, small and large ones mixed; 200 different numbers of pages repeat."""
    rng = random.Random(5)
    pages = list(itertools.islice(itertools.cycle(PDF_PAGES), number_of_pdfs))
    rng.shuffle(pages)
    for number, count in enumerate(pages):
        yield f"{number:05d}.pdf", make_pdf(rng, count, number)
