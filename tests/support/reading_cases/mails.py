"""Cases of mail and Rich Text."""

# ruff: noqa: RUF001 - the cases are about letters of many scripts

from __future__ import annotations

from support.reading_cases.case import ReadingCase

_HEAD = "From: a@example.org\r\nTo: b@example.org\r\nSubject: s\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\n"
_FONTS = b"{\\fonttbl{\\f0\\fcharset0 A;}{\\f1\\fcharset204 B;}}"
_MAIL = "message/rfc822"


def _mail(*lines: str) -> bytes:
    return (_HEAD + "\r\n".join(lines)).encode()


MAILS = (
    ReadingCase(
        key="f11_mail.eml",
        body=_HEAD.encode()
        + b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nHe said \x93yes\x94, it\x92s \x80 5",
        contains=("He said “yes”, it’s € 5",),
    ),
    ReadingCase(
        key="f15_bom.eml",
        body=b"\xef\xbb\xbf" + _mail("", "words"),
        contains=("Subject: s", "words"),
        lacks=("From: a@example.org To: b@example.org Subject",),
        content_type=_MAIL,
    ),
    ReadingCase(key="f15_blank.eml", body=b"\r\n" + _mail("", "words"), contains=("words",), content_type=_MAIL),
    ReadingCase(
        key="f15_utf16.eml",
        body=_mail("", "words").decode().encode("utf-16"),
        contains=("Subject: s", "words"),
        content_type=_MAIL,
    ),
    ReadingCase(
        key="f15_name_star.eml",
        body=_mail("Content-Type: text/plain; name*", "", "words"),
        contains=("words",),
        content_type=_MAIL,
    ),
    ReadingCase(
        key="f15_bounce.eml",
        body=_mail(
            'Content-Type: multipart/report; boundary="B"',
            "",
            "--B",
            "Content-Type: text/plain",
            "",
            "Sorry.",
            "--B",
            "Content-Type: message/delivery-status",
            "",
            "Reporting-MTA: dns; mx",
            "",
            "Final-Recipient: rfc822; lost@example.org",
            "Diagnostic-Code: smtp; 550 mailbox full",
            "--B--",
            "",
        ),
        contains=("Sorry.", "lost@example.org", "550 mailbox full"),
    ),
    ReadingCase(
        key="f15_stub.eml",
        body=_mail(
            'Content-Type: multipart/alternative; boundary="B"',
            "",
            "--B",
            "Content-Type: text/plain",
            "",
            "This message is in HTML.",
            "--B",
            "Content-Type: text/html",
            "",
            "<p>" + "The whole message. " * 20 + "</p>",
            "--B--",
            "",
        ),
        contains=("The whole message.",),
        lacks=("<p>",),
    ),
    ReadingCase(
        key="f15_memo.txt",
        body=(
            b"TO: All staff\nFROM: Head office\nDATE: 3 May 2021\nSUBJECT: Move\nCLASSIFICATION: Confidential\n"
            b"REFERENCE: 77\n\nWe move on Monday.\n"
        ),
        contains=("All staff", "CLASSIFICATION: Confidential", "REFERENCE: 77", "We move on Monday."),
    ),
)

RTF = (
    ReadingCase(
        key="f03_fonts.rtf", body=("{\\rtf1\\ansi " + "\\f0" * 30000 + " words}").encode(), contains=("words",)
    ),
    ReadingCase(
        key="f16_codepage.rtf",
        body=b"{\\rtf1\\ansi\\ansicpg1252" + _FONTS + b"\\f1 \\'cf\\'f0\\'e8\\'e2\\'e5\\'f2 \\f0 caf\\'e9\\par}",
        contains=("Привет", "café"),
    ),
    ReadingCase(
        key="f16_shift_jis.rtf",
        body=(
            b"{\\rtf1\\ansi\\ansicpg932{\\fonttbl{\\f0\\fcharset128 M;}}"
            b"\\f0 \\'83e\\'83X\\'83g \\'93\\'fa\\'96\\{\\'8c\\'ea\\par}"
        ),
        contains=("テスト", "日本語"),
    ),
    ReadingCase(
        key="f16_star.rtf",
        body=b"{\\rtf1\\ansi before {\\b\\*\\cs7\\cf0 styled words} after}",
        contains=("before", "styled words", "after"),
    ),
    ReadingCase(key="f16_bom.rtf", body=b"\xef\xbb\xbf{\\rtf1\\ansi words}", contains=("words",), lacks=("\\rtf1",)),
    ReadingCase(key="f16_blank.rtf", body=b"\r\n{\\rtf1\\ansi words}", contains=("words",), lacks=("\\rtf1",)),
)
