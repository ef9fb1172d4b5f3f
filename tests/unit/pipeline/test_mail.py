"""E-mails: what counts as one, and every part of it that is text."""

# ruff: noqa: RUF001 - the tests contain texts in many scripts

from __future__ import annotations

import base64

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes

HEAD = "From: a@example.org\nTo: b@example.org\nSubject: s\nDate: Mon, 1 Jan 2024 10:00:00 +0000\n"
MAIL = "message/rfc822"


def read(key: str, body: bytes | str) -> Document:
    data = body.encode() if isinstance(body, str) else body
    ref = ObjectRef("docs", key, "etag", len(data), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, data, None, {}), FrozenLimits())


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("a.eml", "Subject: only this"),
        ("a.eml", "\r\n \r\n" + HEAD.replace("\n", "\r\n") + "\r\nwords"),
        ("a.eml", "From : a\nTo  : b\n\nwords"),
        ("a.eml", "From a@example.org\n" + HEAD + "\nwords"),
        ("a.mbox", "From a@example.org Mon Jan  1 10:00:00 2024\n" + HEAD + "\nwords"),
        ("noname", "From a@example.org Mon Jan  1 10:00:00 2024\nMessage-ID: <x>\n" + HEAD + "\nwords"),
        ("a.eml", b"X: \0\xff\n" + HEAD.encode() + b"\nwords"),
        ("a.txt", HEAD + "MIME-Version: 1.0\n\nwords"),
        ("a.txt", HEAD.replace("Subject: s", "Subject: =?utf-8?q?s=C3=A9?=") + "\nwords"),
        ("a.eml", HEAD.encode() + b"\nwords " + bytes(range(256)) * 10),
    ],
)
def test_files_that_are_mails(key: str, body: bytes | str) -> None:
    """The name and one header suffice; without the name, headers that only software writes."""
    assert read(key, body).content_type == MAIL


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("a.txt", HEAD + "Reference: 77\n\nA copied mail keeps all its lines."),
        ("noname", "To: all\nFrom: me\nDate: today\nSubject: lunch\nPlace: here\n\nwords"),
        ("a.eml", "Dear all: this is a letter.\n\nwords"),
        ("a.eml", "Just text."),
        ("a.md", HEAD + "MIME-Version: 1.0\n\nwords"),
    ],
)
def test_files_that_are_not(key: str, body: str) -> None:
    """They are text as they are, with every line."""
    document = read(key, body)
    assert document.content_type != MAIL
    assert document.text == body


def warnings_of(document: Document) -> list[tuple[str, str]]:
    return [(warning.code, warning.detail) for warning in document.warnings]


def body_of(text: str) -> str:
    """Return what follows the headers of a mail with ``HEAD``."""
    assert text.startswith("Subject: s\nFrom: a@example.org\nTo: b@example.org\nDate: Mon, 1 Jan 2024 10:00:00 +0000")
    return text.partition("+0000")[2].strip()


def multipart(kind: str, *parts: str) -> str:
    """Return a mail of parts, each with its headers."""
    inside = "".join(f"--B\n{part}\n" for part in parts)
    return HEAD + f'Content-Type: multipart/{kind}; boundary="B"\n\n{inside}--B--\n'


PLAIN = "Content-Type: text/plain\n\n"
HTML = "Content-Type: text/html\n\n"


def test_reports_are_text() -> None:
    """Delivery status, receipts, complaints and returned headers: every field on a line."""
    mail = multipart(
        "report",
        PLAIN + "Sorry.",
        "Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; lost@example.org\n"
        "Diagnostic-Code: smtp;\n 550 full\n",
        "Content-Type: message/disposition-notification\n\nDisposition: manual-action; displayed\n",
        "Content-Type: message/feedback-report\n\nFeedback-Type: abuse\n",
        "Content-Type: text/rfc822-headers\n\nSubject: =?utf-8?q?gr=C3=BCn?=\nX-Long: a\n b\n",
    )
    assert body_of(read("a.eml", mail).text) == (
        "Sorry.\n\nReporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; lost@example.org\nDiagnostic-Code: smtp; 550 full"
        "\n\nDisposition: manual-action; displayed\n\nFeedback-Type: abuse\n\nSubject: grün\nX-Long: a b"
    )


