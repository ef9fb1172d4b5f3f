"""What the servers list and run, as they say it: for ``/api/tags`` and ``/api/ps``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ingestion_engine.adapters.ollama.models import ModelTable
from ingestion_engine.adapters.ollama.responses import canonical_name

Entry = Mapping[str, Any]


class Catalog:
    """The entries of ``/api/tags`` of every server, as each sent them last."""

    def __init__(self, models: ModelTable) -> None:
        """Know nothing yet; ``models`` says which servers are known and which digest of a model is used."""
        self._models = models
        self._entries: dict[str, list[Entry]] = {}

    def note(self, url: str, entries: Iterable[Entry]) -> None:
        """Record what a server lists; forget what others listed that are not known any more."""
        self._entries = {one: listed for one, listed in self._entries.items() if self._models.is_known(one)}
        self._entries[url] = list(entries)

    def list_models(self, urls: Iterable[str], *, digest: str = "") -> list[Entry]:
        """Return one entry for every model that requests can use: that of the first server with its digest.

        The digest of a model is the reference digest, or ``digest`` where a server serves the model with that one.
        """
        found: dict[str, Entry] = {}
        for url in urls:
            if not self._models.is_known(url):
                continue
            for entry in self._entries.get(url, ()):
                name = canonical_name(str(entry["name"]))
                served = str(entry["digest"]).removeprefix("sha256:")
                if served == digest or (name not in found and served == self._models.choose_reference(name)):
                    found[name] = entry
        return list(found.values())


def merge_running(answers: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Return the loaded models of several answers of ``/api/ps``, each model and digest once. Pure."""
    found: dict[tuple[str, str], Entry] = {}
    for answer in answers:
        entries = answer.get("models")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                found.setdefault((str(entry.get("name")), str(entry.get("digest"))), entry)
    return list(found.values())
