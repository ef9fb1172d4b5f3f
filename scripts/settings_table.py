"""Writes the table of settings in docs/operations.md from the settings' own docstrings: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ingestion_engine.runtime.settings import PREFIX, Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
BEGIN, END = "<!-- settings: written by `make docs` -->", "<!-- end of settings -->"


def render_rows() -> Iterator[str]:
    """Yield one Markdown row per setting, in the order of the settings. Pure."""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    defaults = Settings.model_construct()
    for name, info in Settings.model_fields.items():
        value = getattr(defaults, name)
        if isinstance(value, BaseModel):
            for field, inner in type(value).model_fields.items():
                yield _row(f"{name}__{field}", getattr(value, field), inner)
        else:
            yield _row(name, value, info)


def _row(name: str, value: object, info: FieldInfo) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    meaning = " ".join((info.description or "").split()).replace("``", "`").replace("|", "\\|")
    return f"| `{PREFIX}{name.upper()}` | {f'`{shown}`' if shown else ''} | {meaning} |"


def render_page(text: str) -> str:
    """Return the page with the table between its two marks replaced. Pure."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *render_rows(), END]) + after


def main() -> int:
    """Rewrite the page."""
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
