"""The form of an API key: ``ingest_<id>_<secret><checksum>``.

The prefix lets scanners find keys that have leaked, the id names the key in lists and logs, and the checksum tells a
mistyped key, or a text that only looks like one, without any look-up. Only the hash of a key is stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from enum import Enum
from typing import Final

PREFIX: Final = "ingest_"

ID_LENGTH: Final = 10

SECRET_LENGTH: Final = 32
"""190 bits: 32 characters of 62."""

CHECKSUM_LENGTH: Final = 6
"""Characters of 62 that hold the 32 bits of a CRC."""

_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits

ID_PATTERN: Final = rf"[a-z0-9]{{{ID_LENGTH}}}"

KEY_PATTERN: Final = re.compile(
    rf"{PREFIX}({ID_PATTERN})_([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)
"""A key in any text, for scanners."""

_ALMOST: Final = re.compile(rf"{PREFIX}({ID_PATTERN})_[0-9A-Za-z]*")


class Malformed(Enum):
    """Why a text is no key."""

    OTHER = "other"
    """It does not look like one: a key of the operator's own making, or no key at all."""
    DAMAGED = "damaged"
    """It looks like one, but characters are missing or wrong."""


def make_key_id() -> str:
    """Return a new random id, which is no secret."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_LENGTH))


def make_key(key_id: str) -> str:
    """Return a new random key with an id."""
    body = PREFIX + key_id + "_" + "".join(secrets.choice(_BASE62) for _ in range(SECRET_LENGTH))
    return body + make_checksum(body)


def make_checksum(body: str) -> str:
    """Return the CRC-32 of the ASCII characters before it, in base 62 with leading zeros. Pure."""
    number, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits


def read_key_id(text: str) -> str | Malformed:
    """Return the id of a key, or why it is none. Pure: no key is looked up."""
    found = KEY_PATTERN.fullmatch(text)
    if found is not None:
        is_whole = make_checksum(text[:-CHECKSUM_LENGTH]) == found[3]
        return found[1] if is_whole else Malformed.DAMAGED
    return Malformed.DAMAGED if _ALMOST.fullmatch(text) else Malformed.OTHER


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key in hex digits: what is stored. Pure.

    Keys are random, so that a slow hash would protect nothing: nobody guesses 190 bits.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def redact_keys(text: str) -> str:
    """Return a text with all but the ids of the keys in it left out. Pure."""
    return KEY_PATTERN.sub(rf"{PREFIX}\1_...", text)
