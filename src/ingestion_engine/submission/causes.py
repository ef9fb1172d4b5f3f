"""Finds the cause in an error text of an engine: stack traces of Java and Python, and logs around them."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 400
"""Maximum length of a cause in characters: a note is a line. Kubernetes's messages about refused pods are shorter."""

_THROWN: Final = re.compile(r'Exception in thread "[^"]*" ')
_CAUSED: Final = re.compile(r"Caused by: ")
_FRAME: Final = re.compile(r"\s*(at \S|\.\.\. \d+ more|File \"|Traceback \(most recent)")
_ERROR: Final = re.compile(r"error: ", re.IGNORECASE)
_LOG_LINE: Final = re.compile(r'(\{"time": ")?\d\d(\d\d)?[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d')
_OPERATOR: Final = re.compile(r"^failed to submit spark application: |^(failed to run spark-submit: )+")
"""What the Spark operator 2.5.2 puts before the text of spark-submit, with repetitions."""


def find_cause(text: str) -> str:
    """Return the cause in an error text, as one line of at most 400 characters; empty when there is none. Pure.

    - With a stack trace of Java: the exception that ended the thread, and the last "Caused by" where it says more.
    - Otherwise the last line that begins with "Error:".
    - Otherwise the last line that is neither a frame of a stack trace nor a log line; if there is none, the last line.
    """
    lines = _OPERATOR.sub("", _OPERATOR.sub("", text.strip())).splitlines()
    thrown = _read_exceptions(lines, _THROWN)
    if thrown:
        caused = _read_exceptions(lines, _CAUSED)
        cause = thrown[0]
        if caused and caused[-1] not in cause:
            cause = f"{cause} Caused by {caused[-1]}"
    else:
        said = [line.strip() for line in lines if line.strip() and not _FRAME.match(line)]
        errors = [line for line in said if _ERROR.match(line)]
        plain = [line for line in said if not _LOG_LINE.match(line)]
        cause = (errors or plain or said or [""])[-1]
    return shorten(" ".join(map(_drop_login, cause.split())))


def _read_exceptions(lines: list[str], opening: re.Pattern[str]) -> list[str]:
    """Return the text of every exception that a marker opens; it may have several lines before its frames. Pure."""
    found = []
    for number, line in enumerate(lines):
        start = opening.search(line)
        if start is None:
            continue
        parts = [line[start.end() :]]
        for following in lines[number + 1 :]:
            if _FRAME.match(following) or _LOG_LINE.match(following) or _CAUSED.match(following):
                break
            parts.append(following)
        found.append(_unwrap(" ".join(part.strip() for part in parts if part.strip())))
    return found


def _unwrap(text: str) -> str:
    """Return the message of an API server without what Spark's Kubernetes client puts around it. Pure.

    ``KIND: Failure executing: POST at: URL. Message: TEXT. Received status: Status(…)``, which repeats TEXT.
    """
    kind, failed, request = text.partition("Failure executing: ")
    _, found, message = request.partition(" Message: ")
    return f"{kind}{message.partition(' Received status: ')[0].rstrip('.')}" if failed and found else text


def _drop_login(word: str) -> str:
    """Return a word without user and password, if it is a URL that has them: that of a package index may. Pure."""
    scheme, found, rest = word.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}" if found else word


def shorten(text: str) -> str:
    """Return a text of at most 400 characters. Pure."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
