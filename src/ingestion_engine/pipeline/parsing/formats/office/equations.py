"""Equations of Office files (OMML) as one line of text: ``(a+b)/2``, ``x^2``, ``√(y)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_MOST_NESTING = 64
"""Structures inside each other that keep their signs; deeper ones, which no formula has, become plain text."""

_SLOTS = frozenset({"num", "den", "e", "sup", "sub", "deg", "lim", "fName"})
_STRUCTURES = frozenset(
    {"f", "sSup", "sSub", "sSubSup", "sPre", "rad", "nary", "d", "func", "limLow", "limUpp", "m", "mr", "eqArr"}
)
_SIGNS = frozenset({"type", "chr", "begChr", "sepChr", "endChr"})


@dataclass(slots=True)
class _Frame:
    """An open structure: its signs and the texts of its slots, each slot with all its elements."""

    name: str
    slots: dict[str, list[str]] = field(default_factory=dict)
    signs: dict[str, str] = field(default_factory=dict)

    def get(self, slot: str) -> str:
        return " ".join(self.slots.get(slot, ()))


class Equation:
    """Builds the text of an equation from the elements inside ``m:oMath``, in order, by local names."""

    def __init__(self) -> None:
        self._parts: list[list[str]] = [[]]
        self._frames: list[_Frame] = []
        self._ignored = 0
        """Open structures that are nested too deeply to keep their signs."""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Open an element."""
        if name in _SIGNS and self._frames:
            value = next(
                (value for key, value in attributes.items() if key.rpartition("}")[2].rpartition(":")[2] == "val"), ""
            )
            self._frames[-1].signs[name] = value
        elif name in _STRUCTURES and (self._ignored or len(self._frames) >= _MOST_NESTING):
            self._ignored += 1
        elif name in _STRUCTURES:
            self._frames.append(_Frame(name))
        elif name in _SLOTS and self._frames and not self._ignored:
            self._parts.append([])

    def text(self, text: str) -> None:
        """Add characters of a run."""
        self._parts[-1].append(text)

    def end(self, name: str) -> None:
        """Close an element."""
        if name in _STRUCTURES and self._ignored:
            self._ignored -= 1
        elif name in _STRUCTURES and self._frames:
            self._parts[-1].append(_compose(self._frames.pop()))
            if name == "mr" and self._frames:
                self._frames[-1].slots.setdefault("row", []).append(self._parts[-1].pop())
        elif name in _SLOTS and self._frames and not self._ignored and len(self._parts) > 1:
            self._frames[-1].slots.setdefault(name, []).append("".join(self._parts.pop()).strip())

    def take(self) -> str:
        """Return the equation's text."""
        return "".join(part for parts in self._parts for part in parts).strip()


def _compose(frame: _Frame) -> str:
    get, signs = frame.get, frame.signs
    sub = f"_{_group(get('sub'))}" if get("sub") else ""
    sup = f"^{_group(get('sup'))}" if get("sup") else ""
    if frame.name == "f":
        over = " " if signs.get("type") == "noBar" else "/"
        return f"{_group(get('num'))}{over}{_group(get('den'))}"
    if frame.name in ("sSup", "sSub", "sSubSup"):
        return f"{_group(get('e'))}{sub}{sup}"
    if frame.name == "sPre":
        return f"{sub}{sup}{get('e')}"
    if frame.name == "rad":
        return f"{get('deg')}√{_group(get('e'))}"
    if frame.name == "nary":
        return f"{signs.get('chr', '∫')}{sub}{sup} {get('e')}"
    if frame.name == "d":
        inside = signs.get("sepChr", "|").join(frame.slots.get("e", ()))
        return f"{signs.get('begChr', '(')}{inside}{signs.get('endChr', ')')}"
    if frame.name == "func":
        return f"{get('fName')} {get('e')}"
    if frame.name in ("limLow", "limUpp"):
        return f"{get('e')}{'_' if frame.name == 'limLow' else '^'}{_group(get('lim'))}"
    if frame.name == "m":
        return "; ".join(frame.slots.get("row", ()))
    return (", " if frame.name == "mr" else "; ").join(frame.slots.get("e", ()))


def _group(text: str) -> str:
    """Return the text in parentheses unless it is one word or has them."""
    return (
        text if text.isalnum() or len(text) < 2 or (text[0] == "(" and text.find(")") == len(text) - 1) else f"({text})"
    )
