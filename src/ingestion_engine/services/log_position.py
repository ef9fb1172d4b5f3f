"""Positions in a driver's log, of which only the end is kept: what follows the last line that a client has seen.

A position names a line by its content, not by an offset: the kept end moves, and the engine's copy of a log contains
more than the ledger's, which is some seconds older. Lines that begin with a time are unique enough. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ingestion_engine.domain.errors import SubmissionError

_POSITION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9a-f]{16}|)(?:@([0-9T:.Z-]{1,32}))?")
_TIMED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9:.]*Z?")
"""Beginning of the lines that ``runtime.telemetry`` writes."""


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A place between two lines of an attempt's log."""

    attempt: int
    lines: int = 0
    """Number of lines between the named line, or the beginning, and the place."""
    digest: str = ""
    """Digest of the named line; empty for the beginning."""
    time: str = ""
    """Time of the named line, for a text that does not have it; empty when it is unknown."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position of a text. Raises SubmissionError "validation_error"."""
        found = _POSITION.fullmatch(text)
        if found is None:
            raise SubmissionError(
                "validation_error",
                f"{text!r} is not a position in a log.",
                hint="Send the header Log-Position of the previous response, or nothing for the beginning.",
                field="after",
            )
        return cls(int(found[1]), int(found[2]), found[3], found[4] or "")

    def __str__(self) -> str:
        return f"{self.attempt}.{self.lines}.{self.digest}" + (f"@{self.time}" if self.time else "")


def read_after(text: str, position: LogPosition, *, is_final: bool) -> tuple[str, LogPosition]:
    """Return what follows a position, and the position at its end.

    Args:
        text: The end of the log, as it is kept now.
        position: Where the client is. When its line is not in the text, what is later than that line is returned:
            everything after the line has been dropped, nothing while another copy of the log is behind.
        is_final: True when nothing is written any more; otherwise a line without an end is left for the next time.
    """
    *lines, rest = text.split("\n")
    if rest and is_final:
        lines.append(rest)
    digests = [_digest(line) for line in lines]
    start = position.lines
    if position.digest:
        if position.digest in digests:
            start = _find_last(digests, position.digest) + 1 + position.lines
        else:
            times = [_time(line) for line in lines]
            known = [number for number, time in enumerate(times) if time and time <= position.time]
            start = known[-1] + 1 if known else 0
            if known and not any(times[start:]):
                return "", position
    start = min(start, len(lines))
    named = next((number for number in reversed(range(len(lines))) if digests[number]), None)
    if named is None:
        following = LogPosition(position.attempt, len(lines))
    else:
        after = len(lines) - 1 - named
        following = LogPosition(position.attempt, after, digests[named], time=_time(lines[named]))
    return "".join(f"{line}\n" for line in lines[start:]), following


def _digest(line: str) -> str:
    """Return the digest of a line that begins with a time; an empty text for any other line."""
    return hashlib.sha256(line.encode()).hexdigest()[:16] if _TIMED.match(line) else ""


def _time(line: str) -> str:
    """Return the time with which a line begins, else an empty text."""
    found = _TIMED.match(line)
    return found[0] if found else ""


def _find_last(digests: Sequence[str], digest: str) -> int:
    return len(digests) - 1 - digests[::-1].index(digest)
