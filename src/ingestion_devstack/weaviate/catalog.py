"""Which classes and aliases exist in the Weaviate stand-in: one small SQLite file, and the rules for names.

As in Weaviate: a class may not equal another class or an alias, compared without case; an alias may not equal another
alias without case, but only an exact class name; dropping a class leaves its aliases dangling.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Final

import orjson

from ingestion_devstack.weaviate.schema import Definition, SchemaError, is_class_name, upper_first

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS classes(number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, body BLOB);
CREATE TABLE IF NOT EXISTS aliases(name TEXT PRIMARY KEY, class TEXT);
"""


class AliasClashesWithClassError(Exception):
    """Weaviate answers this one with HTTP 500."""


class UnknownAliasError(KeyError):
    """No alias of that name. HTTP 404 without a body."""


class Catalog:
    """Classes and aliases, in memory and on disk. Every change is on disk when the call returns. Thread-safe.

    Attributes:
        classes: name → definition.
        numbers: name → number of the class's storage; never used twice.
        aliases: alias → class.
    """

    def __init__(self, data_dir: Path) -> None:
        """Open or create `catalog.db` in `data_dir`."""
        self._db = sqlite3.connect(data_dir / "catalog.db", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)
        self._lock = threading.RLock()
        self.classes: dict[str, Definition] = {}
        self.numbers: dict[str, int] = {}
        for number, name, body in self._db.execute("SELECT number, name, body FROM classes ORDER BY number"):
            self.classes[name] = orjson.loads(body)
            self.numbers[name] = number
        self.aliases: dict[str, str] = dict(self._db.execute("SELECT name, class FROM aliases ORDER BY name"))

    def close(self) -> None:
        """Close the file; the catalogue cannot be used afterwards."""
        with self._lock:
            self._db.close()

    def resolve(self, name: str) -> tuple[str, str | None]:
        """The class a name stands for, and the alias if it was one. Aliases win nothing: an exact class comes first."""
        name = upper_first(name)
        if name not in self.classes and name in self.aliases:
            return self.aliases[name], name
        return name, None

    def add(self, definition: Definition) -> None:
        """Record a new class.

        Raises:
            SchemaError: the name is taken.
        """
        name = definition["class"]
        with self._lock:
            for item, taken in (("class", self.classes), ("alias", self.aliases)):
                for other in taken:
                    if other == name:
                        raise SchemaError(f"{item} name {name} already exists")
                    if other.lower() == name.lower():
                        raise SchemaError(f'class already exists: found similar {item} "{other}"')
            cursor = self._db.execute("INSERT INTO classes(name, body) VALUES (?, ?)", (name, orjson.dumps(definition)))
            self.numbers[name] = int(cursor.lastrowid or 0)
            self.classes[name] = definition

    def change(self, definition: Definition) -> None:
        """Replace the definition of an existing class."""
        with self._lock:
            name = definition["class"]
            self._db.execute("UPDATE classes SET body = ? WHERE name = ?", (orjson.dumps(definition), name))
            self.classes[name] = definition

    def remove(self, name: str) -> int | None:
        """Forget a class; its storage number, or None if there was no such class. Aliases stay, dangling."""
        with self._lock:
            if self.classes.pop(name, None) is None:
                return None
            self._db.execute("DELETE FROM classes WHERE name = ?", (name,))
            return self.numbers.pop(name)

    def add_alias(self, alias: str, target: str) -> tuple[str, str]:
        """Record a new alias; (alias, class) as spelled by Weaviate.

        Raises:
            SchemaError: bad name, taken, or no such class.
            AliasClashesWithClassError: it is the name of a class.
        """
        alias, target = upper_first(alias), upper_first(target)
        if not is_class_name(alias):
            raise SchemaError(f"validation: '{alias}' is not a valid alias name")
        with self._lock:
            if target not in self.classes:
                raise SchemaError(f'validation: target class "{target}" does not exist')
            if any(other.lower() == alias.lower() for other in self.aliases):
                raise SchemaError(
                    f"validation: updating schema: TYPE_CREATE_ALIAS: create alias: {alias}, alias already exists"
                )
            if alias in self.classes:
                message = f"updating schema: TYPE_CREATE_ALIAS: create alias: class {alias} already exists"
                raise AliasClashesWithClassError(message)
            self._put_alias(alias, target)
        return alias, target

    def move_alias(self, alias: str, target: str) -> tuple[str, str]:
        """Point an alias at another class, at once for every later request.

        Raises:
            UnknownAliasError: no such alias.
            SchemaError: no such class.
        """
        alias, target = upper_first(alias), upper_first(target)
        with self._lock:
            if alias not in self.aliases:
                raise UnknownAliasError(alias)
            if target not in self.classes:
                raise SchemaError(f'validation: target class "{target}" does not exist')
            self._put_alias(alias, target)
        return alias, target

    def remove_alias(self, alias: str) -> None:
        """Forget an alias.

        Raises:
            UnknownAliasError: no such alias.
        """
        alias = upper_first(alias)
        with self._lock:
            if self.aliases.pop(alias, None) is None:
                raise UnknownAliasError(alias)
            self._db.execute("DELETE FROM aliases WHERE name = ?", (alias,))

    def _put_alias(self, alias: str, target: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO aliases(name, class) VALUES (?, ?)", (alias, target))
        self.aliases[alias] = target
