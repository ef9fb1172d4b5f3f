"""Rich Text Format to text.

A reader of our own: the libraries for it lose text (docs/formats.md). Kreuzberg 4.10 drops characters outside the Basic
Multilingual Plane and adds ``[Image: image]``; striprtf drops notes, comments and double bytes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning
from ingestion_engine.pipeline.parsing.compound import find_ole1_embedded
from ingestion_engine.pipeline.parsing.decode import is_utf8
from ingestion_engine.pipeline.parsing.formats.html import read_html
from ingestion_engine.pipeline.parsing.formats.symbol_fonts import map_symbol
from ingestion_engine.pipeline.parsing.labels import resolve_label
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, ReadInner
from ingestion_engine.pipeline.parsing.unpack import corrupt

_TOKEN = re.compile(
    r"\\([A-Za-z]{1,32})(-?\d{1,10})? ?|\\'([0-9A-Fa-f]{2})|\\(.)|([{}])|([^\\{}\r\n]+)|[\r\n]+|\\$", re.DOTALL
)

_HIDDEN = frozenset({
    "colortbl", "stylesheet", "fldinst", "themedata", "colorschememapping", "datastore", "latentstyles", "listtable",
    "listoverridetable", "rsidtbl", "xmlnstbl", "nonshppict", "filetbl", "revtbl", "generator",
    "bkmkstart", "bkmkend", "template", "operator", "author", "nonesttables", "shprslt", "objclass",
    "objname", "objalias", "objsect", "atnid", "atnauthor", "atndate", "atntime", "atnref", "atnicn", "atnparent",
    "atrfstart", "atrfend", "ftnsep", "ftnsepc", "ftncn", "aftnsep", "aftnsepc", "aftncn", "xe", "rxe", "tc", "txe",
    "mmathPict", "mhtmltag", "formfield", "pnseclvl", "pntxta", "pntxtb", "private", "falt", "panose", "fontemb",
})  # fmt: skip
"""Groups without text of the document, or with a second form of it; nothing inside them is read."""

_CLOSED = frozenset({"info", "pict", "shpinst", "do", "picprop", "sp"})
"""Groups of which only some groups inside are text: ``_OPENING``, the title, and some properties."""

_OPENING = frozenset({"shptxt", "dptxbxtext"})
"""Groups of text inside closed ones: text boxes."""

_NOTES = frozenset({"footnote", "annotation"})
"""Groups of text that follows the paragraph, so that they do not divide a sentence."""

_OPEN = frozenset({
    "shppict", "moMath", "moMathPara", "ud", "cs", "ds", "ts", "header", "headerl", "headerr", "headerf", "footer",
    "footerl", "footerr", "footerf",
}) | _NOTES  # fmt: skip
"""Groups that are read although ``\\*`` marks them as new in some version of the format, and styles of text."""

_BLOCKS = frozenset({
    "header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf", "shptxt", "dptxbxtext", "sv",
})  # fmt: skip
"""Groups of text of its own, with an empty line before and behind it."""

_TEXT_PROPERTIES = frozenset({"wzDescription", "gtextUNICODE"})
"""Properties of drawings and pictures that are text: the alternative text, and letters drawn as a picture."""

_SYMBOLS = {
    "par": "\n\n", "sect": "\n\n", "page": "\n\n", "line": "\n", "row": "\n", "nestrow": "\n", "nesttableprops": "\n",
    "cell": " | ", "nestcell": " | ", "tab": "\t", "emspace": " ", "enspace": " ", "qmspace": " ",
    "emdash": "\u2014", "endash": "\u2013", "lquote": "\u2018", "rquote": "\u2019", "ldblquote": "\u201c",
    "rdblquote": "\u201d", "bullet": "\u2022", "zwj": "\u200d", "zwnj": "\u200c",
}  # fmt: skip
_BREAKS = frozenset({"par", "sect", "page", "row"})
"""Ends of paragraphs and rows, behind which their notes are written."""
_LETTERS = frozenset({
    "emspace", "enspace", "qmspace", "emdash", "endash", "lquote", "rquote", "ldblquote", "rdblquote", "bullet",
})  # fmt: skip
"""Characters that some writers put behind ``\\u`` for readers that do not support it."""
_ESCAPES = {"~": "\u00a0", "_": "-", "-": "", "\n": "\n\n", "\r": "\n\n", "\\": "\\", "{": "{", "}": "}"}

_DOCUMENT_CODE_PAGES = {"ansi": "cp1252", "mac": "mac_roman", "pc": "cp437", "pca": "cp850"}

_CODE_PAGES = {
    0: "cp1252", 77: "mac_roman", 78: "cp932", 79: "big5hkscs", 80: "cp949", 81: "mac_arabic", 82: "cp1255",
    83: "mac_greek", 84: "mac_cyrillic", 85: "gb18030", 86: "mac_romanian", 87: "mac_cyrillic", 88: "cp874",
    89: "mac_latin2", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030", 136: "cp950", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
"""Code page by the character set of a font, as Windows and the Mac number them."""

_SYMBOL_CHARSET = 2
"""Character set of fonts whose codes are pictures."""

_LEAD_BYTES = {
    "cp932": (range(0x81, 0xA0), range(0xE0, 0xFD)),
    **dict.fromkeys(("cp949", "johab", "gb18030", "cp950", "big5hkscs", "euc_jp"), (range(0x81, 0xFF),)),
}
"""First bytes of characters of two bytes; the second one may be a letter or brace of ASCII."""

_WORD = re.compile(r"[^\W\d_]{3}")
"""What makes bytes behind the end of a document more than the remains of a buffer."""

_NO_DIGITS = re.compile(r"[^0-9A-Fa-f]+")

_CELL_MARKS = re.compile(r"( \|(?:  \|)*+)( (?![^\n]))?")
"""Marks behind cells, and the last blank if the line ends there."""


@dataclass(slots=True)
class _Font:
    """A font of the table, as far as it determines what bytes mean."""

    charset: int | None = None
    code_page: str | None = None
    """Set by ``\\cpg``; precedes the character set."""
    name: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Group:
    """State inside the current braces."""

    sink: list[str] | None
    """Where the text goes; None in groups without text."""
    text: list[str] | None
    """Where the text of groups of text inside this one goes; None where there are none."""
    font: int | None = None
    after_uc: int = 1
    """Number of bytes after a ``\\u`` for readers that do not support it."""
    in_fonts: bool = False
    ends: str = ""
    """What ends with this group: "block", "note" or "object"."""
    mark: int = 0
    """Pieces of text before the object."""
    second_form: list[str] | None = None
    """In ``\\upr``: where the text of its second form, ``\\ud``, goes."""


class _Reader:
    """State while the tokens of a file are read."""

    def __init__(self, read_inner: ReadInner | None, *, is_unicode: bool) -> None:
        self.read_inner = read_inner
        self.warnings: list[ReadWarning] = []
        self.object: list[str] = []
        """Data of the last embedded object, in hexadecimal digits."""
        self.is_unicode = is_unicode
        """True when the text of the file is not in the code page of a font."""
        self.code_page = "cp1252"
        self.fonts: dict[int, _Font] = {}
        self.default_font: int | None = None
        self.defined = _Font()
        """The font that the table defines."""
        self.out: list[str] = []
        self.title: list[str] = []
        self.notes: list[str] = []
        """Notes of the current paragraph."""
        self.property: list[str] = []
        """Name of the last property of a drawing."""
        self.group = _Group(self.out, self.out)
        self.outer: list[_Group] = []
        self.pending = bytearray()
        """Bytes of the current code page, decoded together because a character may have several."""
        self.has_ended = False
        """True behind the brace that closes the document's first one."""
        self.unknown_symbols = 0
        """Characters of fonts of symbols that are not known."""
        self.to_skip = 0
        self.at_start = False
        """True until something follows the opening brace."""
        self.optional = False
        """True after ``\\*``: if the following group is unknown, it is skipped."""
        self.is_html = False
        """True for HTML in Rich Text, as in Outlook's messages."""

    def find_font(self) -> _Font | None:
        font = self.default_font if self.group.font is None else self.group.font
        return None if font is None or self.group.in_fonts else self.fonts.get(font)

    def find_symbol_font(self) -> str | None:
        """Return the name of the current font if its codes are pictures; None for a font of letters."""
        font = self.find_font()
        return "".join(font.name).strip(" ;") if font and font.charset == _SYMBOL_CHARSET else None

    def render_symbol(self, font: str, code: int) -> str:
        """Return the character of a symbol font; an unknown one as if it were a letter, which is counted."""
        is_known = font.lower() in ("symbol", "wingdings")
        letter = bytes([code]).decode("cp1252", "replace")
        found = letter if letter.isspace() else map_symbol(font, code) if is_known else None
        self.unknown_symbols += found is None
        return found or letter

    def find_code_page(self) -> str:
        """Return the code page of the current font, or else the document's.

        Fonts of Western European letters have none of their own where no font has the document's character set: some
        writers give all fonts the character set 0, whatever the text.
        """
        font = self.find_font()
        if font is None:
            return self.code_page
        if font.code_page is not None:
            return font.code_page
        if font.charset == 0 and self.code_page != "cp1252":
            used = {_CODE_PAGES.get(each.charset) for each in self.fonts.values() if each.charset is not None}
            return "cp1252" if self.code_page in used else self.code_page
        return self.code_page if font.charset is None else _CODE_PAGES.get(font.charset, self.code_page)

    def write(self, text: str) -> None:
        if self.group.sink is not None:
            self.group.sink.append(text)

    def flush(self) -> None:
        """Write the pending bytes."""
        if not self.pending:
            return
        data, self.pending = bytes(self.pending), bytearray()
        if self.group.sink is not None:
            font = self.find_symbol_font()
            if font is None:
                self.write(data.decode(self.find_code_page(), "replace"))
            else:
                self.write("".join(self.render_symbol(font, code) for code in data))

    def take_trail(self, char: str) -> bool:
        """Add a character to the pending bytes if they end within a character of two bytes; return whether."""
        leads = _LEAD_BYTES.get(self.find_code_page()) if self.pending and char.isascii() else None
        if not leads:
            return False
        at = 0
        while at < len(self.pending):
            at += 2 if any(self.pending[at] in lead for lead in leads) else 1
        is_within = at > len(self.pending)
        if is_within:
            self.pending += char.encode("ascii")
        return is_within

    def write_raw(self, text: str) -> None:
        """Write text of the file."""
        skipped = min(self.to_skip, len(text))
        self.to_skip -= skipped
        text = text[skipped:]
        if self.pending:
            if text and self.take_trail(text[0]):
                text = text[1:]
            self.flush()
        if self.group.sink is None or not text:
            return
        if not self.is_unicode and (not text.isascii() or self.find_symbol_font() is not None):
            self.pending += text.encode("latin-1")
            self.flush()
        else:
            self.write(text)

    def write_unicode(self, char: int) -> None:
        """Write a UTF-16 unit; Word adds F000 to the codes of symbol fonts."""
        font = self.find_symbol_font() if 0xF000 <= char <= 0xF0FF else None
        self.write(chr(char) if font is None else self.render_symbol(font, char & 0xFF))

    def open(self) -> None:
        """Begin a group."""
        self.flush()
        self.to_skip = 0
        self.outer.append(self.group)
        self.at_start = True
        if self.group.ends:
            self.group = replace(self.group, ends="")

    def close(self) -> None:
        """End a group, if there is one to end."""
        self.flush()
        self.to_skip = 0
        if not self.outer:
            return
        inner, self.group = self.group, self.outer.pop()
        if inner.ends == "block":
            inner_text = inner.sink
            if inner_text and not inner_text[-1].endswith("\n\n"):
                inner_text.append("\n\n")
        elif inner.ends == "note" and inner.text is not None:
            self.notes.append("".join(inner.text).strip())
        elif inner.ends == "object" and inner.text is not None and self.object:
            self.read_object(has_text=bool("".join(inner.text[inner.mark :]).strip()))
        if not self.outer:
            self.has_ended = True
            self.write_notes()

    def read_object(self, *, has_text: bool) -> None:
        """Read the embedded file; its text follows the paragraph, unless what the object shows is text already."""
        digits, self.object = _NO_DIGITS.sub("", "".join(self.object)), []
        if has_text:
            return
        try:
            content, name = find_ole1_embedded(bytes.fromhex(digits[: len(digits) // 2 * 2]))
            if self.read_inner is None:
                return
            parsed = self.read_inner(content, name, "")
        except (ValueError, ObjectError) as error:
            media_type = str(error.context.get("content_type", "")) if isinstance(error, ObjectError) else ""
            if not media_type.startswith(("image/", "audio/", "video/")):
                reason = error.code if isinstance(error, ObjectError) else error
                self.warnings.append(ReadWarning("part_unreadable", detail=f"An embedded object: {reason}."))
            return
        self.warnings += parsed.warnings
        self.notes.append(parsed.whole_text.strip())

    def write_notes(self) -> None:
        """Write the notes of the paragraph that has ended, each as a paragraph."""
        for note in filter(None, self.notes):
            if self.out and not self.out[-1].endswith("\n\n"):
                self.out.append("\n\n")
            self.out.append(note + "\n\n")
        self.notes.clear()


def read_rtf(body: bytes, read_inner: ReadInner | None = None) -> ParsedText:
    """Return the text of a Rich Text file, with an empty line between paragraphs, and its title.

    Notes, comments and embedded files follow their paragraph; without ``read_inner`` embedded files are left out. HTML
    in Rich Text, as Outlook writes it, is read as HTML.

    Raises:
        ObjectError: ``corrupt_document`` when groups are not closed, as in a file that is cut short.

    Cost: about 1 s per 5 MB.
    """
    is_unicode = body.startswith(codecs.BOM_UTF8) and is_utf8(body)
    source = body.decode("utf-8" if is_unicode else "latin-1")
    reader = _Reader(read_inner, is_unicode=is_unicode)
    damage = list(_read_tokens(reader, source[source.index("{") :]))
    warnings = (*reader.warnings, *damage)
    if not reader.has_ended:
        raise corrupt("Rich Text document", "groups are not closed")
    title = _join(reader.title) or None
    if reader.is_html:
        page = read_html(_combine(reader.out))
        return replace(page, title=page.title or title, warnings=warnings)
    return ParsedText(_join(reader.out), title=title, warnings=warnings)


def _read_tokens(reader: _Reader, source: str) -> Iterator[ReadWarning]:
    """Read a document, and what follows its last brace; yield what is wrong about it."""
    last = max(source.rfind("{"), source.rstrip("\\ \r\n\0").rfind("\\"))
    is_damaged = False
    at = 0
    while at < len(source):
        token = _TOKEN.match(source, at)
        assert token is not None
        at = token.end()
        word, number, hexa, symbol, brace, text = token.groups()
        if hexa is not None:
            reader.at_start = False
            if reader.to_skip:
                reader.to_skip -= 1
            elif reader.group.sink is not None:
                reader.pending.append(int(hexa, 16))
        elif text is not None:
            reader.at_start = reader.optional = False
            is_damaged = is_damaged or (not reader.outer and bool(text.strip("\0 \t\x1a")))
            reader.write_raw(text)
        elif brace == "{":
            reader.open()
        elif brace == "}":
            reader.close()
            if not reader.outer and at > last:
                break
        elif word is not None:
            if reader.pending:
                reader.flush()
            value = int(number) if number else None
            if word == "bin":
                at += max(0, value or 0)
            else:
                _control(reader, word, value)
            reader.at_start = reader.optional = False
        elif symbol is not None:
            _escape(reader, symbol)
    reader.flush()
    if reader.unknown_symbols:
        detail = "Characters of symbol fonts were read as letters."
        yield ReadWarning("text_without_unicode", reader.unknown_symbols, detail)
    if is_damaged or reader.outer:
        yield ReadWarning("part_damaged", detail="The Rich Text has braces that do not match.")
    if _WORD.search(source, at):
        yield ReadWarning("part_unreadable", detail="The text behind the end of the Rich Text document was not read.")


def _escape(reader: _Reader, symbol: str) -> None:
    """Apply a backslash and another character than a letter."""
    if symbol == "*":
        reader.flush()
        reader.optional, reader.at_start = reader.at_start, False
        return
    reader.at_start = reader.optional = False
    if symbol in "~_-{}\\" and reader.to_skip:
        reader.to_skip -= 1
    elif symbol not in "\\{}" or not reader.take_trail(symbol):
        reader.flush()
        reader.write(_ESCAPES.get(symbol, ""))


def _control(reader: _Reader, word: str, value: int | None) -> None:
    """Apply a control word."""
    if word == "u" and value is not None:
        reader.write_unicode(value % 65536)
        reader.to_skip = reader.group.after_uc
        return
    if reader.to_skip and word in _LETTERS:
        reader.to_skip -= 1
        return
    reader.to_skip = 0
    if word in _SYMBOLS:
        reader.write("\n" if reader.is_html and word in _BREAKS else _SYMBOLS[word])
        if word in _BREAKS and reader.notes and reader.group.text is reader.out:
            reader.write_notes()
    elif word in ("f", "plain"):
        if reader.group.in_fonts and value is not None:
            reader.defined = reader.fonts.setdefault(value, _Font())
            reader.group = replace(reader.group, sink=reader.defined.name)
        elif value != reader.group.font:
            reader.group = replace(reader.group, font=value)
    elif word == "uc":
        reader.group = replace(reader.group, after_uc=max(0, value or 0))
    elif reader.group.in_fonts and word == "fcharset":
        reader.defined.charset = value
    elif reader.group.in_fonts and word == "cpg":
        reader.defined.code_page = resolve_label(f"cp{value}")
    elif word == "ansicpg":
        reader.code_page = resolve_label(f"cp{value}") or reader.code_page
    elif word in _DOCUMENT_CODE_PAGES:
        reader.code_page = _DOCUMENT_CODE_PAGES[word]
    elif word == "deff":
        reader.default_font = value
    elif word == "fromhtml":
        reader.is_html = value != 0
    else:
        _enter(reader, word, value)


_ENTERED = _HIDDEN | _CLOSED | _OPENING | _OPEN | _BLOCKS | {
    "object", "objdata", "htmlrtf", "htmltag", "sv", "sn", "title", "fonttbl", "upr", "deleted",
}  # fmt: skip
"""Words that ``_enter`` knows; all others are about the look of the text, unless they name an unknown group."""


def _enter(reader: _Reader, word: str, value: int | None) -> None:
    """Apply a control word that determines which text of a group is read."""
    if word not in _ENTERED and not reader.optional and not (word.startswith("m") and word.endswith("Pr")):
        return
    group = reader.group
    if reader.is_html and word in ("htmlrtf", "htmltag"):
        reader.group = replace(group, sink=None if word == "htmlrtf" and value != 0 else group.text)
    elif word in _NOTES:
        note: list[str] | None = None if group.text is None else []
        reader.group = replace(group, sink=note, text=note, ends="note")
    elif word == "object" and group.text is not None:
        reader.object = []
        reader.group = replace(group, ends="object", mark=len(group.text))
    elif word == "objdata":
        reader.group = replace(group, sink=None if group.text is None else reader.object)
    elif word in _OPENING or (word == "sv" and "".join(reader.property).strip() in _TEXT_PROPERTIES):
        reader.group = replace(group, sink=group.text, ends="block")
        if group.text and not group.text[-1].endswith("\n\n"):
            group.text.append("\n\n")
    elif word == "sn":
        reader.property = []
        reader.group = replace(group, sink=reader.property)
    elif word == "title" and group.sink is None and group.text is not None:
        reader.group = replace(group, sink=reader.title)
    elif word == "fonttbl":
        reader.group = replace(group, sink=None, text=None, in_fonts=True)
    elif word == "upr":
        reader.group = replace(group, sink=None, text=None, second_form=group.sink)
    elif word == "ud":
        reader.group = replace(group, sink=group.second_form, text=group.second_form)
    elif word in _CLOSED:
        reader.group = replace(group, sink=None)
    elif word == "deleted":
        reader.group = replace(group, sink=None if value != 0 else group.text)
    elif word in _HIDDEN or (word.startswith("m") and word.endswith("Pr")):
        reader.group = replace(group, sink=None, text=None)
    elif word in _BLOCKS:
        reader.group = replace(group, ends="block")
    elif reader.optional and word not in _OPEN:
        reader.group = replace(group, sink=None, text=None)


def _combine(parts: list[str]) -> str:
    """Return the collected text with surrogate pairs combined."""
    return "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _join(parts: list[str]) -> str:
    """Return the collected text without the marks behind the last cells of rows."""
    return _CELL_MARKS.sub(lambda marks: marks[1] if marks[2] is None else "", _combine(parts)).strip()