EVENT = (
    "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VTIMEZONE\nTZID:Europe/Berlin\nCOMMENT:rules\nEND:VTIMEZONE\n"
    'BEGIN:VEVENT\nORGANIZER;CN="Ada: boss":mailto:ada@example.org\n'
    "DTSTART;TZID=Europe/Berlin:20240517T100000\nDTEND:20240517T090000Z\n"
    "SUMMARY:Plan\\, short\nDESCRIPTION:Line one\\nLine t\n wo\nBEGIN:VALARM\nDESCRIPTION:Reminder\nEND:VALARM\n"
    "END:VEVENT\nEND:VCALENDAR\n"
)
EVENT_TEXT = (
    "Organizer: Ada: boss <ada@example.org>\nStart: 2024-05-17 10:00 Europe/Berlin\nEnd: 2024-05-17 09:00 UTC\n"
    "Summary: Plan, short\nDescription: Line one\nLine two"
)


def test_calendar_entries_are_text_once() -> None:
    """An invitation has the entry as a form of its text and as an attachment."""
    forms = (
        'Content-Type: multipart/alternative; boundary="C"\n\n'
        f"--C\n{PLAIN}See you.\n--C\nContent-Type: text/calendar\n\n{EVENT}\n--C--"
    )
    attached = f"Content-Type: application/ics; name=invite.ics\nContent-Disposition: attachment\n\n{EVENT}"
    assert body_of(read("a.eml", multipart("mixed", forms, attached)).text) == f"See you.\n\n{EVENT_TEXT}"


def test_contacts() -> None:
    """Cards of versions 2.1 and 3.0, with what people read."""
    card = (
        "BEGIN:VCARD\nVERSION:2.1\nN:B;Ada\nFN;CHARSET=utf-8;ENCODING=QUOTED-PRINTABLE:Ada =\nM=C3=BCller\n"
        "item1.ADR;HOME:;;Street 1;Town;;;\nTEL:+1 2\nPHOTO:AAAA\nEND:VCARD\n"
    )
    mail = multipart("mixed", f"Content-Type: text/x-vcard; name=a.vcf\n\n{card}")
    expected = "Attachment: a.vcf\n\nName: Ada Müller\nAddress: Street 1, Town\nPhone: +1 2"
    assert body_of(read("a.eml", mail).text) == expected


def test_the_richer_form() -> None:
    """The plain form is read if it has the text; what other forms have besides the text is always read."""
    html = HTML + "<p>" + "The whole message. " * 20 + "</p>"
    attached = "Content-Type: text/csv; name=a.csv\n\nx,y\n1,2\n"
    related = f'Content-Type: multipart/related; boundary="C"\n\n--C\n{html}\n--C\n{attached}\n--C--'
    stub = body_of(read("a.eml", multipart("alternative", PLAIN + "This message is in HTML.", html)).text)
    assert stub == ("The whole message. " * 20).strip()
    whole = read("a.eml", multipart("alternative", PLAIN + "The whole message.\n" * 20, related))
    assert body_of(whole.text) == ("The whole message.\n" * 20) + "\nAttachment: a.csv\n\nx: 1; y: 2"
    forwarded = "Content-Type: message/rfc822\n\nSubject: Inner\n\nShort."
    mixed = f'Content-Type: multipart/mixed; boundary="C"\n\n--C\n{html}\n--C\n{forwarded}\n--C--'
    nested = read("a.eml", multipart("alternative", PLAIN + "The whole message.\n" * 20, mixed))
    assert body_of(nested.text) == ("The whole message.\n" * 20) + "\nSubject: Inner\n\nShort."
    links = PLAIN + "Read https://example.org/" + "a" * 500
    assert body_of(read("a.eml", multipart("alternative", links, html)).text) == ("The whole message. " * 20).strip()


