"""The collections and aliases of a Qdrant stand-in, in its data directory.

Imitates Qdrant 1.19, lib/storage/src/content_manager/toc/collection_meta_ops.rs: creating an alias that exists moves
it, deleting an absent one is no error, deleting a collection deletes its aliases. Renaming an alias is refused.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any, Final

import orjson

from ingestion_devstack.qdrant.collection import HALF_DONE, Collection, sync_directory, write_json
from ingestion_devstack.qdrant.errors import (
    check_fields,
    check_type,
    collection_missing,
    collection_taken,
    require,
    wrong_format,
    wrong_input,
)

_ALIASES: Final = "aliases.json"
_ACTIONS: Final = {"create_alias": ("collection_name", "alias_name"), "delete_alias": ("alias_name",)}


class DataDirInUseError(Exception):
    """Another process has this data directory open."""


class CollectionStore:
    """All collections and aliases of a data directory; one process at a time. Thread-safe."""

    def __init__(self, data_dir: Path) -> None:
        """Open the directory, creating it if needed, and load every collection.

        Raises:
            DataDirInUseError: another process has it open.
        """
        self._parent = data_dir / "collections"
        self._parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = (data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.close()
            raise DataDirInUseError(f"The directory {data_dir} is in use by another server.") from error
        self._aliases_file = data_dir / _ALIASES
        self._lock = threading.RLock()
        self._aliases: dict[str, str] = {}
        if self._aliases_file.exists():
            self._aliases = orjson.loads(self._aliases_file.read_bytes())
        self._collections: dict[str, Collection] = {}
        for directory in sorted(self._parent.iterdir()):
            if directory.name.startswith(HALF_DONE):
                shutil.rmtree(directory)
            else:
                collection = Collection(directory)
                self._collections[collection.name] = collection

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        with self._lock:
            return sorted(self._collections)

    def exists(self, name: str) -> bool:
        """Return whether a collection or an alias has this name."""
        with self._lock:
            return self._aliases.get(name, name) in self._collections

    def get(self, name: str) -> Collection:
        """Return the collection of a name or alias.

        Raises:
            RequestRefusedError: 404; for an alias with the name of its collection.
        """
        with self._lock:
            resolved = self._aliases.get(name, name)
            if resolved not in self._collections:
                raise collection_missing(resolved)
            return self._collections[resolved]

    def create(self, name: str, body: Any) -> bool:
        """Create a collection; return True, the API's answer.

        Raises:
            RequestRefusedError: 409 if it exists; 400 if an alias has the name, or the settings are not supported.
        """
        with self._lock:
            if name in self._collections:
                raise collection_taken(name)
            if name in self._aliases:
                raise wrong_input(
                    f"Can't create collection with name {name}. Alias with the same name already exists",
                )
            self._collections[name] = Collection.create(self._parent, name, body)
            return True

    def delete(self, name: str) -> bool:
        """Delete a collection with its aliases; return False if there is none. An alias is not resolved."""
        with self._lock:
            collection = self._collections.pop(name, None)
            if collection is None:
                return False
            self._save_aliases({alias: target for alias, target in self._aliases.items() if target != name})
        collection.close()
        deleting = self._parent / f"{HALF_DONE}{collection.directory.name}"
        collection.directory.rename(deleting)
        sync_directory(self._parent)
        shutil.rmtree(deleting)
        return True

    def aliases(self, collection: str | None = None) -> list[dict[str, str]]:
        """Return all aliases, or those of one collection."""
        with self._lock:
            return [
                {"alias_name": alias, "collection_name": target}
                for alias, target in sorted(self._aliases.items())
                if collection in (None, target)
            ]

    def change_aliases(self, body: Any) -> bool:
        """Create and delete aliases; return True, the API's answer. No reader sees a state between two of the actions.

        As in the real server the actions before a failing one stay; a malformed body changes nothing.
        """
        items = require(check_fields(body, ("actions",), "struct ChangeAliasesOperation"), "actions")
        actions = [_parse_action(item) for item in check_type(items, list, "a sequence of actions")]
        with self._lock:
            aliases = dict(self._aliases)
            try:
                for kind, names in actions:
                    self._change_alias(aliases, kind, names)
            finally:
                self._save_aliases(aliases)
        return True

    def flush(self) -> None:
        """Write every changed collection to disk."""
        with self._lock:
            collections = list(self._collections.values())
        for collection in collections:
            collection.flush()

    def close(self) -> None:
        """Flush and close every collection and release the directory."""
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections = {}
            self._lock_file.close()

    def _change_alias(self, aliases: dict[str, str], kind: str, names: dict[str, str]) -> None:
        alias = names["alias_name"]
        if kind == "delete_alias":
            aliases.pop(alias, None)
            return
        if names["collection_name"] not in self._collections:
            raise collection_missing(names["collection_name"])
        if alias in self._collections:
            raise collection_taken(alias)
        aliases[alias] = names["collection_name"]

    def _save_aliases(self, aliases: dict[str, str]) -> None:
        if aliases != self._aliases:
            write_json(self._aliases_file, aliases)
            self._aliases = aliases


def _parse_action(item: Any) -> tuple[str, dict[str, str]]:
    if len(check_fields(item, tuple(_ACTIONS), "enum AliasOperations")) != 1:
        raise wrong_format("data did not match any variant of untagged enum AliasOperations")
    kind, content = next(iter(item.items()))
    names = check_fields(content, _ACTIONS[kind], f"struct {kind}")
    for field in _ACTIONS[kind]:
        check_type(require(names, field), str, f"a string for {field}")
    return kind, names
