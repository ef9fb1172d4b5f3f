"""Small documents, each of a kind that readers of comparable systems lose text of, and what is right about them."""

from __future__ import annotations

from support.reading_cases.mails import MAILS, RTF
from support.reading_cases.packages import EPUB, EXCEL, WORD
from support.reading_cases.pdfs import PDF
from support.reading_cases.texts import ENCODINGS, JSON, MARKS, PATTERNS, TABLES

CASES = (*PATTERNS, *JSON, *MARKS, *ENCODINGS, *TABLES, *MAILS, *RTF, *WORD, *EXCEL, *EPUB, *PDF)
