"""Scopes: the kinds of requests that a caller may make. Independent of each other; none implies another."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A kind of requests."""

    SEARCH = "search"
    """Search collections."""
    READ = "read"
    """Read jobs, collections, objects and aliases."""
    SUBMIT = "submit"
    """Submit, cancel and retry jobs, and roll aliases back."""
    DELETE = "delete"
    """Delete collections, objects, aliases and former versions."""
    ADMIN = "admin"
    """Operate the whole service: drain it, and read the audit log."""


EVERY_SCOPE: Final = frozenset(Scope)

EVERYTHING: Final = ("*",)
"""Globs of a caller that may use every bucket, or every collection."""


def default_scopes(buckets: tuple[str, ...], collections: tuple[str, ...]) -> frozenset[Scope]:
    """Return the scopes of a key that names none, as key files of former releases do. Pure.

    Such a key may do everything, but only an unrestricted one operates the service.
    """
    return EVERY_SCOPE - {Scope.ADMIN} if is_restricting(buckets, collections) else EVERY_SCOPE


def is_restricting(buckets: tuple[str, ...], collections: tuple[str, ...]) -> bool:
    """Return whether globs exclude some buckets or collections. Pure."""
    return "*" not in buckets or "*" not in collections


def check_grants(scopes: frozenset[Scope], buckets: tuple[str, ...], collections: tuple[str, ...]) -> None:
    """Return when scopes and globs fit each other. Pure. Raises ValueError: who operates the service sees all of it."""
    if Scope.ADMIN in scopes and is_restricting(buckets, collections):
        raise ValueError("the scope 'admin' concerns the whole service, so it cannot be limited by globs")
