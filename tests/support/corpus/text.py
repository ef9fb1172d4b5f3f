"""Sentences that read like English, never twice the same in one corpus, and some in other languages."""

# ruff: noqa: RUF001 - texts in many scripts are what this file is about

from __future__ import annotations

import random

_SUBJECTS = (
    "The committee", "A field engineer", "The northern harbour", "Every weather station", "The library catalogue",
    "A retired surveyor", "The night shift", "One of the auditors", "The bridge inspection", "The seed archive",
    "A visiting scholar", "The ferry timetable", "The water utility", "An anonymous donor", "The orchard cooperative",
    "The museum", "A volunteer crew", "The railway office", "The observatory", "The insurance desk",
)  # fmt: skip
_VERBS = (
    "reported", "measured", "postponed", "documented", "questioned", "repaired", "catalogued", "approved", "described",
    "compared", "inherited", "replaced", "simplified", "rejected", "sampled", "translated", "restored", "forecast",
)  # fmt: skip
_OBJECTS = (
    "the spring flood levels", "a set of brass instruments", "the maintenance budget", "three unfinished maps",
    "the migration of geese", "an old turbine", "the harvest records", "a disputed boundary", "the signal outage",
    "the glass collection", "a draft of the charter", "the soil samples", "the tide tables", "a faulty sensor",
    "the winter schedule", "the grain shipments", "a series of letters", "the tunnel ventilation",
)  # fmt: skip
_ENDINGS = (
    "before the council met", "without further comment", "in spite of the rain", "after a long discussion",
    "with the help of two apprentices", "because the contract demanded it", "as the new rules require",
    "while the market was closed", "for the third year in a row", "under difficult conditions",
    "and sent a copy to the archive", "although nobody had asked for it",
)  # fmt: skip

FOREIGN = {
    "cp1252": "Die Straße führt über die Brücke nach Köln, und täglich öffnen die Geschäfte früh. Bericht Nummer {}. ",
    "koi8-r": "Северный порт сообщил о весеннем паводке, и комиссия отложила своё решение. Отчёт номер {}. ",
    "cp1251": "Библиотека восстановила старый каталог, несмотря на плохую погоду и дождь. Отчёт номер {}. ",
    "shift_jis": "港の委員会は春の水位を報告しました。図書館は古い地図を修復しています。報告書番号{}。",
    "gb18030": "北方港口报告了春季的水位。图书馆正在修复一批旧地图，天气很好。报告编号{}。",
    "utf-16": "The harbour’s report – number {} – mentions “late” floods and naïve forecasts. ",
}
"""Encoding → a paragraph in a language it is used for."""


def write_sentence(rng: random.Random, number: int) -> str:
    """One sentence; its number makes it unique."""
    return (
        f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)} {rng.choice(_ENDINGS)}, "
        f"as entry {number} of the register shows."
    )


def write_paragraphs(rng: random.Random, chars: int) -> list[str]:
    """Paragraphs of two to five sentences, about ``chars`` characters in all."""
    paragraphs: list[str] = []
    size = 0
    while size < chars:
        sentences = [write_sentence(rng, rng.randrange(10**9)) for _ in range(rng.randint(2, 5))]
        paragraphs.append(" ".join(sentences))
        size += len(paragraphs[-1]) + 2
    return paragraphs


def write_big_text(size_bytes: int, seed: int) -> bytes:
    """ASCII text of exactly ``size_bytes``; no sentence occurs twice."""
    rng = random.Random(seed)
    lines = []
    size = 0
    number = 0
    while size < size_bytes:
        number += 1
        line = write_sentence(rng, number) + ("\n\n" if number % 5 == 0 else " ")
        lines.append(line)
        size += len(line)
    return "".join(lines).encode("ascii")[:size_bytes]
