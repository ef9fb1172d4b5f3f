"""E-mails to text: the main headers, the body, and the attachments."""

from __future__ import annotations

import codecs
import email
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Any

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.decode import NotTextError, decode_text
from ingestion_engine.pipeline.parsing.formats.html import find_charset, read_html
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, ReadInner

_HEADERS = ("Subject", "From", "To", "Cc", "Date")

_PARSED_CHARS = 64 * 1024
"""Characters of a header, 2,500 addresses, that the standard library parses; its time grows with their square."""

_PARSED_CONTENT_CHARS = 4 * 1024
"""Characters of a ``Content-…`` header that it parses: it is asked for its parameters several times."""


class _BoundedPolicy(EmailPolicy):
    """The standard library's policy without the time that it takes for very long headers."""

    def header_fetch_parse(self, name: str, value: str) -> Any:
        """Return a header parsed; a longer one as written, or for parameters its beginning parsed."""
        if name.lower().startswith("content-"):
            value = value[:_PARSED_CONTENT_CHARS]
        return super().header_fetch_parse(name, value) if len(value) <= _PARSED_CHARS else value


_POLICY = _BoundedPolicy()


def read_email(body: bytes, read_inner: ReadInner) -> ParsedText:
    """Return an e-mail's text: headers, body (plain text if it exists, else HTML), attachments.

    An unreadable attachment is listed with the reason; it does not fail the e-mail.

    Raises:
        ObjectError: ``corrupt_document`` when the e-mail has none of the main headers.
    """
    message = email.message_from_bytes(_open(body), policy=_POLICY)
    assert isinstance(message, EmailMessage)
    headers = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    if not headers:
        raise ObjectError("corrupt_document", "The e-mail has none of the usual headers.", kind="e-mail")
    blocks = ["\n".join(headers), *_blocks(message, read_inner)]
    return ParsedText("\n\n".join(filter(None, blocks)), TextFormat.MARKDOWN, title=_header(message, "Subject"))


def _open(body: bytes) -> bytes:
    """Return a mail's bytes from its first header on, in an encoding that contains ASCII."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:64]:
        body = decode_text(body).encode("utf-8", "replace")
    return body.lstrip().removeprefix(codecs.BOM_UTF8).lstrip()


def _header(message: EmailMessage, name: str) -> str | None:
    try:
        value = message[name]
    except (HeaderParseError, ValueError, IndexError):  # the standard library fails on some malformed headers
        value = dict(message.raw_items()).get(name)
    return " ".join(str(value).split()) if value is not None else None


def _blocks(part: EmailMessage, read_inner: ReadInner) -> Iterator[str]:
    """Yield the texts of a part and all parts in it, in order."""
    kind = part.get_content_type()
    if part.is_multipart():
        children = [child for child in part.iter_parts() if isinstance(child, EmailMessage)]
        if kind == "message/rfc822":
            for child in children:
                yield "\n".join(f"{name}: {value}" for name in _HEADERS if (value := _header(child, name)))
                yield from _blocks(child, read_inner)
        elif kind == "multipart/alternative":
            yield from _best_alternative(children, read_inner)
        else:
            for child in children:
                yield from _blocks(child, read_inner)
        return
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes) or not content.strip():
        return
    name = part.get_filename()
    if name is None and kind in ("text/plain", "text/html"):
        yield _read_text(content, part.get_content_charset(), html=kind == "text/html")
    else:
        yield _render_attachment(content, name or "unnamed", kind, read=read_inner)


def _best_alternative(children: list[EmailMessage], read_inner: ReadInner) -> Iterator[str]:
    """Yield the plain form if it has text, else the first other form that has."""
    for child in sorted(children, key=lambda child: child.get_content_type() != "text/plain"):
        texts = [text for text in _blocks(child, read_inner) if text.strip()]
        if texts:
            yield from texts
            return


def _read_text(content: bytes, charset: str | None, *, html: bool) -> str:
    try:
        text = decode_text(content, declared=charset or (find_charset(content) if html else None))
    except NotTextError:
        return ""
    return read_html(text).text if html else text.strip()


def _render_attachment(content: bytes, name: str, kind: str, *, read: ReadInner) -> str:
    label = " ".join(name.split())
    if kind.split("/", maxsplit=1)[0] in ("image", "audio", "video"):
        return f"Attachment: {label}"
    try:
        return f"Attachment: {label}\n\n{read(content, name, kind).whole_text.strip()}"
    except ObjectError as error:
        return f"Attachment: {label} (not read: {error.code})"
