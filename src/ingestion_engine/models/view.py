"""What all bodies of responses have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """A response body."""

    model_config = ConfigDict(use_attribute_docstrings=True)
