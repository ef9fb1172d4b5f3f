"""Aliases as clients see them: show, roll back, drop former versions, remove; and the sweep that keeps stores in line.

The state store is authoritative (``state.aliases``); the vector stores follow it. The sweep completes changes that a
crash or an outage interrupted, and reverts changes that were made in a store directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ingestion_engine.domain.errors import CollectionMissing, IngestionError, StateConflict, SubmissionError
from ingestion_engine.domain.ids import hash_json
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import format_milliseconds, utc_now
from ingestion_engine.services.audit.change import begin_change, note_change
from ingestion_engine.services.collection_access import CollectionAccess, may_use_stored, not_allowed
from ingestion_engine.services.job_ids import alias_of_version
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.state_access import require_state, skip_corrupt, state_needed
from ingestion_engine.state.aliases import (
    Alias,
    Rollback,
    find_alias,
    put_first,
    read_alias,
    settle_alias,
    update_alias,
    write_alias,
)
from ingestion_engine.state.collections import delete_collection_state, iter_aliases, read_contract

CONFLICTS_MAX: Final = 10
"""Times that a rollback decides again because another writer was faster; more in a row are reported as a change that is
in progress."""

TIME_LIMIT_S: Final = 5.0
"""Time limit of one store's list of aliases; a late one is shown as unknown."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreView:
    """What one store has under the name of an alias."""

    collection: str | None
    """As the store spells it; None when the store has no such alias."""
    agrees: bool | None
    """True when it matches the state store; None when the store could not be queried."""
    error: str | None


@dataclass(frozen=True, slots=True)
class AliasDetail:
    """An alias, and what each store has under its name."""

    alias: Alias
    stores: dict[StoreName, StoreView]


@dataclass(frozen=True, slots=True)
class RolledBack:
    """An alias after a rollback."""

    detail: AliasDetail
    replayed: bool
    """True when an earlier request with the same idempotency key has moved it."""


