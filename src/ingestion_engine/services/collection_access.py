"""Which collections the caller of a service may use. Services ask; who the caller is, they do not know."""

from __future__ import annotations

from typing import Final, Protocol

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.state.collections import read_contract


class CollectionAccess(Protocol):
    """What a caller may use. ``access.principal.Principal`` is one."""

    @property
    def is_restricted(self) -> bool:
        """False for a caller that may use every collection."""
        ...

    @property
    def is_limited_to_buckets(self) -> bool:
        """False for a caller that may use the objects of every bucket."""
        ...

    def may_use_collection(self, collection: str, *, alias: str | None = None) -> bool:
        """Return True when a collection or an alias is allowed by its name.

        Args:
            collection: The name.
            alias: The alias through which it is used: a version that the service has named for it belongs to it.
        """
        ...

    def may_use_contents(self, collection: str, bucket: str | None, *, alias: str | None = None) -> bool:
        """Return True when a collection is allowed by its name and by the bucket of its objects.

        Args:
            collection: The name.
            bucket: The bucket; None means that it is not known, as for collections of older versions.
            alias: As for ``may_use_collection``.
        """
        ...


class _Everything:
    is_restricted = False
    is_limited_to_buckets = False

    def may_use_collection(self, collection: str, *, alias: str | None = None) -> bool:
        return True

    def may_use_contents(self, collection: str, bucket: str | None, *, alias: str | None = None) -> bool:
        return True


EVERYTHING_ALLOWED: Final[CollectionAccess] = _Everything()
"""For what the service does by itself."""


def may_use_stored(state: StateStore, access: CollectionAccess, collection: str, *, alias: str | None = None) -> bool:
    """Return whether a caller may use a collection, as its contract says. One read, for one limited to buckets.

    Raises:
        FatalError: "state_corrupt".
    """
    if not access.may_use_collection(collection, alias=alias):
        return False
    if not access.is_limited_to_buckets:
        return True
    contract = read_contract(state, collection)
    return access.may_use_contents(collection, None if contract is None else contract.bucket, alias=alias)


def not_allowed(what: str, field: str) -> SubmissionError:
    """Return the error of a caller that may not use something (403). Pure.

    The message says nothing about what it is that the caller may not use.
    """
    hint = "Use an API key whose `buckets` and `collections` allow it."
    return SubmissionError("not_allowed", f"The caller may not use {what}.", hint=hint, status=403, field=field)
