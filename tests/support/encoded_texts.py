"""Texts in many languages, encodings, lengths and forms, to measure and to test the detection of encodings."""

# ruff: noqa: RUF001 - typographic characters are meant

from __future__ import annotations

import codecs
import itertools
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LANGUAGES_FILE = Path(__file__).parent.parent / "fixtures" / "languages.toml"

LENGTHS = (8, 40, 200, 1000, 5000)
"""Characters of a text, about: texts end with a word."""

STARTS = 6
"""Texts per language, encoding and length: each begins with another sentence."""

_REPLACED = str.maketrans(
    {"ș": "ş", "ț": "ţ", "Ș": "Ş", "Ț": "Ţ", "’": "'", "“": '"', "”": '"', "–": "-", "œ": "oe", "€": "EUR"}
)
"""How people wrote what an encoding does not have."""

_TONES = frozenset("\u0300\u0301\u0303\u0309\u0323")
"""Vietnamese tones, which Windows-1258 writes behind the vowel."""


@dataclass(frozen=True, slots=True)
class Language:
    """Sentences and names of one language, and its usual encodings."""

    code: str
    encodings: tuple[str, ...]
    sentences: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as bytes; ``text`` is what reading them right gives."""

    language: str
    encoding: str
    form: str
    """``8`` to ``5000`` for running text of this length, or the name of another form."""
    text: str
    body: bytes


@cache
def read_languages() -> tuple[Language, ...]:
    """Return all languages of the file."""
    table = tomllib.loads(LANGUAGES_FILE.read_text(encoding="utf-8"))
    return tuple(
        Language(code, tuple(entry["encodings"]), tuple(entry["sentences"]), tuple(entry["names"]))
        for code, entry in table.items()
    )


def encode(text: str, encoding: str) -> bytes:
    """Return the bytes; what the encoding does not have is written as people wrote it. Raises UnicodeEncodeError."""
    if encoding == "cp1258":
        text = "".join(map(_split_tone, text))
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_REPLACED).encode(encoding, "ignore")


def _split_tone(char: str) -> str:
    parts = unicodedata.normalize("NFD", char)
    tone = "".join(part for part in parts if part in _TONES)
    return unicodedata.normalize("NFC", "".join(part for part in parts if part not in _TONES)) + tone


def running_texts(sentences: Sequence[str], length: int) -> Iterator[str]:
    """Yield texts of about this many characters, each beginning with another sentence and with a special letter."""
    for start in range(min(STARTS, len(sentences))):
        turned = itertools.cycle([*sentences[start:], *sentences[:start]])
        parts: list[str] = []
        while sum(map(len, parts)) <= 2 * length + 80:
            parts.append(next(turned))
        text = " ".join(parts)
        special = next(place for place, char in enumerate(text) if not char.isascii())
        begin = text.rfind(" ", 0, special) + 1 if length < special else 0
        end = text.find(" ", max(begin + length - 1, special))
        yield text[begin : end if 0 <= end < begin + 2 * length else begin + length]


def _forms(language: Language) -> Iterator[tuple[str, str]]:
    for length in LENGTHS:
        for text in running_texts(language.sentences, length):
            yield str(length), text
    for text in running_texts(language.sentences, 200):
        yield "capitals", text.upper()
    for name in language.names:
        yield "one name", name
    yield "names", "\n".join(language.names) + "\n"
    for number in range(3):
        yield "csv", _csv(language, number)
        yield "code", _code(language, number)
        yield "log", _log(language, number)


def _csv(language: Language, number: int) -> str:
    rows = ["id;name;date;amount"]
    for row in range(40):
        name = language.names[(row + number) % len(language.names)] if row % 4 == 0 else f"Customer {row}"
        rows.append(f"{1000 + row};{name};2019-03-{row % 28 + 1:02};{row * 37 % 1000}.50")
    return "\n".join(rows) + "\n"


def _code(language: Language, number: int) -> str:
    comment = language.sentences[number % len(language.sentences)]
    head = "#include <stdio.h>\n\n/* Copyright 1998 by the authors. All rights reserved. */\n\n"
    body = "int main(int argc, char *argv[])\n{\n    int total = 0;\n"
    loop = "    for (int i = 0; i < argc; i++) {\n        total += strlen(argv[i]);\n    }\n    return total > 0;\n}\n"
    return f"{head}/* {comment} */\n{body}{loop * 4}"


def _log(language: Language, number: int) -> str:
    lines = []
    for row in range(60):
        note = (
            language.sentences[(row + number) % len(language.sentences)] if row % 20 == 7 else "request done in 12 ms"
        )
        lines.append(f"2011-05-0{row % 9 + 1} 12:{row:02}:00 INFO server[{row}]: {note}")
    return "\n".join(lines) + "\n"


def encoded_texts() -> Iterator[EncodedText]:
    """Yield every text of every language in all its usual encodings, in UTF-16 and in UTF-32 without a mark."""
    for language in read_languages():
        for form, text in _forms(language):
            for encoding in (*language.encodings, "utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-7"):
                if encoding == "tcvn":
                    continue
                body = encode(text, encoding)
                right = body.decode(encoding)
                if body.isascii() and right.isascii():
                    continue
                yield EncodedText(language.code, codecs.lookup(encoding).name, form, right, body)
