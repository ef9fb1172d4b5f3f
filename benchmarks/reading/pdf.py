"""Compare the text of PDF files with that of PDFium, page by page.

python benchmarks/reading/pdf.py FOLDER ... [--before SRC] [--poppler] [--all]

``--before`` is the ``src`` of another version of the engine, which is compared too. ``--poppler`` reads every file with
``pdftotext`` as well: another order and other hyphens are usual there, so that only lost words tell something.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reading.compare import ROW_TITLE, WordDiff, compare_words, split_words
from reading.readings import Reader, Reading, engine_readers, find_files, parse_arguments

_HYPHEN = re.compile(r"(?<=\w)[-\u2010\u2011\ufffe](?=\w)")
_BENCHMARKS = str(Path(__file__).parents[1])

PDFIUM = f"""
import sys
sys.path.append({_BENCHMARKS!r})
from reading.readings import serve
import pypdfium2 as pdfium, pypdfium2.raw as raw

def page_text(page):
    text = page.get_textpage()
    out = []
    for index in range(text.count_chars()):
        code = raw.FPDFText_GetUnicode(text, index)
        out.append("\\ufffe" if raw.FPDFText_IsHyphen(text, index) == 1 else chr(code) if 3 < code != 0xfffe else "")
    text.close()
    joined = "".join(out).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\\r\\n", "\\n")

def read(path):
    document = pdfium.PdfDocument(open(path, "rb").read())
    pages, noted = {{}}, []
    for index in range(len(document)):
        try:
            page = document[index]
        except pdfium.PdfiumError:
            continue
        pages[index + 1] = page_text(page)
        if raw.FPDFPage_GetAnnotCount(page):
            noted.append(index + 1)
        page.close()
    document.close()
    return {{"pages": pages, "noted": noted}}

serve(read)
"""
"""PDFium's characters one by one, by its Python helpers: nothing of the engine's reader."""

POPPLER = f"""
import subprocess, sys
sys.path.append({_BENCHMARKS!r})
from reading.readings import serve

def read(path):
    done = subprocess.run(["pdftotext", "-enc", "UTF-8", path, "-"], capture_output=True, timeout=100, check=True)
    pages = done.stdout.decode("utf-8", "replace").split("\\f")
    return {{"pages": dict(enumerate(pages[:-1], 1))}}

serve(read)
"""


@dataclass(slots=True)
class Sum:
    """The comparison of one reader with PDFium over all files."""

    diff: WordDiff = field(default_factory=WordDiff)
    files: int = 0
    pages: int = 0
    missing_pages: int = 0
    """Pages with words that a file that was read lacks."""
    failures: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(
        __doc__, argv, ("--poppler", {"action": "store_true", "help": "compare Poppler's pdftotext with PDFium too"})
    )
    readers = engine_readers(options.before)
    if options.poppler:
        readers["poppler"] = Reader(POPPLER)
    sums = {name: Sum() for name in readers}
    print(f"{'file':<60} {'reader':<8}{ROW_TITLE}  pages lost")
    with Reader(PDFIUM) as pdfium:
        for path in find_files(options.folders, ".pdf"):
            theirs = pdfium.read(path)
            for name, reader in readers.items():
                row = _add(sums[name], reader.read(path), theirs)
                if row or options.all:
                    print(f"{path.name[-60:]:<60} {name:<8}{row}", flush=True)
    for name, total in sums.items():
        print(f"\n{name}: {total.files} files, {total.pages} pages, {total.missing_pages} of them missing;", end=" ")
        print(f"failed: {dict(total.failures)}; warnings: {dict(total.warnings)}")
        print(
            f"{ROW_TITLE}\n{total.diff.row()}\n{1e3 * total.seconds / max(1, total.pages):.1f} ms of CPU per page,",
            end=" ",
        )
        print(f"peak {readers[name].peak_bytes / 2**20:.0f} MiB")
        readers[name].__exit__()


def _add(total: Sum, ours: Reading, theirs: Reading) -> str:
    """Add a file to the sum; return the end of its row, empty for one without a difference."""
    words = sum(len(split_words(text)) for text in theirs.pages.values())
    if ours.error:
        total.failures[ours.error if words else f"{ours.error} (PDFium: no words)"] += 1
        return f"{words:>9,} {ours.error}{f' (PDFium: {theirs.error})' if theirs.error else ''}" if words else ""
    total.files += 1
    total.pages += len(theirs.pages)
    total.seconds += ours.seconds
    total.warnings.update(ours.warnings.keys())
    diff = sum((_compare(ours, theirs, number) for number in theirs.pages), WordDiff())
    lost = [number for number in theirs.pages if number not in ours.pages and split_words(theirs.pages[number])]
    total.diff += diff
    total.missing_pages += len(lost)
    is_same = not (diff.lost or diff.doubled or diff.reordered or lost)
    return "" if is_same else f"{diff.row()}  {', '.join(map(str, lost[:8]))}"


def _compare(ours: Reading, theirs: Reading, number: int) -> WordDiff:
    """Return the difference of a page. Hyphens inside words are left out: whether one that ends a line belongs to the
    word is a guess in every reader. Fields and notes repeat words of the page: pages with some count what is lost.
    """
    diff = compare_words(*(_HYPHEN.sub("", reading.pages.get(number, "")) for reading in (ours, theirs)))
    return replace(diff, doubled=0, added=0) if number in theirs.noted else diff


if __name__ == "__main__":
    main()
