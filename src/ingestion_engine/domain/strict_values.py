"""Types of fields of bodies: JSON booleans and numbers as they are, never texts that look like them.

A client that sends ``"false"`` or ``"1"`` has a defect that may turn a value into its opposite elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def _require_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def _require_number(value: Any) -> Any:
    if not isinstance(value, str | bytes | bool):
        return value
    raise ValueError("must be a number, not a text or a boolean")


Flag = Annotated[bool, BeforeValidator(_require_boolean)]
"""``true`` or ``false``."""

Whole = Annotated[int, BeforeValidator(_require_number)]
"""An integer; ``4.0`` is one in JSON, too."""

Number = Annotated[float, BeforeValidator(_require_number)]
"""A number."""
