"""Lists that the service returns in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def collect_pages(
    read_page: Callable[[int, str | None], dict[str, Any]], *, limit: int, page_size: int
) -> list[dict[str, Any]]:
    """Return the first ``limit`` items of a list, or all when there are fewer.

    Args:
        read_page: Returns a page, given its size and the cursor of the page before it (None for the first page).
        limit: Maximum number of items.
        page_size: Largest page that the service returns.
    """
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < limit:
        page = read_page(min(page_size, limit - len(found)), cursor)
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return found
