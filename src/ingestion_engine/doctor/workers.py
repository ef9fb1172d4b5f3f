"""What reads documents on a worker: parser processes, and the program that recognises scanned pages."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Final

from ingestion_engine.doctor.context import Context, in_thread
from ingestion_engine.doctor.findings import Finding, fail, not_configured, ok
from ingestion_engine.pipeline.parsing.formats.pdf.ocr import PROGRAM
from ingestion_engine.pipeline.parsing.process.pool import run_parse
from ingestion_engine.runtime.settings import plain_environment

LIST_TIMEOUT_S: Final = 20.0
"""Time that Tesseract may take to list its languages."""


async def check_parsers(context: Context) -> list[Finding]:
    """Start a parser process, and call a function in it."""
    began = time.perf_counter()
    await run_parse(len, b"", timeout_s=context.time_limit_s)
    started_s = time.perf_counter() - began
    return [ok(f"a parser process starts in {started_s:.1f} s", started_s=round(started_s, 3))]


async def check_ocr(context: Context) -> list[Finding]:
    """Ask Tesseract for its version and its languages, when text recognition is on."""
    ocr = context.settings.ocr
    if not ocr.enabled:
        return [not_configured("Scanned pages are not recognised.", "Set INGEST_OCR__ENABLED=true to have them read.")]
    program = shutil.which(PROGRAM)
    wanted = ocr.languages.split("+")
    packages = " ".join(["tesseract-ocr", *(f"tesseract-ocr-{name}" for name in wanted)])
    hint = f"Install it with its languages in the image (Debian: {packages}), or unset INGEST_OCR__ENABLED."
    if program is None:
        return [fail(f"The program {PROGRAM!r} is not installed.", hint, code="ocr_unavailable")]

    def run(option: str) -> str:
        done = subprocess.run(  # noqa: S603 - a program on the worker's path
            [program, option],
            capture_output=True,
            check=False,
            timeout=LIST_TIMEOUT_S,
            env=plain_environment(),
            text=True,
        )
        return done.stdout + done.stderr

    try:
        version, listed = await in_thread(lambda: (run("--version"), run("--list-langs")))
    except (OSError, subprocess.SubprocessError) as error:
        return [fail(f"{PROGRAM} does not run: {error}", hint, code="ocr_unavailable")]
    languages = set(listed.split())
    missing = [name for name in wanted if name not in languages]
    if missing:
        return [fail(f"{PROGRAM} lacks the languages {', '.join(missing)}.", hint, code="ocr_unavailable")]
    first = version.splitlines()[0] if version else PROGRAM
    return [ok(f"{first}, languages {ocr.languages}", version=first)]
