"""One way of reading files, in a process of its own: killed when it hangs, and started again when it crashes."""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from processes import peak_bytes

TIMEOUT_S = 120.0
"""Seconds per file, as the engine's own limit."""

ENGINE = """
import sys, time
sys.path.append({benchmarks!r})
from reading.readings import serve
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes

def read(path):
    body = open(path, "rb").read()
    ref = ObjectRef(bucket="b", key=path.rpartition("/")[2], etag="e", size_bytes=len(body), last_modified="")
    try:
        document = parse_bytes(RawObject(ref, body, None, {{}}), FrozenLimits())
    except IngestionError as error:
        return {{"error": error.code}}
    pages = {{span.page: document.text[span.start_char : span.end_char] for span in document.pages}}
    last = document.pages[-1].end_char if document.pages else 0
    warnings = {{warning.code: warning.count for warning in getattr(document, "warnings", ())}}
    return {{"text": document.text, "pages": pages, "rest": document.text[last:], "warnings": warnings}}

serve(read)
"""
"""The engine's reader, of whichever source is first on the path of modules."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader returned for one file."""

    error: str = ""
    """Code or class of the failure; empty for a file that was read."""
    text: str = ""
    pages: Mapping[int, str] = field(default_factory=dict)
    """Texts by page number, from 1, without empty ones; empty for formats without pages."""
    rest: str = ""
    """Text on no page."""
    noted: Sequence[int] = ()
    """Numbers of pages with form fields or notes, whose texts are not the page's own."""
    warnings: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """Processor time."""


class Reader:
    """Reads files with a script that calls ``serve``. A context manager."""

    def __init__(self, script: str, *, source: Path | None = None, python: str = sys.executable) -> None:
        self._command = [python, "-c", script]
        self._env = os.environ | ({"PYTHONPATH": str(source)} if source else {})
        self._process: subprocess.Popen[str] | None = None
        self.peak_bytes = 0
        """Most memory that a process of the reader had."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, path: Path) -> Reading:
        """Return what the script reads; a hanging or crashing one is an error, and starts anew for the next file."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], TIMEOUT_S)[0]:
                self._end()
                return Reading(error="hangs")
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._end()
            return Reading(error="crashes")
        self.peak_bytes = max(self.peak_bytes, peak_bytes(process.pid))
        answer = json.loads(line)
        pages = {int(number): text for number, text in answer.pop("pages", {}).items() if text.strip()}
        return Reading(pages=pages, **answer)

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            self._command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def engine_reader(source: Path | None = None) -> Reader:
    """Return the engine's reader: of the installed source, or of another one."""
    return Reader(ENGINE.format(benchmarks=str(Path(__file__).parents[1])), source=source)


def parse_arguments(
    description: str | None, argv: Sequence[str] | None, *others: tuple[str, Any]
) -> argparse.Namespace:
    """Return what every comparison takes on its command line: folders, another source, and its own ``others``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--before", type=Path, help="src of another version of the engine")
    for name, settings in others:
        parser.add_argument(name, **settings)
    parser.add_argument("--all", action="store_true", help="print files without a difference too")
    return parser.parse_args(argv)


def engine_readers(before: Path | None) -> dict[str, Reader]:
    """Return the readers of this version of the engine and, first, of another one."""
    readers = {"now": engine_reader(Path(__file__).parents[2] / "src")}
    return {"before": engine_reader(before)} | readers if before else readers


def serve(read: Any) -> None:
    """Answer each path on the standard input with what ``read`` returns for it, as a line of JSON. Never returns."""
    import time

    answers: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        began = time.process_time()
        try:
            answer = read(line.rstrip("\n"))
        except Exception as error:  # whatever a reader raises is its result
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["seconds"] = time.process_time() - began
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def find_files(folders: Iterable[Path], suffix: str) -> Iterator[Path]:
    """Yield the files of the folders with a suffix in any case, in order of their paths."""
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() == suffix and path.is_file())
