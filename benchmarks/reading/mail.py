"""Compare the text of mails with all parts of text that the standard library finds in them.

python benchmarks/reading/mail.py FOLDER ... [--before SRC] [--all]

The second reader decodes every part of type ``text`` by its declaration, and takes HTML apart with ``html.parser``. Of
several forms of one text it takes the plain one if it has nine tenths of the words of the richest. It knows no files
inside the text, no attachments of other types and no headers: what the engine reads of them is doubled or added.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reading.whole_texts import compare_files

_BENCHMARKS = str(Path(__file__).parents[1])

SWEEP = f"""
import email, mailbox, re, sys
from html.parser import HTMLParser
sys.path.append({_BENCHMARKS!r})
from reading.readings import serve
from reading.compare import split_words

class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.out, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("style", "script", "title")
        if tag not in ("a", "b", "i", "u", "em", "span", "font", "strong", "sub", "sup"):
            self.out.append(" ")
        self.out.append(dict(attrs).get("alt") or "" if tag == "img" else "")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script", "title") and self.hidden > 0
        self.out.append(" " if tag in ("p", "div", "td", "li", "tr") else "")

    def handle_data(self, data):
        self.out.append("" if self.hidden else data)

def text_of(part):
    content = part.get_payload(decode=True) or b""
    for codec in (part.get_content_charset() or "utf-8", "utf-8", "cp1252"):
        try:
            text = content.decode(codec)
            break
        except (UnicodeError, LookupError):
            text = content.decode("cp1252", "replace")
    if "\\0" in text or "=ybegin" in text or "\\nbegin 6" in text:
        return ""  # no text
    text = re.sub(r"https?://[^\\s>)\\]]+", " ", text)
    if part.get_content_type() != "text/html":
        return re.sub("<[^>]*>", " ", text) if "rich" in part.get_content_type() else text
    page = Page()
    page.feed(text)
    return " ".join("".join(page.out).split())

def sweep(part):
    if part.get("content-transfer-encoding", "").lower() == "base64" and part.is_multipart():
        return ""  # a mail in base64, which the standard library does not decode
    if part.is_multipart():
        texts = [sweep(child) for child in part.get_payload()]
        if part.get_content_type() != "multipart/alternative" or not texts:
            return " ".join(texts)
        richest = max(texts, key=lambda text: len(split_words(text)))
        first = next(filter(str.strip, texts), "")
        return first if len(split_words(first)) >= 0.9 * len(split_words(richest)) else richest
    kind = part.get_content_type()
    skipped = ("text/css", "text/javascript", "text/calendar", "text/vcard", "text/x-vcard", "text/rtf")
    return text_of(part) if kind.startswith("text/") and kind not in skipped else ""

def read(path):
    body = open(path, "rb").read().lstrip().removeprefix(b"\\xef\\xbb\\xbf")
    if body.startswith(b"From ") and path.endswith(".mbox"):
        box = mailbox.mbox(path)
        mails = (box.get_bytes(key).replace(b"\\n>From ", b"\\nFrom ") for key in box.keys())
        return {{"text": " ".join(sweep(email.message_from_bytes(mail)) for mail in mails)}}
    if body.startswith((b"\\xff\\xfe", b"\\xfe\\xff")) or b"\\0" in body[:10]:
        body = body.decode("utf-16" if body[0] > 0xf0 else "utf-16-le" if body[1] == 0 else "utf-16-be").encode()
    mail = email.message_from_bytes(body)
    if any("MissingHeaderBody" in type(defect).__name__ for defect in mail.defects):
        return {{"text": ""}}  # the library reads the rest of the headers, and all parts, as text
    return {{"text": sweep(mail)}}

serve(read)
"""
"""Written apart from the engine's reader, as plainly as possible."""

if __name__ == "__main__":
    compare_files(__doc__, (".eml", ".mht", ".mhtml", ".mbox"), SWEEP)
