"""Bodies about aliases."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from ingestion_engine.domain.spec import COLLECTION_MAX, COLLECTION_PATTERN, StoreName, Strict
from ingestion_engine.models.view import View


class RollbackOrder(Strict):
    """Where an alias is to move back to."""

    to: Annotated[str, StringConstraints(pattern=COLLECTION_PATTERN, max_length=COLLECTION_MAX)] | None = Field(
        default=None, examples=["docs_01hzx3v4m5n6p7q8r9s0t1v2w3"]
    )
    """A former version, or the current one, which changes nothing; null means the newest former version, so that the
    same request again reverts the rollback."""


class AliasInStore(View):
    """State of an alias in a store."""

    collection: str | None
    """Collection of the alias in the store, as the store spells it; null when the store has no such alias."""
    agrees: bool | None
    """True when that is the right collection; null when the store is unavailable. Disagreement is repaired within
    seconds."""
    error: str | None


class AliasView(View):
    """An alias."""

    name: str = Field(examples=["docs"])
    collection: str = Field(examples=["docs_01hzx3v4m5n6p7q8r9s0t1v2w3"])
    """Collection that the alias stands for; searches use it."""
    previous: list[str]
    """Former versions, newest first."""
    dropping: list[str]
    """Former versions that are being dropped."""
    settled: bool
    """False while a store still has to be updated."""
    job_id: str
    """Job that moved the alias last; a rollback does not change it."""
    moved_at: str
    stores: dict[StoreName, AliasInStore]


class AliasList(View):
    """Page of the aliases, ordered by name."""

    items: list[AliasView]
    next_cursor: str | None = None
    """Pass as ``cursor`` to get the next page; null at the end."""


class PrunedAlias(AliasView):
    """An alias after former versions were dropped."""

    dropped: list[str]
    """Names of the versions that this request dropped."""
