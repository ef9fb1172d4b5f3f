"""When two copies of a vector are the same. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VECTOR_TOLERANCE = 1e-5
"""Largest difference in one component between two copies of a vector: Qdrant normalises cosine vectors to length 1 in
its own arithmetic."""


def are_close(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> bool:
    """True when two vectors are copies of the same vector. Pure."""
    return left is right or (left.shape == right.shape and bool(abs(left - right).max(initial=0) <= VECTOR_TOLERANCE))
