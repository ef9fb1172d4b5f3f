"""Compare the engine's text of files with a second reader's, file by file: for formats without pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from reading.compare import ROW_TITLE, WordDiff, compare_words, split_words
from reading.readings import Reader, Reading, engine_readers, find_files, parse_arguments


@dataclass(slots=True)
class Sum:
    """The comparison of one version of the engine with the second reader over all files."""

    diff: WordDiff = field(default_factory=WordDiff)
    files: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, ours: Reading, theirs: Reading) -> str:
        """Add a file; return the end of its row, empty for one without a difference."""
        words = len(split_words(theirs.text))
        if ours.error:
            self.failures[ours.error if words else f"{ours.error} (second reader: no words)"] += 1
            self.diff += WordDiff(words=words, lost=words)
            return f"{words:>9,} {ours.error}"
        self.files += 1
        self.seconds += ours.seconds
        self.warnings.update(ours.warnings.keys())
        diff = compare_words(ours.text, theirs.text)
        self.diff += diff
        return diff.row() if diff.lost or diff.doubled or diff.reordered else ""


def compare_files(title: str | None, suffixes: Sequence[str], script: str, argv: list[str] | None = None) -> None:
    """Run a command line: folders, ``--before SRC`` for another version of the engine, ``--all`` for every file.

    Args:
        title: What the command does, and how it is called.
        suffixes: Suffixes of the files.
        script: The second reader, for ``Reader``; its answers have the text.
        argv: Arguments; None for those of the process.
    """
    options = parse_arguments(title, argv)
    readers = engine_readers(options.before)
    sums = {name: Sum() for name in readers}
    print(f"{'file':<60} {'reader':<8}{ROW_TITLE}")
    with Reader(script) as second:
        for path in (path for suffix in suffixes for path in find_files(options.folders, suffix)):
            theirs = second.read(path)
            for name, reader in readers.items():
                row = sums[name].add(reader.read(path), theirs)
                if row or options.all:
                    print(f"{path.name[-60:]:<60} {name:<8}{row}", flush=True)
    for name, total in sums.items():
        print(f"\n{name}: {total.files} files; failed: {dict(total.failures)}; warnings: {dict(total.warnings)}")
        print(f"{ROW_TITLE}\n{total.diff.row()}\n{1e3 * total.seconds / max(1, total.files):.1f} ms of CPU per file")
        readers[name].__exit__()
