"""The collections and aliases of a Qdrant stand-in, in its data directory."""

from __future__ import annotations

import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any, Final

import orjson

from ingestion_devstack.qdrant.collection import HALF_DONE, Collection, sync_directory, write_json
from ingestion_devstack.qdrant.errors import (
    RequestRefusedError,
    bad_format,
    check_fields,
    collection_missing,
    collection_taken,
    require,
    wrong_input,
)
from ingestion_devstack.qdrant.settings import parse_creation

_ALIASES: Final = "aliases.json"


class DataDirInUseError(Exception):
    """Another process has this data directory open."""


class CollectionStore:
    """All collections and aliases of a data directory; one process at a time. Thread-safe."""

    def __init__(self, data_dir: Path) -> None:
        """Open the directory, making it if needed, and load every collection.

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
            raise DataDirInUseError(f"{data_dir} is in use by another process") from error
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
        """Whether there is a collection or an alias of this name."""
        with self._lock:
            return self._aliases.get(name, name) in self._collections

    def get(self, name: str) -> Collection:
        """Return the collection of a name or alias.

        Raises:
            RequestRefusedError: 404 with the name of the alias's collection, if it is one.
        """
        with self._lock:
            resolved = self._aliases.get(name, name)
            if resolved not in self._collections:
                raise collection_missing(resolved)
            return self._collections[resolved]

    def create(self, name: str, body: Any) -> None:
        """Create a collection.

        Raises:
            RequestRefusedError: 409 if it exists; 400 if an alias has the name, or the settings cannot be had.
        """
        config = parse_creation(body)
        with self._lock:
            if name in self._collections:
                raise collection_taken(name)
            if name in self._aliases:
                raise wrong_input(
                    f"Can't create collection with name {name}. Alias with the same name already exists",
                )
            self._collections[name] = Collection.create(self._parent, name, config)

    def delete(self, name: str) -> bool:
        """Delete a collection with its aliases; False if there is none. An alias is not resolved."""
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

    def change_aliases(self, body: Any) -> None:
        """Create, delete and rename aliases; no reader sees a state between two of the actions.

        As in the real server the actions before a failing one stay; a body that cannot be read changes nothing.
        """
        items = require(check_fields(body, ("actions",), "struct ChangeAliasesOperation"), "actions")
        if type(items) is not list:
            raise bad_format("actions: invalid type: expected a sequence")
        actions = [_parse_action(item) for item in items]
        with self._lock:
            aliases = dict(self._aliases)
            try:
                for kind, names in actions:
                    self._change_alias(aliases, kind, names)
            finally:
                self._save_aliases(aliases)

    def flush(self) -> None:
        """Write every changed collection to disk."""
        with self._lock:
            collections = list(self._collections.values())
        for collection in collections:
            collection.flush()

    def close(self) -> None:
        """Flush and close every collection and let go of the directory."""
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections = {}
            self._lock_file.close()

    def _change_alias(self, aliases: dict[str, str], kind: str, names: dict[str, str]) -> None:
        if kind == "create_alias":
            if names["collection_name"] not in self._collections:
                raise collection_missing(names["collection_name"])
            if names["alias_name"] in self._collections:
                raise collection_taken(names["alias_name"])
            aliases[names["alias_name"]] = names["collection_name"]
        elif kind == "delete_alias":
            aliases.pop(names["alias_name"], None)
        elif names["old_alias_name"] in aliases:
            aliases[names["new_alias_name"]] = aliases.pop(names["old_alias_name"])
        else:
            raise RequestRefusedError(404, f"Not found: Alias {names['old_alias_name']} does not exists!")

    def _save_aliases(self, aliases: dict[str, str]) -> None:
        if aliases != self._aliases:
            write_json(self._aliases_file, aliases)
            self._aliases = aliases


_ACTIONS: Final = {
    "create_alias": ("collection_name", "alias_name"),
    "delete_alias": ("alias_name",),
    "rename_alias": ("old_alias_name", "new_alias_name"),
}


def _parse_action(item: Any) -> tuple[str, dict[str, str]]:
    if type(item) is not dict or len(item) != 1 or next(iter(item)) not in _ACTIONS:
        raise bad_format("data did not match any variant of untagged enum AliasOperations")
    kind, content = next(iter(item.items()))
    names = check_fields(content, _ACTIONS[kind], f"struct {kind}")
    for field in _ACTIONS[kind]:
        if type(require(names, field)) is not str:
            raise bad_format(f"{field}: invalid type: expected a string")
    return kind, names
