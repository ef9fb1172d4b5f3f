"""Which server serves which digest of a model, and which digest is the reference. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ingestion_engine.adapters.ollama.responses import canonical_name


class ModelTable:
    """The models of all servers, as each listed them last."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._order: dict[str, int] = {}
        self._references: dict[str, str | None] = {}
        """Reference digests found since the last change."""
        self._served: dict[str, dict[str, str]] = {}
        """Digest by canonical name of the model, by server."""
        self._in_use: dict[str, str] = {}
        """The digest that the last request without one got, by canonical name of the model."""

    def set_order(self, urls: Iterable[str]) -> None:
        """Record which servers are configured, in which order; only these count for reference digests."""
        self._order = {url: rank for rank, url in enumerate(urls)}
        self._references.clear()

    def note(self, url: str, digests: Mapping[str, str]) -> None:
        """Record what a server lists: digest by name of the model."""
        self._served[url] = {canonical_name(name): digest.removeprefix("sha256:") for name, digest in digests.items()}
        self._references.clear()

    def forget(self, url: str) -> None:
        """Know nothing of a server: it failed, and may serve something else when it is back."""
        self._served.pop(url, None)
        self._references.clear()

    def is_known(self, url: str) -> bool:
        """Return whether a server's models are known."""
        return url in self._served

    def find_digest(self, url: str, model: str) -> str | None:
        """Return the digest of a model at a server; None when it is not served there, or not known."""
        return self._served.get(url, {}).get(canonical_name(model))

    def list_digests(self, model: str) -> dict[str, str]:
        """Return the digest by server, for every server that is known to serve a model."""
        name = canonical_name(model)
        return {url: served[name] for url, served in self._served.items() if name in served}

    def note_use(self, model: str, digest: str) -> None:
        """Record that a request for a model goes to a server with the reference digest."""
        self._in_use[canonical_name(model)] = digest

    def choose_reference(self, model: str) -> str | None:
        """Return the digest that requests without one get; None while no server is known to serve the model.

        It is the digest of most servers; of several, the one in use before; else that of the first configured server.
        """
        name = canonical_name(model)
        if name not in self._references:
            self._references[name] = self._count_digests(name)
        return self._references[name]

    def _count_digests(self, name: str) -> str | None:
        ranks: dict[str, list[int]] = {}
        for url, rank in self._order.items():
            if (digest := self._served.get(url, {}).get(name)) is not None:
                ranks.setdefault(digest, []).append(rank)
        if not ranks:
            return None
        before = self._in_use.get(name)
        return max(ranks, key=lambda digest: (len(ranks[digest]), digest == before, -ranks[digest][0]))
