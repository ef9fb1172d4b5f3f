"""Compare the text of CSV files with their cells as Python's csv reads them.

python benchmarks/reading/tables.py FOLDER ... [--before SRC] [--all]

``--before`` is the ``src`` of another version of the engine, which is compared too. Rows carry the names of their
columns, so that words are doubled by intention; what counts are lost words and tables whose names were found.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reading.compare import WordDiff, compare_words, split_words
from reading.readings import Reader, Reading, engine_readers, find_files, parse_arguments

_BENCHMARKS = str(Path(__file__).parents[1])
_SOURCE = Path(__file__).parents[2] / "src"

CSV = f"""
import csv, sys
sys.path.append({_BENCHMARKS!r})
from reading.readings import serve
from ingestion_engine.pipeline.parsing.decode import decode_text

def read(path):
    text = decode_text(open(path, "rb").read(), declared=None)
    text = text.replace("\\r\\n", "\\n").replace("\\r", "\\n").replace("\\0", "")
    first, _, rest = text.partition("\\n")
    if first.lower().startswith("sep="):
        text = rest
    try:
        dialect = csv.Sniffer().sniff(text[:65536], ",;\\t|")
    except csv.Error:
        dialect = csv.excel
    rows = [row for row in csv.reader(text.splitlines(keepends=True), dialect) if any(cell.strip() for cell in row)]
    return {{"text": "\\n".join(" ".join(" ".join(row).split()) for row in rows)}}

serve(read)
"""


@dataclass(slots=True)
class Sum:
    """The comparison of one version of the engine with Python's csv over all files."""

    diff: WordDiff = field(default_factory=WordDiff)
    files: int = 0
    named: int = 0
    """Files whose rows have names."""
    seconds: float = 0.0


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, argv)
    readers = engine_readers(options.before)
    sums = {name: Sum() for name in readers}
    with Reader(CSV, source=_SOURCE) as python:
        for suffix in (".csv", ".tsv"):
            for path in find_files(options.folders, suffix):
                theirs = python.read(path)
                for name, reader in readers.items():
                    lost = _add(sums[name], reader.read(path), theirs)
                    if lost or options.all:
                        print(f"{path.name[-80:]:<80} {name:<8}{lost}", flush=True)
    for name, total in sums.items():
        print(f"{name}: {total.files} files, {total.named} of them with names of columns, {total.diff.words} words,")
        print(f"    {total.diff.lost} lost ({total.diff.share(total.diff.lost):.4%}), {total.seconds:.1f} s of CPU")
        readers[name].__exit__()


def _add(total: Sum, ours: Reading, theirs: Reading) -> str:
    """Add a file to the sum; return what is wrong with it."""
    if ours.error or theirs.error:
        return f"{ours.error} (csv: {theirs.error})" if split_words(theirs.text) else ""
    diff = compare_words(ours.text, theirs.text)
    total.diff += diff
    total.files += 1
    total.named += diff.doubled > 0 and ": " in ours.text
    total.seconds += ours.seconds
    return str(diff.lost or "")


if __name__ == "__main__":
    main()
