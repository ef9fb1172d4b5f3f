"""Kreuzberg, configured to omit nothing and to run no text recognition (OCR)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.unpack import corrupt

if TYPE_CHECKING:
    from kreuzberg import ExtractionResult


def extract(body: bytes, media_type: str, *, what: str) -> ExtractionResult:
    """Return what Kreuzberg reads. Raises ObjectError: corrupt_document, encrypted_document, parse_failed."""
    from kreuzberg import ContentFilterConfig, ExtractionConfig, PageConfig, extract_bytes_sync

    config = ExtractionConfig(
        use_cache=False,
        enable_quality_processing=False,
        output_format="plain",
        pages=PageConfig(extract_pages=True),
        content_filter=ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False, include_watermarks=True
        ),
    )
    config.disable_ocr = True  # type: ignore[attr-defined]  # missing in the stub of 4.10
    with _kreuzberg_errors(what):
        return extract_bytes_sync(body, media_type, config)


@contextmanager
def _kreuzberg_errors(what: str) -> Iterator[None]:
    """Raise kreuzberg's errors as the product's. Only the text shows encryption (4.10: "PDF is password-protected")."""
    from kreuzberg import KreuzbergError, ParsingError

    try:
        yield
    except ParsingError as error:
        message = str(error)
        if "password" in message or "encrypted" in message.lower():
            raise ObjectError("encrypted_document", f"The {what} is encrypted with a password.", kind=what) from error
        raise corrupt(what, message[:200]) from error
    except KreuzbergError as error:
        raise ObjectError("parse_failed", f"The {what} cannot be parsed: {str(error)[:200]}", kind=what) from error
