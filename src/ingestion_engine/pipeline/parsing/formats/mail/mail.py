"""E-mails to text: the main headers, the body, and the attachments of every mail in a file."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning, TextFormat
from ingestion_engine.pipeline.parsing.decode import NotTextError, decode_and_warn, decode_text
from ingestion_engine.pipeline.parsing.formats.html import find_charset as find_html_charset
from ingestion_engine.pipeline.parsing.formats.html import read_html
from ingestion_engine.pipeline.parsing.formats.mail import parts
from ingestion_engine.pipeline.parsing.formats.mail.calendars import render_entries
from ingestion_engine.pipeline.parsing.formats.mail.inline import EncodedFile, take_armor, take_files, unwrap_flowed
from ingestion_engine.pipeline.parsing.formats.mail.signed import open_signed
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, ReadInner
from ingestion_engine.pipeline.parsing.unpack import corrupt

_HEADERS = ("Subject", "From", "To", "Cc", "Bcc", "Date", "Keywords", "Comments")
"""Headers that are text for people, in the order in which they are written."""

_FORMS = frozenset({"text/plain", "text/html", "text/enriched", "text/richtext", "application/xhtml+xml"})
"""Kinds of a mail's text itself; several of them side by side are the same text."""

_SECOND_FORMS = frozenset({"text/x-amp-html", "text/watch-html"})
"""Forms that repeat another one for some mail programs."""

_NO_TEXT = frozenset({
    "text/css", "text/javascript", "application/javascript", "application/x-javascript", "application/ecmascript",
    "application/pgp-encrypted",
})  # fmt: skip
"""Parts that belong to the look of a saved page, or to a protocol."""

_SIGNATURES = frozenset({
    "application/pgp-signature", "application/pgp-keys", "application/pkcs7-signature", "application/x-pkcs7-signature",
})  # fmt: skip
_SIGNED = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_MEDIA = frozenset({"image", "audio", "video", "font", "model"})
_MAILS = frozenset({"message/rfc822", "message/global", "message/news"})
_ENTRIES = frozenset({"text/calendar", "text/vcard", "text/x-vcard", "text/directory", "text/x-vcalendar",
                      "application/ics"})  # fmt: skip
_ENTRY_SUFFIXES = (".ics", ".ifb", ".vcs", ".vcf")

_WHOLE_SHARE = 0.9
"""A plain form with a smaller share of the richer form's letters lacks some of the text: a stub ("this message is in
HTML"), or the summary of a newsletter. Of 95 texts in two forms in public test mails, 91 have at least 95 %."""

_LINK = re.compile(r"https?://[^\s>)\]]++")
_NO_LETTERS = re.compile(r"[\W_]++")
_MARKUP = re.compile(r"<(?:(<)|/?([A-Za-z][A-Za-z-]*+)>)")
"""Commands of ``text/enriched`` and ``text/richtext``; a doubled bracket is a bracket."""
_MARKUP_TEXT = {"nl": "\n", "np": "\n\n", "paragraph": "\n\n", "lt": "<"}

_FOLD = re.compile(r"\r?\n[ \t]+")
_MAILBOX_LINE = re.compile(rb"(?:\A|\n)From (?! *:)[^\n]*+\n(?=[!-9;-~]++:)")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_USUAL_HEADER = re.compile(
    rb"^(?:from|to|date|subject|message-id|received|return-path|mime-version):", re.IGNORECASE | re.MULTILINE
)
_QUOTED_MAILBOX_LINE = re.compile(rb"^>(>*+From )", re.MULTILINE)


