"""Lists that the service returns in pages; a list that is cut is followed by a line that reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer
from rich.text import Text

from ingestion_engine.cli.output import err
from ingestion_engine.client import Page

T = TypeVar("T")

All = Annotated[bool, typer.Option("--all", "-a", help="List all, without a limit.")]


def collect_pages(
    read_page: Callable[[int, str | None], Page[T]], *, limit: int | None, page_size: int, what: str
) -> list[T]:
    """Return the first ``limit`` items of a list, or all when there are fewer; print a line when more are left.

    Args:
        read_page: Returns a page, given its size and the cursor of the page before it (None for the first page).
        limit: Maximum number of items; None means all.
        page_size: Largest page that the service returns.
        what: What the items are called, in the plural.
    """
    found: list[T] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        page = read_page(page_size if limit is None else min(page_size, limit - len(found)), cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found
    err.print(Text(f"There are more than these {limit} {what}: --all lists all, --limit sets another number."))
    return found
