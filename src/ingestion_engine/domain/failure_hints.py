"""What an operator can do about an object that failed, by the code of its failure; docs/api.md has the same table."""

from __future__ import annotations

from typing import Final

FAILURE_HINTS: Final = {
    "empty_document": "Remove the object, or exclude it: it has nothing to search.",
    "no_text": "Turn on OCR (INGEST_WORKER__OCR_LANGUAGES) if its pages are scanned; otherwise exclude it.",
    "binary_content": "Exclude it; it is no document.",
    "unsupported_type": "Convert it to a supported format, or exclude it.",
    "type_mismatch": "Give it the extension of what it is, or repair the upload.",
    "encoding_unknown": "Convert it to UTF-8, or declare charset= in its Content-Type.",
    "encrypted_document": "Upload it without a password.",
    "corrupt_document": "Upload it again; it is damaged where its text is.",
    "object_too_large": "Split it, or raise INGEST_WORKER__OBJECT_MAX_BYTES.",
    "decompressed_too_large": "Split it, or raise INGEST_WORKER__DECOMPRESSED_MAX_BYTES.",
    "ocr_unavailable": "Install tesseract and the language on the workers, then retry.",
    "parse_timeout": "Raise INGEST_WORKER__PARSE_TIMEOUT_S, or split the object, then retry.",
    "parse_failed": "Open it with the program that made it and save it again; report it if it is sound.",
    "parser_died": "Give the workers more memory, then retry.",
    "object_unreadable": "Allow the account to read it, or restore it from the archive, then retry.",
    "embedding_failed": "Read the log of Ollama about this text, then retry.",
    "embedding_refused": "Use a smaller max_chars, or a model with a longer context.",
    "embedding_nan": "Use another model, or another quantization of this one.",
    "store_refused": "Read the reason: the store does not accept a point of this object.",
    "kills_worker": "Give the workers more memory, then retry it alone.",
    "unexpected_error": "Report it with the log of the job, then retry.",
    "interrupted": "Run the job again; it ingests the object.",
    "points_foreign": "Run a repair; it removes the points.",
    "differences_found": "Run a repair of the collection.",
}
"""By code; a code that is not listed has no hint."""