def read_email(body: bytes, read_inner: ReadInner) -> ParsedText:
    """Return the text of a mail, of a saved page (MHT), or of all mails of a mailbox file.

    Headers, then the body (the plain form, unless it is a stub of a richer one), attachments, calendar entries, reports
    and mails inside. An unreadable attachment is listed with the reason, and is a warning; it does not fail the mail.

    Raises:
        ObjectError: ``corrupt_document`` when there is neither a usual header nor text, or when hundreds of parts are
            inside one another; ``encrypted_document`` when all of the text is encrypted.
    """
    reader = _MailReader(read_inner)
    subjects = []
    try:
        for number, mail in enumerate(_split_mailbox(_open(body))):
            part = parts.parse_mail(mail)
            if number == 0:
                subjects.append(parts.find_header(part, "Subject"))
            reader.blocks += reader.read_mail(part, is_outer=True)
    except RecursionError:
        raise corrupt("e-mail", "its parts are nested too deeply") from None
    text = "\n\n".join(block.text for block in reader.blocks if block.text.strip())
    if reader.is_encrypted and not any(block.is_content for block in reader.blocks):
        raise ObjectError("encrypted_document", "The text of the e-mail is encrypted.", kind="e-mail")
    if not text:
        raise ObjectError("corrupt_document", "The e-mail has neither the usual headers nor text.", kind="e-mail")
    title = next(filter(None, [*subjects, *reader.titles]), None)
    return ParsedText(text, TextFormat.MARKDOWN, title=title, warnings=tuple(reader.warnings))


def _open(body: bytes) -> bytes:
    """Return a mail's bytes from its first header on, in an encoding that contains ASCII."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:64]:
        with contextlib.suppress(NotTextError):  # a null character among the headers
            body = decode_text(body).encode("utf-8", "replace")
    return body.lstrip().removeprefix(codecs.BOM_UTF8).lstrip()


def _split_mailbox(body: bytes) -> Iterator[bytes]:
    """Yield the mails of a mailbox file without the lines between them; another file as it is."""
    if not body.startswith(b"From "):
        yield body
        return
    starts = [found for found in _MAILBOX_LINE.finditer(body) if _begins_mail(body, found)]
    if not starts or starts[0].start() > 0:  # the first mail has no headers
        first = body.find(b"\n") + 1
        yield b"\n" + body[first : starts[0].start() if starts else len(body)]
    for number, found in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(body)
        yield _QUOTED_MAILBOX_LINE.sub(rb"\1", body[found.end() : end])


def _begins_mail(body: bytes, line: re.Match[bytes]) -> bool:
    """Return whether a line that begins with "From " is followed by two usual headers: it is no line of a text."""
    if line.start() == 0:
        return True
    head = _BLANK_LINE.split(body[line.end() : line.end() + 4096], maxsplit=1)[0]
    return len({name.lower() for name in _USUAL_HEADER.findall(head)}) > 1


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of a mail's text."""

    text: str
    is_form: bool = False
    """True for the mail's text itself, which its other forms repeat."""
    is_content: bool = True
    """False for headers, and for names of what was not read."""


