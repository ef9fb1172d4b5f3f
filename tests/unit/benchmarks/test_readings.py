"""Readers of the comparisons run in processes of their own, which may crash."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from reading.readings import Reader, Reading, engine_reader, find_files

_SCRIPT = f"""
import os, sys
sys.path.append({str(Path(__file__).parents[3] / "benchmarks")!r})
from reading.readings import serve

def read(path):
    print("noise of a library")
    if path.endswith("crash"):
        os._exit(1)
    return {{"text": path}}

serve(read)
"""


def test_a_reader_that_crashes_starts_anew_for_the_next_file() -> None:
    """What a library prints is no answer."""
    with Reader(_SCRIPT) as reader:
        assert reader.read(Path("one")).text == "one"
        assert reader.read(Path("crash")) == Reading(error="crashes")
        assert reader.read(Path("two")).text == "two"
        assert reader.peak_bytes > 0


def test_the_engine_is_a_reader(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_text("Some words.")
    (tmp_path / "b.txt").write_bytes(b"")
    with engine_reader() as reader:
        first, second = [reader.read(path) for path in find_files([tmp_path], ".txt")]
    assert (first.text, first.error) == ("Some words.", "")
    assert second.error == "empty_document"
