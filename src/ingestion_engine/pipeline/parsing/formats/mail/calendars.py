"""Calendar entries (iCalendar) and contacts (vCard) to lines of text."""

from __future__ import annotations

import quopri
import re
from collections.abc import Iterator

from ingestion_engine.pipeline.parsing.labels import resolve_label

_LABELS = {
    "summary": "Summary", "dtstart": "Start", "dtend": "End", "due": "Due", "duration": "Duration",
    "rrule": "Repeats", "location": "Location", "organizer": "Organizer", "attendee": "Attendee",
    "contact": "Contact", "categories": "Categories", "status": "Status", "url": "URL", "comment": "Comment",
    "description": "Description",
    "fn": "Name", "nickname": "Nickname", "org": "Organization", "title": "Title", "role": "Role", "email": "Email",
    "tel": "Phone", "adr": "Address", "bday": "Birthday", "note": "Note", "impp": "Chat",
}  # fmt: skip
"""Properties that people read, with their names in the text."""

_SKIPPED = frozenset({"VTIMEZONE", "VALARM", "STANDARD", "DAYLIGHT"})
"""Components without text of the entry: rules of time zones and reminders."""

_FOLD = re.compile(r"\r?\n[ \t]")
_LINE = re.compile(r'([A-Za-z0-9.-]+)((?:;[^:;"\n]*+(?:"[^"\n]*+"[^:;"\n]*+)*+)*+):(.*+)')
_PARAMETER = re.compile(r';([^=;:\n]++)=("[^"\n]*+"|[^;\n]*+)')
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?")
_ESCAPE = re.compile(r"\\(.)")


def render_entries(text: str) -> str:
    """Return the entries of a calendar or the contacts of cards, one property per line; empty for other text. Pure."""
    blocks: list[list[str]] = [[]]
    skipped = 0
    for name, parameters, value in _properties(text):
        if name in ("begin", "end"):
            is_skipped = value.strip().upper() in _SKIPPED
            skipped += (1 if name == "begin" else -1) * is_skipped
            if not is_skipped:
                blocks.append([])
        elif name in _LABELS and skipped <= 0:
            line = _render(name, parameters, value)
            if line:
                blocks[-1].append(f"{_LABELS[name]}: {line}")
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _properties(text: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield name, parameters and value of each property, lines of several joined."""
    lines = iter(_FOLD.sub("", text).splitlines())
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        parameters = {key.lower(): value.strip('"') for key, value in _PARAMETER.findall(found[2])}
        value = found[3]
        if "quoted-printable" in found[2].lower():  # vCard 2.1 and vCalendar 1.0
            parts = [value]
            while parts[-1].endswith("="):
                parts[-1] = parts[-1][:-1]
                parts.append(next(lines, ""))
            raw = quopri.decodestring("".join(parts).encode("utf-8", "surrogateescape"))
            value = raw.decode(resolve_label(parameters.get("charset")) or "utf-8", "replace")
        yield found[1].rpartition(".")[2].lower(), parameters, value


def _render(name: str, parameters: dict[str, str], value: str) -> str:
    if name in ("dtstart", "dtend", "due", "bday"):
        return _render_date(value.strip(), parameters.get("tzid", ""))
    if name in ("adr", "org"):
        value = ", ".join(filter(None, (field.strip() for field in _SEMICOLON.split(value))))
    value = _ESCAPE.sub(lambda found: "\n" if found[1] in "nN" else found[1], value).strip()
    if name in ("organizer", "attendee"):
        address = value[7:] if value.lower().startswith("mailto:") else value
        person = parameters.get("cn", "")
        return f"{person} <{address}>" if person and person != address else address
    return value


_SEMICOLON = re.compile(r"(?<!\\);")


def _render_date(value: str, zone: str) -> str:
    """Return a date as people read it: ``2024-05-17 10:00 UTC``."""
    found = _DATE.fullmatch(value)
    if found is None:
        return value
    year, month, day, hour, minute, second, is_utc = found.groups()
    if hour is None:
        return f"{year}-{month}-{day}"
    time = f"{hour}:{minute}" if second == "00" else f"{hour}:{minute}:{second}"
    return f"{year}-{month}-{day} {time} {'UTC' if is_utc else zone}".strip()
