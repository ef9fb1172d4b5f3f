"""Text recognition (OCR) of scanned pages, by the program ``tesseract``.

A program of its own and not a library: what hangs or crashes in it ends with the parser process that waits for it, and
nothing has to be installed where nobody scans.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pypdfium2.raw as pdfium

from ingestion_engine.domain.errors import OcrUnavailable
from ingestion_engine.pipeline.parsing.formats.pdf.library import Handle
from ingestion_engine.runtime.settings import plain_environment

PROGRAM: Final = "tesseract"

_DOTS_PER_POINT: Final = 300 / 72
"""Resolution that Tesseract is made for: 300 dots per inch."""

_MOST_PIXELS: Final = 40_000_000
"""Pixels of a picture, one byte each: a page of A2 at 300 dots per inch. Larger pages are rendered coarser."""

_PR_SET_PDEATHSIG: Final = 1
"""``prctl``: the signal that a process receives when its parent dies (linux/prctl.h)."""


@dataclass(slots=True)
class Ocr:
    """How the pages of one file are recognised."""

    languages: str
    """Tesseract's codes, joined by ``+``: ``eng+deu``."""
    pages_left: int
    """Pages that may still be recognised."""

    def recognize(self, page: Handle) -> str | None:
        """Return the text that Tesseract sees on a page as it is shown; None where no more pages may be recognised.

        Raises as ``_recognize``.
        """
        if not self.pages_left:
            return None
        self.pages_left -= 1
        return _recognize(page, self.languages)


def _recognize(page: Handle, languages: str) -> str:
    """Return the text that Tesseract sees on a page; empty for a page without any.

    Raises:
        ObjectError: ``ocr_unavailable`` when the program or a language is not installed, or it fails.

    Cost: 3 s of one core for a dense page of A4, and 85 MiB in a process of its own (measured with Tesseract 5.3).
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise _unavailable("it is not installed")
    command = [program, "stdin", "stdout", "-l", languages, "--dpi", "300"]
    done = subprocess.run(  # noqa: S603 - a program on the worker's path; languages are checked by the settings
        command,
        input=_render(page),
        capture_output=True,
        check=False,
        env={**plain_environment(), "OMP_THREAD_LIMIT": "1"},  # a partition has one core
        preexec_fn=_end_with_parent(),  # safe: the parser process has one thread
    )
    if done.returncode:
        raise _unavailable(done.stderr.decode("utf-8", "replace").strip()[:200] or f"exit status {done.returncode}")
    return done.stdout.decode("utf-8", "replace").replace("\f", "\n").strip()


def _unavailable(reason: str) -> OcrUnavailable:
    return OcrUnavailable(
        "ocr_unavailable",
        f"The scanned pages cannot be recognised: {PROGRAM}: {reason}.",
        hint="Install Tesseract with the languages of INGEST_OCR__LANGUAGES on every worker, or unset "
        "INGEST_OCR__ENABLED.",
    )


def _end_with_parent() -> Callable[[], None] | None:
    """Return what makes a child end with this process, however that ends; None where the system has no such thing.

    Elsewhere Tesseract ends when it has read its page, since nobody reads its output.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _render(page: Handle) -> bytes:
    """Return a picture of the page in shades of grey, as PGM (http://netpbm.sourceforge.net/doc/pgm.html)."""
    width, height = pdfium.FPDF_GetPageWidthF(page), pdfium.FPDF_GetPageHeightF(page)
    scale = min(_DOTS_PER_POINT, math.sqrt(_MOST_PIXELS / max(1.0, width * height)))
    columns, rows = max(1, int(width * scale)), max(1, int(height * scale))
    bitmap = pdfium.FPDFBitmap_CreateEx(columns, rows, pdfium.FPDFBitmap_Gray, None, 0)
    if not bitmap:
        raise MemoryError
    try:
        pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, columns, rows, 0xFFFFFFFF)
        flags = pdfium.FPDF_ANNOT | pdfium.FPDF_GRAYSCALE
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, columns, rows, 0, flags)
        stride = pdfium.FPDFBitmap_GetStride(bitmap)
        pixels = ctypes.string_at(pdfium.FPDFBitmap_GetBuffer(bitmap), stride * rows)
    finally:
        pdfium.FPDFBitmap_Destroy(bitmap)
    lines = pixels if stride == columns else b"".join(pixels[at : at + columns] for at in range(0, len(pixels), stride))
    return f"P5 {columns} {rows} 255\n".encode() + lines
