"""E-mails: what counts as one, and every part of it that is text."""

from __future__ import annotations

import pytest

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
        ("a.eml", "From a@example.org\n" + HEAD + "\nwords"),
        ("a.mbox", "From a@example.org Mon Jan  1 10:00:00 2024\n" + HEAD + "\nwords"),
        ("noname", "From a@example.org Mon Jan  1 10:00:00 2024\nMessage-ID: <x>\n" + HEAD + "\nwords"),
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