class AliasService:
    """Aliases. Shared by all requests of one event loop.

    Args:
        state: The state store, which is authoritative; None when none is configured.
        stores: Configured vector stores.
        jobs: The jobs table, to find unfinished jobs that use a collection or an alias.

    Methods raise SubmissionError "alias_not_found" (404), "alias_moving" (409) while a change of the alias is in
    progress, "state_unavailable" and "state_not_configured" (503).
    """

    def __init__(self, state: StateStore | None, stores: Mapping[StoreName, VectorStore], jobs: JobStore) -> None:
        self._state = state
        self._stores = stores
        self._jobs = jobs

    async def list_names(self, access: CollectionAccess) -> list[str]:
        """Return the names of all aliases that the caller may use, sorted.

        Cost: one listing; for a restricted caller a read per alias, and another one when it is limited to buckets.
        """
        if self._state is None:
            return []
        with state_needed():
            names = await asyncio.to_thread(lambda state: sorted(iter_aliases(state)), self._state)
            allowed = [name for name in names if access.may_use_collection(name)]
            if not access.is_restricted:
                return allowed
            found = [await self._find_readable(self._state, name, access) for name in allowed]
        return [alias.name for alias in found if alias is not None]

    async def list_page(
        self, access: CollectionAccess, *, after: str, limit: int | None
    ) -> tuple[list[AliasDetail], str | None]:
        """Return a page of the aliases that the caller may use, by name, and the name to continue after.

        A page can be short before the last one. Cost: one read per alias of the page, one list per store; for a
        restricted caller that of ``list_names``, and one more read per version.

        Args:
            access: What the caller may use.
            after: Only names after this one.
            limit: Maximum number of aliases; None means no maximum.
        """
        if self._state is None:
            return [], None
        names = [name for name in await self.list_names(access) if name > after]
        shown = names[:limit]
        with state_needed():
            found = [await self._find_readable(self._state, name, access) for name in shown]
            details = await self._show([alias for alias in found if alias is not None], access)
        return details, shown[-1] if len(shown) < len(names) else None

    async def find_of(self, collection: str, access: CollectionAccess) -> Alias | None:
        """Return the alias for which the service named a collection, while the collection is a version of it.

        None for other collections, and for an alias that the caller may not use. Cost: one read at most.
        """
        name = alias_of_version(collection)
        if self._state is None or name is None or not access.may_use_collection(name):
            return None
        with state_needed():
            alias = await self._find_readable(self._state, name, access)
        return alias if alias is not None and collection in alias.all_versions() else None

    async def _find_readable(self, state: StateStore, name: str, access: CollectionAccess) -> Alias | None:
        """Return an alias that the caller may use; None, and a log line, for one whose file cannot be read."""
        with skip_corrupt("alias", name):
            alias = await asyncio.to_thread(find_alias, state, name)
            return alias if alias is not None and await self._may_use(alias, alias.collection, access) else None
        return None

    async def describe(self, name: str, access: CollectionAccess) -> AliasDetail:
        """Return one alias, which the caller may use. Cost: as ``list_page``, for one."""
        alias = await self._find(name, access)
        with state_needed():
            return (await self._show([alias], access))[0]

    async def roll_back(
        self,
        name: str,
        access: CollectionAccess,
        to: str | None = None,
        *,
        owner: str = "",
        idempotency_key: str | None = None,
    ) -> RolledBack:
        """Move an alias to a former version. Searches use it at once; unavailable stores follow when they are back.

        Args:
            name: Name of the alias.
            access: What the caller may use.
            to: The version: a former one, or the current one, which changes nothing. None means the newest former one,
                so that calling it again reverts the rollback.
            owner: Who calls; idempotency keys of others are different keys.
            idempotency_key: A request with the key of an earlier one of this alias moves nothing. It completes a move
                that was interrupted, by any copy of the service.

        Raises:
            SubmissionError: "no_previous_version", "version_missing" (409); "version_unknown" (422): ``to`` is no
                version of the alias, or none that the caller may use; "not_allowed" (403): the caller may not use the
                newest former version; "idempotency_conflict" (409): the key was used with another ``to``.
        """
        order = None if idempotency_key is None else Rollback(hash_json([owner, idempotency_key])[:32], to)
        seen: Alias | None = None
        for _ in range(CONFLICTS_MAX):
            alias = await self._find(name, access)
            if order is not None and _is_repeated(alias, order):
                note_change(replayed=True)
                return await self._complete(alias, access, replayed=True)
            seen = seen or alias
            if to is None and alias.collection != seen.collection:
                raise _moving(name)  # its newest former version is no longer the one that was asked for
            moved = alias if to == alias.collection else await self._move_back(alias, to, access)
            if order is not None:
                moved = moved.remember(order)
            try:
                if moved != alias:
                    await begin_change(subject=name, from_collection=alias.collection, to_collection=moved.collection)
                    await self._write(moved)
            except SubmissionError as error:
                if error.code != "alias_moving" or (order is None and to is None):
                    raise
                continue  # another copy may have done just this
            if moved.collection != alias.collection:
                _log.info("alias rolled back", extra={"alias": name, "collection": moved.collection})
            return await self._complete(moved, access, replayed=False)
        raise _moving(name)

    async def _move_back(self, alias: Alias, to: str | None, access: CollectionAccess) -> Alias:
        """Return an alias, not settled yet, that stands for a former version; the version exists."""
        self._require_settled(alias)
        if to is None and not alias.previous:
            raise SubmissionError("no_previous_version", f"Alias {alias.name!r} has no previous version.", status=409)
        target = to or alias.previous[0]
        if target not in alias.previous or not await self._may_use(alias, target, access):
            if to is None:
                raise not_allowed(f"the newest former version of alias {alias.name!r}", "alias")
            raise _unknown_version(await self._hide_foreign(alias, access), to)
        await self._require_whole(target)
        moved_at = format_milliseconds(utc_now())
        return replace(alias, collection=target, previous=put_first(alias, target), settled=False, moved_at=moved_at)

    async def _complete(self, alias: Alias, access: CollectionAccess, *, replayed: bool) -> RolledBack:
        if not alias.settled:
            await self._roll_forward(alias.name)
        return RolledBack(await self.describe(alias.name, access), replayed)

    async def prune(
        self, name: str, keep: int, access: CollectionAccess, *, expected: Sequence[str] | None = None
    ) -> tuple[list[str], AliasDetail]:
        """Drop all former versions but the ``keep`` newest ones, with their points and state; return their names.

        Idempotent. The sweep retries unavailable stores; until then the versions are shown as ``dropping``.

        Args:
            name: Name of the alias.
            keep: Number of former versions to keep, newest first.
            access: What the caller may use.
            expected: The versions that somebody has agreed to drop; None means whichever they are.

        Raises:
            SubmissionError: "version_in_use" (409): an unfinished job or another alias uses one of them; "not_allowed"
                (403): the caller may not use one of them; "versions_changed" (409): they are not those of ``expected``.
        """
        alias = self._require_settled(await self._find(name, access))
        old = alias.previous[keep:]
        await self._require_allowed(alias, old, access)
        if expected is not None and tuple(expected) != old:
            raise SubmissionError(
                "versions_changed",
                f"The versions of alias {name!r} have changed meanwhile; nothing was dropped.",
                hint="Read again what happens, and confirm it.",
                status=409,
            )
        await self._require_unused(alias, old, access)
        if old:
            await begin_change(subject=name, dropped=", ".join(old))
            await self._write(replace(alias, previous=alias.previous[:keep], dropping=(*alias.dropping, *old)))
        await self._roll_forward(name)
        return list(old), await self.describe(name, access)

    async def remove(self, name: str, access: CollectionAccess) -> None:
        """Remove an alias; its collections stay. Unavailable stores follow when they are available again.

        Raises:
            SubmissionError: "alias_in_use" (409): an unfinished job will move it.
        """
        alias = self._require_settled(await self._find(name, access))
        for job in await self._jobs.list_active():
            if job.alias == name:
                message = f"Alias {name!r} will be moved by the unfinished job {job.id!r}."
                hint = "Cancel the job, or wait until it has ended."
                raise SubmissionError("alias_in_use", message, hint=hint, status=409)
        await begin_change(subject=name, collection=alias.collection)
        await self._write(replace(alias, removed=True, settled=False))
        await self._roll_forward(name)

    # -- the sweep ----------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Complete interrupted changes, and correct stores that differ from the state store.

        Cost: one listing, two reads per alias, one list per store; writes only for aliases that need them.
        """
        state = self._state
        if state is None:
            return
        for name in await asyncio.to_thread(lambda: sorted(iter_aliases(state))):
            try:
                alias = await asyncio.to_thread(read_alias, state, name)
                if alias is not None and await self._is_behind(alias):
                    _log.warning("alias is rolled forward", extra={"alias": name, "collection": alias.collection})
                    await self._roll_forward(name)
            except IngestionError as error:
                _log.warning("alias not checked", extra={"alias": name, **error.log_fields()})

    async def _is_behind(self, alias: Alias) -> bool:
        if not alias.settled or alias.dropping or alias.removed:
            return True
        (detail,) = await self._compare([alias])
        return any(view.agrees is False for view in detail.stores.values())

    async def _roll_forward(self, name: str) -> None:
        """Complete the pending changes of an alias; the next sweep retries what fails now."""
        assert self._state is not None
        try:
            alias = await settle_alias(self._state, self._stores, name)
            for version in () if alias is None else alias.dropping:
                await self._drop_version(name, version)
        except IngestionError as error:
            _log.warning("alias not rolled forward yet", extra={"alias": name, **error.log_fields()})

    async def _drop_version(self, name: str, version: str) -> None:
        """Drop a version from all stores and the state store, then remove it from ``dropping``. Idempotent."""
        state = self._state
        assert state is not None
        for store in self._stores.values():
            await store.drop_collection(version)
        await asyncio.to_thread(delete_collection_state, state, version)

        def forget(alias: Alias | None) -> Alias | None:
            if alias is None:
                return None
            return replace(alias, dropping=tuple(other for other in alias.dropping if other != version))

        await asyncio.to_thread(update_alias, state, name, forget)
        _log.info("former version dropped", extra={"alias": name, "collection": version})

    # -- reads and checks --------------------------------------------------------------------------------------------

    async def _find(self, name: str, access: CollectionAccess) -> Alias:
        """Return an alias; one that stands for a collection that the caller may not use does not exist for it."""
        state = require_state(self._state)
        with state_needed():
            alias = await asyncio.to_thread(find_alias, state, name)
            if alias is not None and not await self._may_use(alias, alias.collection, access):
                alias = None
        if alias is None:
            hint = "List aliases with GET /aliases; a job with `alias` creates one."
            raise SubmissionError("alias_not_found", f"Alias {name!r} does not exist.", hint=hint, status=404)
        return alias

    async def _may_use(self, alias: Alias, version: str, access: CollectionAccess) -> bool:
        state = require_state(self._state)
        return await asyncio.to_thread(may_use_stored, state, access, version, alias=alias.name)

    async def _require_allowed(self, alias: Alias, versions: Sequence[str], access: CollectionAccess) -> None:
        with state_needed():
            for version in versions:
                if not await self._may_use(alias, version, access):
                    raise not_allowed(f"a former version of alias {alias.name!r}", "alias")

    async def _show(self, aliases: Sequence[Alias], access: CollectionAccess) -> list[AliasDetail]:
        """Return the details of aliases, without the names of collections that the caller may not use."""
        details = await self._compare(aliases)
        if not access.is_restricted:
            return details
        return [
            AliasDetail(
                await self._hide_foreign(detail.alias, access),
                # What a store has under the name instead may be anything.
                {name: view if view.agrees else replace(view, collection=None) for name, view in detail.stores.items()},
            )
            for detail in details
        ]

    async def _hide_foreign(self, alias: Alias, access: CollectionAccess) -> Alias:
        """Return an alias without the versions that the caller may not use."""
        with state_needed():
            previous = [one for one in alias.previous if await self._may_use(alias, one, access)]
            dropping = [one for one in alias.dropping if await self._may_use(alias, one, access)]
        return replace(alias, previous=tuple(previous), dropping=tuple(dropping))

    async def _write(self, alias: Alias) -> None:
        assert self._state is not None
        with state_needed():
            await asyncio.to_thread(_write, self._state, alias)

    def _require_settled(self, alias: Alias) -> Alias:
        if alias.settled:
            return alias
        raise _moving(alias.name)

    async def _require_whole(self, collection: str) -> None:
        """Return when a version exists in the state store and in all stores that respond."""
        assert self._state is not None
        with state_needed():
            contract = await asyncio.to_thread(read_contract, self._state, collection)
        if contract is None:
            raise _missing(collection, "the state store")
        for name in contract.stores:
            store = self._stores.get(name)
            if store is None:
                continue
            try:
                await store.check_collection(contract)
            except CollectionMissing as error:
                raise _missing(collection, name.value) from error
            except IngestionError as error:
                _log.warning("version not checked", extra={"store": name.value, **error.log_fields()})

    async def _require_unused(self, alias: Alias, versions: Sequence[str], access: CollectionAccess) -> None:
        assert self._state is not None
        users = {use.collection.lower(): f"job {use.job_id!r}" for use in await self._jobs.list_uses()}
        with state_needed():
            for name in await asyncio.to_thread(list, iter_aliases(self._state)):
                other = None if name == alias.name else await asyncio.to_thread(read_alias, self._state, name)
                shown = f"alias {name!r}" if access.may_use_collection(name) else "another alias"
                for collection in () if other is None else (other.collection, *other.previous):
                    users[collection.lower()] = shown
        for version in versions:
            if (user := users.get(version.lower())) is not None:
                message = f"Version {version!r} is in use by {user}."
                hint = "Keep more versions, or wait until nothing uses it."
                raise SubmissionError("version_in_use", message, hint=hint, status=409)

    async def _compare(self, aliases: Sequence[Alias]) -> list[AliasDetail]:
        """Compare the aliases of every store with the state store; one list per store."""
        names = list(self._stores)
        lists = await asyncio.gather(*(self._list_aliases(self._stores[name]) for name in names))
        listed = dict(zip(names, lists, strict=True))
        return [AliasDetail(alias, await self._compare_one(alias, listed)) for alias in aliases]

    async def _compare_one(
        self, alias: Alias, listed: Mapping[StoreName, dict[str, str] | str]
    ) -> dict[StoreName, StoreView]:
        assert self._state is not None
        contract = await asyncio.to_thread(read_contract, self._state, alias.collection)
        views: dict[StoreName, StoreView] = {}
        for name, known in listed.items():
            store = self._stores[name]
            wanted = store.spell(alias.collection) if contract is None or name in contract.stores else None
            if isinstance(known, str):
                if wanted is not None:
                    views[name] = StoreView(None, None, known)
                continue
            held = known.get(store.spell(alias.name))
            if held is not None or wanted is not None:
                views[name] = StoreView(held, held == wanted, None)
        return views

    async def _list_aliases(self, store: VectorStore) -> dict[str, str] | str:
        """Return the aliases of a store, or the reason why they are unknown."""
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                return await store.list_aliases()
        except TimeoutError:
            return f"No response within {TIME_LIMIT_S:g} s."
        except IngestionError as error:
            return error.message


def _write(state: StateStore, alias: Alias) -> None:
    try:
        write_alias(state, alias)
    except StateConflict as error:
        raise _moving(alias.name) from error


def _is_repeated(alias: Alias, order: Rollback) -> bool:
    """Return whether an alias remembers a rollback. Raises SubmissionError "idempotency_conflict" (409)."""
    first = next((one for one in alias.rollbacks if one.key == order.key), None)
    if first is not None and first.to != order.to:
        version = "its newest former version" if first.to is None else repr(first.to)
        message = (
            f"The Idempotency-Key was used for another request, which rolled alias {alias.name!r} back to {version}."
        )
        hint = "Use a new key for a new request."
        raise SubmissionError("idempotency_conflict", message, hint=hint, status=409)
    return first is not None


def _unknown_version(alias: Alias, target: str) -> SubmissionError:
    if target in alias.dropping:
        message = f"Version {target!r} of alias {alias.name!r} is being dropped."
        return SubmissionError("version_missing", message, hint="Choose another version.", status=409, field="to")
    message = f"Collection {target!r} is neither the current nor a former version of alias {alias.name!r}."
    hint = f"Choose a version that GET /aliases/{alias.name} shows under `collection` or `previous`."
    return SubmissionError("version_unknown", message, hint=hint, status=422, field="to")


def _moving(name: str) -> SubmissionError:
    hint = f"Try again later; GET /aliases/{name} shows when the change is complete."
    return SubmissionError("alias_moving", f"Alias {name!r} is being changed.", hint=hint, status=409)


def _missing(collection: str, where: str) -> SubmissionError:
    message = f"The former version {collection!r} no longer exists in {where}."
    hint = "Submit a job with `alias` to create a new version."
    return SubmissionError("version_missing", message, hint=hint, status=409)
