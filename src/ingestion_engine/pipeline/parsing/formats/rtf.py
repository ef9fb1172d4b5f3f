"""Rich Text Format to text.

Kreuzberg 4.10 is not used: it drops characters outside the Basic Multilingual Plane and adds ``[Image: image]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import corrupt

_TOKEN = re.compile(
    r"\\([A-Za-z]{1,32})(-?\d{1,10})? ?|\\'([0-9A-Fa-f]{2})|\\(.)|([{}])|([^\\{}\r\n]+)|[\r\n]+|\\$", re.DOTALL
)

_SKIPPED = frozenset({
    "fonttbl", "colortbl", "stylesheet", "info", "pict", "object", "fldinst", "themedata", "colorschememapping",
    "datastore",
    "latentstyles", "listtable", "listoverridetable", "rsidtbl", "xmlnstbl", "nonshppict", "filetbl", "revtbl",
    "generator", "listtext",
    "pntext", "bkmkstart", "bkmkend", "template", "operator", "author",
})  # fmt: skip
"""Groups without text of the document."""

_TEXT_GROUPS = frozenset({"shptxt", "rtlch", "fldrslt", "result"})
"""Groups of text inside skipped groups (text boxes, results of embedded objects)."""

_SYMBOLS = {
    "par": "\n\n", "sect": "\n\n", "page": "\n\n", "line": "\n", "row": "\n", "nestrow": "\n",
    "cell": " | ", "nestcell": " | ", "tab": "\t", "emspace": " ", "enspace": " ", "qmspace": " ",
    "emdash": "\u2014", "endash": "\u2013", "lquote": "\u2018", "rquote": "\u2019", "ldblquote": "\u201c",
    "rdblquote": "\u201d", "bullet": "\u2022",
}  # fmt: skip
_ESCAPES = {"~": "\u00a0", "_": "-", "-": "", "\n": "\n\n", "\r": "\n\n", "\\": "\\", "{": "{", "}": "}"}

_CODE_PAGES = {
    0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "cp936", 136: "cp950",
    161: "cp1253", 162: "cp1254",
    163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250",
    254: "cp437",
}  # fmt: skip
"""Code page by the Windows character set of a font."""

_FONT_CHARSET = re.compile(r"\\f(\d++)(?:\\(?!fcharset)[a-z]++-?\d*+ ?)*+(?:\\fcharset(\d++))?")
"""A font and the control words behind it up to its character set; without one, none of the fonts among them has one."""

_CELL_MARKS = re.compile(r"( \|(?:  \|)*+)( (?![^\n]))?")
"""Marks behind cells, and the last blank if the line ends there."""


@dataclass(frozen=True, slots=True)
class _Group:
    """State inside the current braces."""

    skipped: bool = False
    in_title: bool = False
    after_uc: int = 1
    """Number of characters after a ``\\u`` for readers that do not support it."""
    code_page: str = "cp1252"


@dataclass(slots=True)
class _Reader:
    fonts: dict[int, str]
    """Code page by the number of a font."""
    group: _Group = _Group()
    outer: list[_Group] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    title: list[str] = field(default_factory=list)
    pending: bytearray = field(default_factory=bytearray)
    """Bytes of the current code page, decoded together because a character may have several."""
    to_skip: int = 0
    optional: bool = False
    """True after ``\\*``: if the following group is unknown, it is skipped."""

    def flush(self) -> None:
        if self.pending:
            data, self.pending = bytes(self.pending), bytearray()
            self.write(data.decode(self.group.code_page, "replace"))

    def write(self, text: str) -> None:
        if self.group.in_title:
            self.title.append(text)
        elif not self.group.skipped:
            self.out.append(text)


def read_rtf(body: bytes) -> ParsedText:
    """Return the text of a Rich Text file, with an empty line between paragraphs, and its title.

    Raises:
        ObjectError: ``corrupt_document`` when groups are not closed, as in a file that is cut short.

    Cost: about 1 s per 5 MB.
    """
    source = body.decode("latin-1")
    found = _FONT_CHARSET.findall(source[:262144])
    fonts = {int(font): _CODE_PAGES.get(int(charset), "cp1252") for font, charset in found if charset}
    reader = _Reader(fonts)
    at = 0
    while at < len(source):
        token = _TOKEN.match(source, at)
        assert token is not None
        at = token.end()
        word, number, hexa, symbol, brace, text = token.groups()
        if hexa is not None:
            if reader.to_skip:
                reader.to_skip -= 1
            else:
                reader.pending.append(int(hexa, 16))
            continue
        reader.flush()
        if brace == "{":
            reader.outer.append(reader.group)
        elif brace == "}":
            reader.to_skip = 0
            if not reader.outer:
                break
            reader.group = reader.outer.pop()
            if not reader.outer:
                break  # content after the document is ignored
        elif word is not None:
            value = int(number) if number else None
            if word == "bin":
                at += max(0, value or 0)
            else:
                _control(reader, word, value)
        elif symbol is not None:
            reader.optional = symbol == "*"
            reader.write(_ESCAPES.get(symbol, ""))
            continue
        elif text is not None:
            skipped = min(reader.to_skip, len(text))
            reader.to_skip -= skipped
            _write_raw(reader, text[skipped:])
        reader.optional = False
    if reader.outer:
        raise corrupt("Rich Text document", "groups are not closed")
    return ParsedText(_join(reader.out), title=_join(reader.title) or None)


def _write_raw(reader: _Reader, text: str) -> None:
    """Write text of the file; bytes beyond ASCII, which some writers do not escape, are in the code page."""
    reader.write(text if text.isascii() else text.encode("latin-1").decode(reader.group.code_page, "replace"))


def _control(reader: _Reader, word: str, value: int | None) -> None:
    group, fonts = reader.group, reader.fonts
    if word == "u" and value is not None:
        reader.write(chr(value % 65536))
        reader.to_skip = group.after_uc
        return
    if word in _SYMBOLS:
        reader.write(_SYMBOLS[word])
    elif word == "uc":
        reader.group = replace(group, after_uc=value or 0)
    elif word == "ansicpg" and value:
        reader.group = replace(group, code_page=f"cp{value}" if _is_known(f"cp{value}") else "cp1252")
    elif word == "mac":
        reader.group = replace(group, code_page="mac_roman")
    elif word == "f" and value in fonts and fonts[value] != "cp1252":
        reader.group = replace(group, code_page=fonts[value])
    elif word == "title" and group.skipped:
        reader.group = replace(group, in_title=True)
    elif word in _TEXT_GROUPS:
        reader.group = replace(group, skipped=False) if word == "shptxt" else group
    elif word in _SKIPPED or reader.optional:
        reader.group = replace(group, skipped=True)


def _is_known(encoding: str) -> bool:
    try:
        b"".decode(encoding)
    except LookupError:
        return False
    return True


def _join(parts: list[str]) -> str:
    """Return the collected text with surrogate pairs combined and trailing cell marks removed."""
    text = "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CELL_MARKS.sub(lambda marks: marks[1] if marks[2] is None else "", text).strip()
