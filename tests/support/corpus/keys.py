"""Keys that S3 allows and that programs get wrong."""

from __future__ import annotations

import unicodedata

_COMPOSED = unicodedata.normalize("NFC", "awkward/Größenübersicht.txt")

AWKWARD_KEYS = (
    "awkward/with space.txt",
    "awkward/two  spaces.txt",
    "awkward/ leading space.txt",
    "awkward/trailing space.txt ",
    "awkward/trailing space.txt",
    "awkward/trailing tab.txt\t",
    "awkward/percent 100%.txt",
    "awkward/percent%20encoded.txt",
    "awkward/percent encoded.txt",
    "awkward/plus+sign.txt",
    "awkward/plus sign.txt",
    "awkward/ünïcödé-日本語-😀.txt",
    _COMPOSED,
    unicodedata.normalize("NFD", _COMPOSED),
    "awkward/Case.txt",
    "awkward/case.txt",
    "awkward/CASE.txt",
    "awkward/.hidden",
    "awkward/..two-dots",
    "awkward/...",
    "awkward/.dir/file.txt",
    "awkward//double-slash.txt",
    "awkward/a//b///c.txt",
    "awkward/./dot-segment.txt",
    "awkward/up/../up-segment.txt",
    "./starts-with-dot-segment.txt",
    "/starts-with-slash.txt",
    "awkward/slash-at-end-with-content/",
    "awkward/object-and-prefix",
    "awkward/object-and-prefix/child.txt",
    "awkward/object-and-prefix child.txt",
    "awkward/question?mark=1&and#hash.txt",
    "awkward/quotes'\"`<>.txt",
    "awkward/back\\slash.txt",
    "awkward/[brackets]{braces}^~|.txt",
    "awkward/semicolon;colon:comma,equals=at@dollar$.txt",
    "awkward/new\nline.txt",
    "awkward/*star?.txt",
    "awkward/" + "long" * 60 + ".txt",
    "no-suffix",
    "awkward/zero-width\u200bspace.txt",
    "awkward/right-to-left-\u202etxt.txt",
)
"""Each is a key that S3 itself takes; see ``seaweedfs_stores`` for what the embedded server does to some of them."""


def seaweedfs_stores(key: str, size_bytes: int) -> bool:
    """Return whether SeaweedFS 4.48 stores and lists an object under exactly this key.

    Seen with botocore: a segment ``.`` or ``..`` is refused (400 InvalidRequest). Slashes in a row become one, a
    leading one goes, and a backslash becomes a slash: so the key is listed, while a GET by the original key works,
    being rewritten too. A key that ends with a slash is a directory and loses its content.
    """
    if "//" in key or "\\" in key or key.startswith("/"):
        return False
    if key.endswith("/") and size_bytes:
        return False
    return not {".", ".."} & set(key.split("/"))