@dataclass(slots=True)
class _MailReader:
    """Collects the text of mails and what could not be read."""

    read_inner: ReadInner
    blocks: list[_Block] = field(default_factory=list)
    warnings: list[ReadWarning] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    """Titles of HTML texts."""
    is_encrypted: bool = False
    entries: set[str] = field(default_factory=set)
    """Calendar entries that were read: invitations have them as a form and again as an attachment."""

    def read_mail(self, part: parts.Part, *, is_outer: bool = False) -> list[_Block]:
        """Return the headers and the text of a mail."""
        found: dict[str, list[str]] = {}
        for name, value in parts.header_lines(part):
            if value:
                found.setdefault(name.lower(), []).append(value)
        lines = [f"{name}: {value}" for name in _HEADERS for value in found.get(name.lower(), ())]
        return [_Block("\n".join(lines), is_content=not is_outer), *self._read(part, is_root=is_outer)]

    def _read(self, part: parts.Part, *, is_root: bool = False) -> list[_Block]:
        """Return the texts of a part and all parts in it, in order."""
        kind = part.get_content_type()
        main = part.get_content_maintype()
        if main == "multipart":
            return self._read_multipart(part, kind)
        if main == "message" and part.is_multipart():
            return self._read_message(part, kind)
        return self._read_leaf(part, kind, is_root=is_root)

    def _read_multipart(self, part: parts.Part, kind: str) -> list[_Block]:
        children = parts.children_of(part)
        if not children:
            content, _ = parts.content_of(part)
            text = parts.decode_content(content, parts.find_charset(part)) or ""
            return [_Block(text.strip(), is_form=True)]
        if kind == "multipart/alternative":
            return self._choose(children)
        if kind == "multipart/encrypted":
            self._note_encrypted("A part of the mail")
            return []
        return [block for child in children for block in self._read(child)]

    def _choose(self, children: list[parts.Part]) -> list[_Block]:
        """Return the best form of a text, and all that its other forms do not repeat: attachments, calendar entries."""
        forms: list[tuple[bool, list[_Block]]] = []
        others: list[_Block] = []
        for child in children:
            kind = child.get_content_type()
            if kind in _SECOND_FORMS:
                continue
            blocks = self._read(child)
            if any(block.is_form for block in blocks):
                forms.append((kind == "text/plain", blocks))
            else:
                others += blocks
        if not forms:
            return others
        weights = [sum(_count_letters(block.text) for block in blocks if block.is_form) for _, blocks in forms]
        richest = max(range(len(forms)), key=lambda number: weights[number])
        plain = next((number for number, (is_plain, _) in enumerate(forms) if is_plain and weights[number]), None)
        best = richest if plain is None or weights[plain] < _WHOLE_SHARE * weights[richest] else plain
        chosen = forms[best][1]
        known = {block.text for block in chosen}
        extra = [
            block for number, (_, blocks) in enumerate(forms) if number != best for block in blocks
            if not block.is_form and block.is_content and block.text not in known
        ]  # fmt: skip
        return [*chosen, *extra, *others]

    def _read_message(self, part: parts.Part, kind: str) -> list[_Block]:
        """Return the texts of a mail inside, or of a report: its fields as lines."""
        children = parts.children_of(part)
        if kind == "message/external-body":
            name = parts.find_name(part) or next(filter(None, map(parts.find_name, children)), "unnamed")
            return [self._note_unread(name, "it is elsewhere: message/external-body", code="not in the mail")]
        if kind == "message/partial":
            number = parts.find_parameter(part, "number")
            self._warn(f"The mail was sent in pieces, of which this is number {number}.")
        encoding = str(part.get("content-transfer-encoding") or "")
        if encoding in ("base64", "quoted-printable") and len(children) == 1 and not children[0].keys():
            inner = children[0]  # no standard allows it, and some gateways write it
            inner["Content-Transfer-Encoding"] = encoding
            children = [parts.parse_mail(parts.content_of(inner)[0])]
        if kind in _MAILS or kind == "message/partial":
            return [replace(block, is_form=False) for child in children for block in self.read_mail(child)]
        blocks = []
        for child in children:
            lines = [f"{name}: {value}" for name, value in parts.header_lines(child) if value]
            blocks += [_Block("\n".join(lines)), *(self._read(child) if child.get_payload() else [])]
        return blocks

    def _read_leaf(self, part: parts.Part, kind: str, *, is_root: bool) -> list[_Block]:
        name = parts.find_name(part)
        is_attached = parts.is_attached(part)
        main = kind.partition("/")[0]
        if (kind in _NO_TEXT and not is_attached) or (kind == "application/pgp-encrypted"):
            return []
        if kind in _SIGNATURES or main in _MEDIA:
            return [_Block(_label(name, part), is_content=False)] if name else []
        content, is_whole = parts.content_of(part)
        if not content.strip():
            return []
        if not is_whole:
            label = f"'{name}'" if name else f"A part of type {kind}"
            self.warnings.append(ReadWarning("part_damaged", detail=f"{label}: what could be decoded was read."))
        if kind in _SIGNED:
            return self._read_signed(content, name)
        if kind in _ENTRIES or name.lower().endswith(_ENTRY_SUFFIXES):
            blocks = self._read_entries(content, part, name)
            if blocks is not None:
                return blocks
        if kind in _FORMS and not is_attached and (not name or is_root):
            return self._read_form(content, part, is_whole=is_whole)
        if kind == "text/rfc822-headers":
            text = parts.decode_content(content, parts.find_charset(part)) or ""
            return [_Block("\n".join(map(parts.decode_header, _FOLD.sub(" ", text).splitlines())).strip())]
        return [self._read_attachment(content, part, name)]

    def _read_form(self, content: bytes, part: parts.Part, *, is_whole: bool) -> list[_Block]:
        """Return the mail's text in one of its forms, and the files encoded in it."""
        kind = part.get_content_type()
        charset = parts.find_charset(part)
        files: list[EncodedFile] = []
        if kind == "text/plain":
            content, files = take_files(content)
        elif kind != "text/enriched":
            charset = charset or find_html_charset(content)
        text = ""
        try:
            if is_whole:
                text, warnings = decode_and_warn(content, declared=charset)
                self.warnings += warnings
            else:
                text = parts.decode_damaged(content, charset) or ""
        except NotTextError:
            self._warn(f"A text of type {kind} is in no known encoding.")
        if kind == "text/plain":
            if parts.find_parameter(part, "format") == "flowed":
                text = unwrap_flowed(text, without_space=parts.find_parameter(part, "delsp") == "yes")
            text, is_encrypted = take_armor(text)
            if is_encrypted:
                self._note_encrypted("A text in the mail")
        elif kind in ("text/enriched", "text/richtext"):
            text = _MARKUP.sub(lambda found: found[1] or _MARKUP_TEXT.get(found[2].lower(), ""), text)
        else:
            page = read_html(text)
            self.titles += [page.title] if page.title else []
            self.warnings += page.warnings
            text = page.text
        blocks = [_Block(text.strip(), is_form=True, is_content=bool(text.strip()))]
        for file in files:
            if not file.is_whole:
                self.warnings.append(
                    ReadWarning("part_damaged", detail=f"'{file.name}': what could be decoded was read.")
                )
            blocks.append(self._read_file(file.content, file.name, ""))
        return blocks

    def _read_signed(self, content: bytes, name: str) -> list[_Block]:
        inner = open_signed(content)
        if inner is None:
            self._note_encrypted(f"'{name}'" if name else "A part of the mail")
            return [_Block(f"Attachment: {name or 'unnamed'} (not read: encrypted_document)", is_content=False)]
        return self._read(parts.parse_mail(inner))

    def _read_entries(self, content: bytes, part: parts.Part, name: str) -> list[_Block] | None:
        """Return calendar entries or contacts that were not read before; None for other text."""
        text = render_entries(parts.decode_content(content, parts.find_charset(part)) or "")
        if not text:
            return None
        if text in self.entries:
            return []
        self.entries.add(text)
        return [_Block(f"Attachment: {name}\n\n{text}" if name else text)]

    def _read_attachment(self, content: bytes, part: parts.Part, name: str) -> _Block:
        charset = parts.find_charset(part)
        kind = part.get_content_type()
        return self._read_file(content, name, f"{kind}; charset={charset}" if charset else kind)

    def _read_file(self, content: bytes, name: str, kind: str) -> _Block:
        """Return the text of an attachment behind its name; of an unreadable one the reason, which is a warning too."""
        label = name or "unnamed"
        try:
            parsed = self.read_inner(content, name, kind)
        except ObjectError as error:
            media_type = str(error.context.get("content_type", ""))
            if media_type.partition("/")[0] in _MEDIA or error.code == "empty_document":
                return _Block(f"Attachment: {label} (not read: {error.code})", is_content=False)
            return self._note_unread(label, error.code)
        self.warnings += parsed.warnings
        return _Block(f"Attachment: {label}\n\n{parsed.whole_text.strip()}")

    def _note_unread(self, label: str, reason: str, *, code: str = "") -> _Block:
        self._warn(f"Attachment '{label}': {reason}.")
        return _Block(f"Attachment: {label} ({code or f'not read: {reason}'})", is_content=False)

    def _note_encrypted(self, what: str) -> None:
        self.is_encrypted = True
        self._warn(f"{what} is encrypted.")

    def _warn(self, detail: str) -> None:
        self.warnings.append(ReadWarning("part_unreadable", detail=detail))


def _label(name: str, part: parts.Part) -> str:
    """Return the line of an attachment without text, with its description."""
    description = parts.find_header(part, "Content-Description")
    return f"Attachment: {name}" + (f" ({description})" if description not in ("", name) else "")


def _count_letters(text: str) -> int:
    """Return the number of letters and digits outside links, which plain forms spell out."""
    return len(_NO_LETTERS.sub("", _LINK.sub("", text)))