def test_saved_pages() -> None:
    """All pages (frames) of an MHT file are read; style sheets, scripts and pictures without a name are not."""
    page = (
        "From: <Saved by Blink>\nMIME-Version: 1.0\nContent-Type: multipart/related; boundary=B; type=text/html\n\n"
        "--B\nContent-Location: http://example.org/\n"
        + HTML
        + "<title>Home</title><p>One<img src=cid:1 alt='A dog'>\n"
        + "--B\nContent-Type: text/css\nContent-Location: http://example.org/s.css\n\np { color: red }\n"
        + "--B\nContent-Type: text/javascript\n\nvar x\n--B\nContent-Type: image/png\n\nx\n"
        + f"--B\n{HTML}<p>Two\n--B--\n"
    )
    document = read("a.mht", page)
    assert document.text == "From: <Saved by Blink>\n\nOne A dog\n\nTwo"
    assert document.title == "Home"
    assert document.warnings == ()


def test_mailbox_files() -> None:
    """Every mail in it is read; a quoted line of a text begins no mail."""
    line = "From a@example.org Mon Jan  1 10:00:00 2024\n"
    mails = [
        f"{line}Subject: {number}\nFrom: a\nMessage-ID: <x>\n\n>From here\n\nFrom there: x\ny\n\n" for number in "123"
    ]
    document = read("a.mbox", "".join(mails))
    assert document.text == "\n\n".join(
        f"Subject: {number}\nFrom: a\n\nFrom here\n\nFrom there: x\ny" for number in "123"
    )
    assert read("a.mbox", "".join(mails).replace("\n\nFrom a", "\nFrom a")).text == document.text
    assert read("a.mbox", line + "\nOnly words.\n").text == "Only words."


def der(tag: int, content: bytes) -> bytes:
    """Return a value in DER."""
    size = len(content).to_bytes(2, "big")
    return bytes([tag, 0x82]) + size + content


def cms(kind: str, content: bytes) -> str:
    """Return a part of S/MIME: signed, or of another kind."""
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    pieces = der(0x24, der(0x04, content[:9]) + der(0x04, content[9:]))
    signed = der(0x30, der(0x02, b"\1") + der(0x31, b"") + der(0x30, data + der(0xA0, pieces)) + der(0x31, b""))
    whole = der(0x30, der(0x06, bytes.fromhex("2a864886f70d0107" + kind)) + b"\xa0\x80" + signed + b"\0\0")
    encoded = base64.encodebytes(whole).decode()
    return f"Content-Type: application/pkcs7-mime; name=smime.p7m\nContent-Transfer-Encoding: base64\n\n{encoded}"


def test_signed_and_encrypted_mails() -> None:
    """What is only signed is read; what is encrypted is a warning, or the failure of a mail with nothing else."""
    inner = b"Content-Type: text/plain; charset=utf-8\n\nSigned words."
    assert body_of(read("a.eml", HEAD + cms("02", inner)).text) == "Signed words."
    signature = "Content-Type: application/pgp-signature; name=s.asc\n\n-----BEGIN PGP SIGNATURE-----\nAAAA"
    signed = read("a.eml", multipart("signed", PLAIN + "Words.", signature))
    assert body_of(signed.text) == "Words.\n\nAttachment: s.asc"
    assert signed.warnings == ()

    armored = "-----BEGIN PGP MESSAGE-----\nhQEMA\n-----END PGP MESSAGE-----"
    version = "Content-Type: application/pgp-encrypted\n\nVersion: 1"
    encrypted = multipart("encrypted", version, f"Content-Type: application/octet-stream\n\n{armored}\n")
    for mail in (HEAD + cms("03", inner), HEAD + "\n" + armored, encrypted):
        with pytest.raises(ObjectError) as caught:
            read("a.eml", mail)
        assert caught.value.code == "encrypted_document"
    partly = read("a.eml", f"{HEAD}\nBefore\n{armored}\nafter")
    assert body_of(partly.text) == "Before\n\nafter"
    assert warnings_of(partly) == [("part_unreadable", "A text in the mail is encrypted.")]


