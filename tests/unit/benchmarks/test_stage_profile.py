"""The stages of the CPU profile follow the layout of the package."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from stage_profile import STAGES

_ROOT = Path(__file__).parents[3]
_SOURCES = [str(path.relative_to(_ROOT)) for path in sorted((_ROOT / "src" / "ingestion_engine").rglob("*.py"))]


@pytest.mark.parametrize(("pattern", "stage"), STAGES)
def test_every_stage_is_the_first_match_of_some_source_file(pattern: str, stage: str) -> None:
    """No pattern points to a file that has moved, and none is hidden by one before it."""
    first = [next((name for regex, name in STAGES if re.search(regex, path)), None) for path in _SOURCES]
    assert any(re.search(pattern, path) and name == stage for path, name in zip(_SOURCES, first, strict=True))
