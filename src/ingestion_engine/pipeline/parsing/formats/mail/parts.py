"""A mail's parts by the standard library, with headers and parameters as forgiving as mail programs read them."""

from __future__ import annotations

import binascii
import email
import quopri
import re
import string
from collections.abc import Iterator
from email.message import Message
from email.policy import Compat32
from typing import Any, cast

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.decode import NotTextError, decode_text
from ingestion_engine.pipeline.parsing.formats.mail.inline import take_files
from ingestion_engine.pipeline.parsing.labels import resolve_label

_PARSED_CONTENT_CHARS = 4 * 1024
"""Characters of a ``Content-…`` header that are parsed: it is asked for its parameters several times."""

_ENCODED_WORD = re.compile(r"=\?([^?\s]++)\?([BbQq])\?([^?]*+)\?=")
_FIRST_BOUNDARY = re.compile(rb"(?:\A|\n)--([^\r\n]{1,200})\r?\nContent-", re.IGNORECASE)

_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_HEADER_LINE = re.compile(rb"[!-9;-~]++:|[ \t]")
_BLANK_BEFORE_COLON = re.compile(rb"([!-9;-~]++)[ \t]++:")
_USUAL_HEADER = re.compile(
    rb"(?:from|to|cc|date|subject|message-id|received|mime-version|content-[a-z-]++)[ \t]*+:", re.IGNORECASE
)

_MALFORMED = (ValueError, TypeError, IndexError, LookupError)
"""What the standard library raises for malformed parameters, such as ``name*`` or an encoding with a null character."""

_UUENCODED = frozenset({"x-uuencode", "uuencode", "uue", "x-uue"})

_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))
_PADDING = re.compile(rb"=+")


class _ForgivingPolicy(Compat32):
    def header_fetch_parse(self, name: str, value: str) -> str:
        """Return a header's text, with its bytes that are not ASCII decoded."""
        lower = name.lower()
        if lower.startswith("content-"):
            value = value[:_PARSED_CONTENT_CHARS]
        if lower == "content-transfer-encoding":
            return value.partition(";")[0].strip(" \t\r\n\"'").lower()
        return _decode_raw(value)


_POLICY = _ForgivingPolicy()


class Part(Message):
    """A mail or one of the parts in it.

    Read with the policy Compat32, not EmailPolicy, whose parser of headers fails on malformed ones, drops bytes that
    are not ASCII, and takes time with the square of their length.
    """

    _payload: Any

    def get_boundary(self, failobj: Any = None) -> Any:
        """Return the line between the parts, or the given value without a usable one."""
        try:
            return super().get_boundary(failobj)
        except _MALFORMED:
            return failobj

    def find_raw(self) -> bytes:
        """Return the content as it is in the file, not decoded; empty for a part that has parts."""
        payload = self._payload  # get_payload decodes it, with the declared encoding
        return payload.encode("ascii", "surrogateescape") if isinstance(payload, str) else b""


def parse_mail(body: bytes) -> Part:
    """Return a mail with its parts. Raises RecursionError for hundreds of parts inside one another."""
    return cast(Part, email.message_from_bytes(_mend_headers(body), Part, policy=_POLICY))


def _mend_headers(body: bytes) -> bytes:
    """Return a mail with the lines among its headers that are none as continuations, and no blanks before colons.

    The standard library ends the headers at such a line, so that the parts of the mail are not found.
    """
    blank = _BLANK_LINE.search(body)
    end = blank.start() if blank else len(body)
    lines = body[:end].split(b"\n")
    wrong = [number for number, line in enumerate(lines) if not _HEADER_LINE.match(line)]
    if not wrong:
        return body
    usual = [number for number, line in enumerate(lines) if _USUAL_HEADER.match(line)]
    for number in wrong:
        named = _BLANK_BEFORE_COLON.match(lines[number])
        if named:
            lines[number] = named[1] + lines[number][named.end() - 1 :]
        elif usual and 0 < number < usual[-1]:
            lines[number] = b" " + lines[number]
    return b"\n".join(lines) + body[end:]


def decode_content(content: bytes, charset: str | None) -> str | None:
    """Return the text of bytes; None if they are no text in any encoding."""
    try:
        return decode_text(content, declared=charset)
    except (NotTextError, ObjectError):
        return None


def decode_damaged(content: bytes, charset: str | None) -> str | None:
    """Return the text of bytes of which some are wrong, so that they do not tell their encoding."""
    codec = resolve_label(charset)
    return content.decode(codec, "replace") if codec else decode_content(content, charset)


