"""Names of encodings, as documents declare them, to Python's codecs."""

from __future__ import annotations

import codecs
import re

import webencodings

_BY_STANDARD_NAME = {
    "euc-kr": "cp949", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932",
    "iso-8859-8-i": "iso8859_8", "windows-874": "cp874", "x-mac-cyrillic": "mac_cyrillic", "macintosh": "mac_roman",
    "x-user-defined": "cp1252", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
"""Python's codec of an encoding of the WHATWG standard, where it has another name or decodes fewer characters."""

_BY_PYTHON_NAME = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "cp950": "big5hkscs", "euc_kr": "cp949",
    "shift_jis": "cp932", "iso2022_jp": "iso2022_jp_ext", "utf-8-sig": "utf-8", "utf-16": "utf-16-le",
    "utf-32": "utf-32-le",
}  # fmt: skip
"""Python's codec that decodes the same bytes and more of them: what writers of the narrow encoding really use."""

_OTHERS = {
    "x-mac-ce": "mac_latin2", "x-mac-centraleurroman": "mac_latin2", "x-mac-icelandic": "mac_iceland",
    "x-mac-japanese": "cp932", "x-mac-korean": "cp949", "x-mac-simp-chinese": "gb18030",
    "x-mac-trad-chinese": "big5hkscs", "mac": "mac_roman", "ansi": "cp1252", "x-euc-tw": "big5hkscs",
    "windows-936": "gb18030", "windows-10000": "mac_roman", "windows-1200": "utf-16-le", "windows-1201": "utf-16-be",
    "windows-20127": "cp1252", "windows-20866": "koi8_r", "windows-21866": "koi8_u", "windows-20932": "euc_jp",
    "windows-51932": "euc_jp", "windows-51936": "gb18030", "windows-51949": "cp949", "windows-52936": "hz",
    "windows-54936": "gb18030", "windows-65000": "utf-7", "windows-65001": "utf-8", "windows-1361": "johab",
    "windows-50220": "iso2022_jp_ext", "windows-50221": "iso2022_jp_ext", "windows-50222": "iso2022_jp_ext",
    "windows-50225": "iso2022_kr",
}  # fmt: skip
"""Labels that neither the standard nor Python knows; ``windows-N`` stands for any spelling of code page N."""

_CODE_PAGE = re.compile(r"(?:x-)?(?:cp|ibm|dos|oem|ms|windows|code ?page)?[-_ ]?0*+(\d{3,5})")
_ISO_CODE_PAGE = 28590
"""Microsoft's number of ISO 8859-N, less N."""

_NOT_CHARACTERS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"})
"""Python's codecs from bytes to text that are no encodings of documents."""


def resolve_label(label: str | None) -> str | None:
    """Return Python's codec for the label of an encoding, read as browsers read it; None for an unknown one. Pure.

    The WHATWG standard decides: ``iso-8859-1`` and ``us-ascii`` are Windows-1252, ``gb2312`` is GB 18030, ``shift_jis``
    is Windows-31J. Labels that it does not have (``utf-7``, ``cp850``, ``windows-28592``) are looked up among Python's
    codecs. Apply it to every declared encoding: of HTTP and mail headers, of HTML, XML and Rich Text.
    """
    name = (label or "").strip(" \t\r\n\f\"'").lower()
    if not name or not name.isascii() or "\0" in name:
        return None
    found = webencodings.lookup(name)
    if found is not None and found.name != "replacement":  # what browsers refuse as a risk to pages is text to us
        return _find_codec(_BY_STANDARD_NAME.get(found.name, found.name))
    number = _CODE_PAGE.fullmatch(name)
    if number:
        page = int(number[1])
        known = _OTHERS.get(f"windows-{page}")
        if known is None and 1 <= page - _ISO_CODE_PAGE <= 16:
            known = f"iso8859_{page - _ISO_CODE_PAGE}"
        return _find_codec(known or f"cp{page}")
    return _find_codec(_OTHERS.get(name, name))


def _find_codec(name: str) -> str | None:
    try:
        codec = codecs.lookup(name)
        b"a".decode(codec.name, "replace")  # raises LookupError for codecs that do not return text
    except (LookupError, UnicodeError):
        return None
    if codec.name.replace("-", "_") in _NOT_CHARACTERS:
        return None
    return _BY_PYTHON_NAME.get(codec.name, codec.name)