@pytest.mark.parametrize(
    ("mail", "text", "warnings"),
    [
        (HEAD + "Content-Type: text/plain; name*\n\nwords", "words", []),
        (HEAD + "Content-Type: text/plain; charset=none-such\n\nwords é", "words é", []),
        (HEAD + "Content-Type: text/plain; charset*=utf-8''koi8-r\n\nwords", "words", []),
        (HEAD + "X-Long: a\nno header\nContent-Type: multipart/mixed; boundary=X\n\n--X\n" + PLAIN + "words\n--X--",
         "words", []),
        (HEAD + "Content-Type: text/plain; charset=utf-8\n\n" + "caf\xc3\xa9 " * 30 + "\xff", "café " * 30 + "\ufffd",
         ["characters_replaced"]),
        (HEAD + "Content-Transfer-Encoding  : base64\n\nd29yZHM=", "words", []),
        (HEAD + "no blank line before it\n\nwords", "no blank line before it\n\nwords", []),
        (HEAD + "Content-Type: multipart/mixed\n\n--X\n" + PLAIN + "words\n--X\n" + PLAIN + "more\n--X--\n",
         "words\n\nmore", []),
        (HEAD + 'Content-Type: multipart/mixed; boundary="Y"\n\n--X\n' + PLAIN + "words\n--X--\n", "words", []),
        (HEAD + 'Content-Type: multipart/mixed; boundary="X"\n\n--X\n' + PLAIN + "no end", "no end", []),
        (HEAD + 'Content-Type: multipart/mixed; boundary="X"\n\nno parts', "no parts", []),
        (HEAD + "Content-Transfer-Encoding: BASE64 ; x\n\nd29yZHM", "words", []),
        (HEAD + "Content-Transfer-Encoding: base64\n\nd29y!ZHMg\nZg", "words f", ["part_damaged"]),
        (HEAD + "Content-Transfer-Encoding: quoted-printable\n\nw=6Frd=\ns=zz", "words=zz", []),
        (HEAD + "\nhere:\nbegin 644 a.txt\n%=V]R9',\n`\nend\nthere",
         "here:\n\nthere\n\nAttachment: a.txt\n\nwords", []),
        (HEAD + "\nhere:\nbegin 644 a.txt\n%=V]R9',\n", "here:\n\nAttachment: a.txt\n\nwords", ["part_damaged"]),
        (HEAD + "\n=ybegin line=128 size=5 name=a.txt\n\xa1\x99\x9c\x8e\x9d\n=yend size=5\n",
         "Attachment: a.txt\n\nwords", []),
        (HEAD + "Content-Type: text/enriched\n\n<bold>One</bold> << two", "One < two", []),
        (HEAD + "Content-Type: text/richtext\n\nOne<nl>two<lt>", "One\ntwo<", []),
        (HEAD + "Content-Type: text/plain; format=flowed\n\n> one \n> two\nthree \nfour\n\n-- \nname",
         "> one two\nthree four\n\n-- \nname", []),
        (HEAD + "Content-Type: text/plain; format=flowed; delsp=yes\n\nhyphen \nation", "hyphenation", []),
        (multipart("mixed", 'Content-Type: message/external-body; name="big.zip"; access-type=URL; URL="http://x"\n\n'
                            "Content-Type: application/zip\n\n"),
         "Attachment: big.zip (not in the mail)", ["part_unreadable"]),
        (multipart("mixed", "Content-Type: message/partial; id=x; number=1; total=3\n\nSubject: inner\n\nwords"),
         "Subject: inner\n\nwords", ["part_unreadable"]),
        (multipart("mixed", "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
                            + base64.b64encode(b"Subject: inner\n\nwords").decode()), "Subject: inner\n\nwords", []),
        (multipart("mixed", "Content-Type: application/octet-stream; name=a.bin\n\n\0\1\2\3\4\x7f\x80\x01\x02"),
         "Attachment: a.bin (not read: binary_content)", ["part_unreadable"]),
        (multipart("mixed", "Content-Type: application/ms-tnef; name=winmail.dat\n\n\x78\x9f\x3e\x22\1\0\0"),
         "Attachment: winmail.dat (not read: unsupported_type)", ["part_unreadable"]),
        (HEAD + "Content-Type: text/plain; charset*0*=a'b'c; charset*1*=d\n\nwords \xe9", "words é", []),
        (HEAD + 'Content-Type: text/plain; charset="a\0"\n\nwords \xe9', "words é", []),
        (HEAD + "Content-Type: multipart/mixed; boundary*=\"a\0'b'X\"\n\n--X\nContent-Type: text/plain\n\nwords\n--X--",
         "words", []),
        (multipart("mixed", "Content-Type: image/png; name=a.png\nContent-Description: A dog\n\nx"),
         "Attachment: a.png (A dog)", []),
        (multipart("mixed", "Content-Type: application/x; name=a.png\n\n\x89PNG\r\n\x1a\n\0\0"),
         "Attachment: a.png (not read: unsupported_type)", []),
    ],
)  # fmt: skip
def test_odd_and_damaged_mails(mail: str, text: str, warnings: list[str]) -> None:
    """What can be decoded is read, and what cannot is named."""
    document = read("a.eml", mail.encode("latin-1"))
    assert body_of(document.text) == text
    assert [warning.code for warning in document.warnings] == warnings