def _decode_raw(value: str) -> str:
    """Return text that the standard library read as ASCII with bytes of an undeclared encoding decoded."""
    if value.isascii():
        return value
    try:
        raw = value.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:  # decoded already
        return value
    text = decode_content(raw, None)
    return raw.decode("cp1252", "replace") if text is None else text


def header_lines(part: Part) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of a part's headers, in order."""
    for name, value in part.raw_items():
        yield name, decode_header(str(value))


def find_header(part: Part, name: str) -> str:
    """Return the text of a part's first header of that name; empty without one."""
    return decode_header(str(part.get(name) or ""))


def decode_header(value: str) -> str:
    """Return a header's text on one line, with its encoded words decoded. Pure.

    Neighbouring words of one encoding are decoded together: some writers cut them within a character.
    """
    value = _decode_raw(value)
    out: list[str] = []
    pending, charset = b"", ""
    end = 0
    for word in _ENCODED_WORD.finditer(value):
        between = value[end : word.start()]
        end = word.end()
        label = word[1].partition("*")[0].lower()
        if pending and (between.strip() or label != charset):
            out.append(_decode_words(pending, charset))
            pending = b""
        if between.strip() or not (out or pending):
            out.append(between)
        pending, charset = pending + _unpack_word(word[2], word[3]), label
    out += [_decode_words(pending, charset), value[end:]]
    return " ".join("".join(out).split())


def _unpack_word(kind: str, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return quopri.decodestring(raw, header=True) if kind in "qQ" else decode_base64(raw)


def _decode_words(raw: bytes, charset: str) -> str:
    codec = resolve_label(charset)
    try:
        return raw.decode(codec or "utf-8")
    except UnicodeError:
        text = decode_content(raw, charset)
        return raw.decode("cp1252", "replace") if text is None else text


def decode_base64(data: bytes) -> bytes:
    """Return what base64 decodes to; what is no base64, and a last character that is cut short, is left out. Pure."""
    return b"".join(map(_decode_run, _PADDING.split(data.translate(None, _NOT_BASE64))))


def _decode_run(run: bytes) -> bytes:
    return binascii.a2b_base64(run[: len(run) - (len(run) % 4 == 1)] + b"==")


def find_name(part: Part) -> str:
    """Return the name of the file in a part; empty without one."""
    try:
        name = part.get_filename()
    except _MALFORMED:
        name = None
    return decode_header(name or "")


def find_charset(part: Part) -> str | None:
    """Return the declared encoding of a part's text."""
    try:
        return part.get_content_charset()
    except _MALFORMED:
        return None


def find_parameter(part: Part, name: str, header: str = "content-type") -> str:
    """Return a parameter of a part's header, in lower case; empty without one."""
    try:
        value = part.get_param(name, "", header)
    except _MALFORMED:
        return ""
    return str(value[2] if isinstance(value, tuple) else value).strip().lower()


def is_attached(part: Part) -> bool:
    """Return whether a part is declared to be an attachment."""
    return str(part.get("content-disposition") or "").partition(";")[0].strip().lower() == "attachment"


def children_of(part: Part) -> list[Part]:
    """Return the parts of a part; with a missing or wrong boundary, those between the lines that look like it."""
    if part.is_multipart():
        return [child for child in part.get_payload() if isinstance(child, Part)]
    content, _ = content_of(part)
    boundary = _FIRST_BOUNDARY.search(content)
    if boundary is None:
        return []
    head = b'Content-Type: multipart/mixed; boundary="' + boundary[1].rstrip().replace(b'"', b'\\"') + b'"\n\n'
    repaired = parse_mail(head + content)
    return children_of(repaired) if repaired.is_multipart() else []


def content_of(part: Part) -> tuple[bytes, bool]:
    """Return a part's content and whether all of it was decoded."""
    encoding = str(part.get("content-transfer-encoding") or "")
    data = part.find_raw()
    if encoding == "base64":
        letters = len(data.translate(None, _NOT_BASE64 + b"="))
        is_whole = letters % 4 != 1 and not data.translate(None, _BASE64 + string.whitespace.encode())
        return decode_base64(data), is_whole
    if encoding == "quoted-printable":
        return quopri.decodestring(data), True
    if encoding in _UUENCODED:
        _, files = take_files(data)
        return (files[0].content, files[0].is_whole) if files else (data, False)
    return data, True
