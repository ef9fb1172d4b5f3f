"""Measure reading of documents: processor time per page or megabyte, and memory, by format, before and after.

python benchmarks/bench_reading.py [--before SRC] [--runs 3] [--only pdf] [--quick]

``--before`` is the ``src`` of another version of the engine, read with the same files in the same run.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import corpora
from reading.readings import engine_reader
from report import MIB, Report, Target, median_of, parse_options, repeat_command

NOW, BEFORE = "now", "before"
SOURCE = Path(__file__).resolve().parents[1] / "src"
MOST_RATIO = 1.1
"""Largest processor time relative to before; below it, two runs on one machine differ."""

MOST_PAGES = 60
"""Pages of the largest PDF."""


@dataclass(frozen=True, slots=True)
class Format:
    """Files of one format.

    Args:
        suffix: End of their names.
        unit: What the time is divided by.
        make: Yields files, each with the number of its units.
    """

    suffix: str
    unit: str
    make: Callable[[int], Iterator[tuple[bytes, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="src of another version of the engine")
    parser.add_argument("--only", action="append", choices=list(FORMATS), help="formats; default all")
    parser.add_argument("--files", type=int, default=40, help="files of each format")
    options = parse_options(parser, {"files": 4})
    names = options.only or list(FORMATS)
    sources = {NOW: SOURCE} | ({BEFORE: options.before} if options.before else {})
    report = Report(
        "reading",
        "Reading documents",
        repeat_command(__file__),
        "Every file is read by the engine's parser in a process of its own, which imports a format's libraries with "
        "its first file; that file is read once before and not counted. Files are generated: the same words, in each "
        "format's usual form. Processor time and peak memory are the process's.",
        ["ingestion-engine", "pypdfium2"],
        {"files": options.files, "runs": options.runs},
        quick=options.quick,
    )
    rows = []
    for name in names:
        found = {way: measure(FORMATS[name], source, options) for way, source in sources.items()}
        cells = [f"{found[way][field]:.2f}" for way in found for field in ("ms_per_unit", "peak_mib")]
        ratio = found[NOW]["ms_per_unit"] / found[BEFORE]["ms_per_unit"] if BEFORE in found else 1.0
        rows.append((name, FORMATS[name].unit, *cells, f"{ratio:.2f}"))
        report.data[name] = found
        if BEFORE in found:
            report.targets.append(Target(f"{name}: processor time relative to before", MOST_RATIO, ratio, ""))
    heads = [f"{text} {way}" for way in sources for text in ("CPU ms", "peak MiB")]
    report.add_table(("format", "per", *heads, "CPU ratio"), rows)
    report.write()


def measure(kind: Format, source: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the processor time per unit and the peak memory of one version, the median of the runs."""
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder, engine_reader(source) as reader:
            units = seconds = 0.0
            path = Path(folder) / f"document{kind.suffix}"
            for number, (body, size) in enumerate(kind.make(options.files)):
                path.write_bytes(body)
                if not number:
                    reader.read(path)
                reading = reader.read(path)
                if reading.error:
                    sys.exit(f"{source} cannot read {path.name}: {reading.error}")
                units += size
                seconds += reading.seconds
            runs.append({"ms_per_unit": 1e3 * seconds / units, "peak_mib": reader.peak_bytes / MIB})
    return median_of(runs)


def make_pdfs(count: int) -> Iterator[tuple[bytes, float]]:
    """Yield PDFs of 1 to 60 pages of text."""
    usual = [pages for pages in corpora.PDF_PAGES if pages <= MOST_PAGES]
    rng = random.Random(5)
    for number in range(count):
        pages = usual[number * len(usual) // count]
        yield corpora.make_pdf(rng, pages, number), pages


def make_markdown(count: int) -> Iterator[tuple[bytes, float]]:
    """Yield Markdown documents of a usual length, in megabytes."""
    for number in range(count):
        body = corpora.make_markdown(random.Random(number), chars=200_000)
        yield body, len(body) / corpora.MB


def _repeat(make: Callable[[int], bytes]) -> Callable[[int], Iterator[tuple[bytes, float]]]:
    """Return a maker of files of half a megabyte."""

    def yield_files(count: int) -> Iterator[tuple[bytes, float]]:
        body = make(corpora.MB // 2)
        for _ in range(count):
            yield body, len(body) / corpora.MB

    return yield_files


FORMATS = {
    "pdf": Format(".pdf", "page", make_pdfs),
    "markdown": Format(".md", "MB", make_markdown),
    "text": Format(".txt", "MB", _repeat(corpora.make_text)),
    "html": Format(".html", "MB", _repeat(corpora.make_html)),
    "csv": Format(".csv", "MB", _repeat(corpora.make_csv)),
    "jsonl": Format(".jsonl", "MB", _repeat(corpora.make_jsonl)),
}
"""Another format is a line here and a generator."""


if __name__ == "__main__":
    main()