def test_letters_of_headers() -> None:
    """Undeclared bytes, words cut within a character, folded and malformed ones, several headers of one name."""
    head = (
        b"Subject: =?utf-8?b?w6Q=?= =?UTF-8?Q?b=C3?=\n =?utf-8?q?=A9?= =?iso-8859-1?q?=93c_d=94?= =?utf-8?q?e\n f?=\n"
        b"From: \xd0\x90\xd0\xb4\xd0\xb0 <a@example.org>\nTo: one\nTo: caf\xe9 du soir\n"
        b"Content-Type: text/plain; name*0*=utf-8''%c3%a4; name*1=b.txt\nContent-Disposition: attachment\n\nwords"
    )
    text = "Subject: äbé“c d”e f\nFrom: Ада <a@example.org>\nTo: one\nTo: café du soir\n\nAttachment: äb.txt\n\nwords"
    assert read("a.eml", head).text == text


def test_attachments_keep_their_declared_encoding() -> None:
    """It is a parameter of the part, not in the file."""
    mail = multipart("mixed", "Content-Type: text/plain; charset=koi8-r; name=a.txt\n\n\xf0\xd2\xc9")
    assert body_of(read("a.eml", mail.encode("latin-1")).text) == "Attachment: a.txt\n\nПри"


def test_warnings_of_attachments_are_the_mails() -> None:
    """What is missing in a file inside is missing in the mail."""
    mail = multipart("mixed", "Content-Type: application/rtf; name=a.rtf\n\n{\\rtf1 one}\\par two}")
    assert warnings_of(read("a.eml", mail)) == [("part_damaged", "The Rich Text has braces that do not match.")]


def test_parts_without_end() -> None:
    """Hundreds of parts inside one another are no mail; a mail without headers and text is none either."""
    nested = "".join(f"Content-Type: multipart/mixed; boundary=B{number}\n\n--B{number}\n" for number in range(2_000))
    for mail in (nested, "Content-Type: text/plain\n\n "):
        with pytest.raises(ObjectError) as caught:
            read("a.eml", mail)
        assert caught.value.code == "corrupt_document"
