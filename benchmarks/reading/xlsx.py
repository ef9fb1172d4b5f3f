"""Compare the text of Excel workbooks with their cells and comments as openpyxl reads them.

python benchmarks/reading/xlsx.py FOLDER ... [--before SRC] [--all]

``--before`` is the ``src`` of another version of the engine, which is compared too. Cells of both go through the
engine's own lines of tables (``render_rows``), so that only what is read differs, not how rows name their columns.
Dates, times and percentages of openpyxl are written as cells show them.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reading.compare import ROW_TITLE, WordDiff, compare_words, split_words
from reading.readings import Reader, Reading, engine_readers, find_files, parse_arguments

_BENCHMARKS = str(Path(__file__).parents[1])
_SOURCE = Path(__file__).parents[2] / "src"

OPENPYXL = f"""
import datetime as dt, sys, warnings
sys.path.append({_BENCHMARKS!r})
warnings.simplefilter("ignore")
import openpyxl
from decimal import Decimal
from reading.readings import serve
from ingestion_engine.pipeline.parsing.formats.tables import render_rows

def show_time(value):
    return f"{{value:%H:%M:%S}}"

def show(value, code):
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).upper()
    if isinstance(value, dt.datetime):
        value = (value + dt.timedelta(milliseconds=500)).replace(microsecond=0)
        return value.date().isoformat() + (" " + show_time(value) if value.time() > dt.time() else "")
    if isinstance(value, dt.time):
        return show_time(value)
    if isinstance(value, dt.timedelta):
        seconds = round(value.total_seconds())
        return f"{{seconds // 3600:02}}:{{seconds // 60 % 60:02}}:{{seconds % 60:02}}"
    if isinstance(value, float | int):
        if "%" in code.split(";")[0].replace('"%"', ""):
            return f"{{value * 100:.15g}} %"
        text = f"{{value:.15g}}"
        return f"{{Decimal(text):f}}" if "e" in text and 1e-10 < abs(value) < 1e21 else text
    return str(value)

def formula(cell):
    value = getattr(cell.value, "text", cell.value)
    return value.replace("_xlfn.", "").replace("_xlws.", "") if isinstance(value, str) and value.startswith("=") else ""

def read(path):
    body = open(path, "rb")
    book = openpyxl.load_workbook(body, data_only=True)
    written = openpyxl.load_workbook(body)
    pages = {{}}
    for number, sheet in enumerate(book.worksheets, 1):
        rows, notes = {{}}, []
        for place, cell in sorted(sheet._cells.items()):
            text = show(cell.value, cell.number_format)
            if not text and cell.data_type != "str":  # an empty text is a value
                text = formula(written[sheet.title]._cells[place])
            rows.setdefault(place[0], []).append((place[1], text))
            if cell.comment and not (cell.comment.author or "").startswith("tc="):
                notes.append(cell.comment.text)
        table, before = [], 0
        for row, cells in rows.items():
            table += [[]] * (1 + (row > before + 1))
            cells = dict(cells)
            table[-1] = [cells.get(column, "") for column in range(1, max(cells) + 1)]
            before = row
        pages[number] = "\\n".join([sheet.title, *render_rows(table), *notes])
        if not any(line.strip() for line in pages[number].splitlines()[1:]):
            del pages[number]
    return {{"pages": pages}}

serve(read)
"""


@dataclass(slots=True)
class Sum:
    """The comparison of one version of the engine with openpyxl over all files."""

    diff: WordDiff = field(default_factory=WordDiff)
    files: int = 0
    sheets: int = 0
    missing_sheets: int = 0
    """Sheets with words of which nothing is in the text of a file that was read."""
    failures: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, argv)
    readers = engine_readers(options.before)
    sums = {name: Sum() for name in readers}
    print(f"{'file':<60} {'reader':<8}{ROW_TITLE}  sheets lost")
    with Reader(OPENPYXL, source=_SOURCE) as openpyxl:
        for suffix in (".xlsx", ".xlsm", ".xltx", ".xltm"):
            for path in find_files(options.folders, suffix):
                theirs = openpyxl.read(path)
                for name, reader in readers.items():
                    row = _add(sums[name], reader.read(path), theirs)
                    if row or options.all:
                        print(f"{path.name[-60:]:<60} {name:<8}{row}", flush=True)
    for name, total in sums.items():
        print(f"\n{name}: {total.files} files, {total.sheets} sheets, {total.missing_sheets} of them missing;", end=" ")
        print(f"failed: {dict(total.failures)}; warnings: {dict(total.warnings)}")
        print(f"{ROW_TITLE}\n{total.diff.row()}\n{total.seconds:.1f} s of CPU,", end=" ")
        print(f"peak {readers[name].peak_bytes / 2**20:.0f} MiB")
        readers[name].__exit__()


def _add(total: Sum, ours: Reading, theirs: Reading) -> str:
    """Add a file to the sum; return the end of its row, empty for one without a difference."""
    text = "\n".join(theirs.pages.values())
    words = len(split_words(text))
    if ours.error:
        total.failures[
            ours.error if words else f"{ours.error} (openpyxl: {theirs.error.partition(':')[0] or 'no words'})"
        ] += 1
        return f"{words:>9,} {ours.error}" if words else ""
    if theirs.error:
        total.failures[f"none (openpyxl: {theirs.error.partition(':')[0]})"] += 1
        return ""
    total.files += 1
    total.sheets += len(theirs.pages)
    total.seconds += ours.seconds
    total.warnings.update(ours.warnings.keys())
    diff = compare_words(ours.text, text)
    have = set(split_words(ours.text))
    sheets = {number: split_words(page.partition("\n")[2]) for number, page in theirs.pages.items()}
    lost = [number for number, own in sheets.items() if own and have.isdisjoint(own)]
    total.diff += diff
    total.missing_sheets += len(lost)
    return (
        f"{diff.row()}  {', '.join(map(str, lost[:8]))}" if diff.lost or diff.doubled or diff.reordered or lost else ""
    )


if __name__ == "__main__":
    main()
