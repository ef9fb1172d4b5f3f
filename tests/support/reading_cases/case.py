"""One document, and what its text must and must not have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingCase:
    """A document as an object of a bucket."""

    key: str
    body: bytes
    contains: tuple[str, ...] = ()
    """Parts of the text, in this order; white space counts as one blank."""
    once: tuple[str, ...] = ()
    """Parts that the text has exactly once."""
    lacks: tuple[str, ...] = ()
    """Parts that the text must not have."""
    lines: tuple[str, ...] = ()
    """Whole lines of the text, in this order."""
    content_type: str | None = None
    """The media type that must be found; None where the case is not about it."""

    def faults(self, text: str) -> list[str]:
        """Return what is wrong with a text of the document, in words; empty when it is right."""
        found = " ".join(text.split())
        faults, at = [], 0
        for part in self.contains:
            place = found.find(part, at)
            if place < 0:
                faults.append(f"{part!r} is {'not in order' if part in found else 'missing'}")
            at = max(at, place)
        faults += [f"{part!r} is there {found.count(part)} times" for part in self.once if found.count(part) != 1]
        faults += [f"{part!r} is not text" for part in self.lacks if part in found]
        rows = iter(text.split("\n"))
        faults += [f"there is no line {line!r}, or not in order" for line in self.lines if line not in rows]
        return faults
