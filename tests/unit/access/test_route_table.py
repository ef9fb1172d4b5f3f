"""Every route with every scope and every kind of credential: allowed exactly where one table says so."""

from __future__ import annotations

import copy
import json
import runpy
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from ingestion_engine.access.keys.form import hash_key, make_key
from ingestion_engine.access.scopes import Scope
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.timestamps import format_seconds, utc_now
from ingestion_engine.server.app import create_app
from ingestion_engine.state.aliases import Alias, write_alias
from support.control import Plane, World, make_collection

SCRIPT: Final = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "access_table.py"))
ROOT: Final = Path(__file__).parents[3]

JOB = {"source": {"bucket": "docs"}, "collection": "fresh", "mode": "sync"}


@dataclass(frozen=True)
class Route:
    """What a route needs, a request to it, and its answers to who may and who may not use what it names."""

    scope: str
    path: str
    allowed: int = 200
    """Status of the request when it is allowed."""
    body: Any = None
    by_name: tuple[int, str] | None = (403, "not_allowed")
    """Answer to a key with the scope whose globs exclude the name; None where nothing is named: a list, then empty."""
    by_bucket: tuple[int, str] | None = (404, "collection_not_found")
    """Answer to a key with the scope that may not use the bucket."""
    through_alias: str | None = None
    """Path of the request through an alias that the key may use, and whose collection it may not."""
    behind: str = "collection_not_found"
    """Code of the 404 through that alias."""


def collection(path: str, scope: str = "read", **options: Any) -> Route:
    return Route(scope, path.format("team_notes"), through_alias=path.format("team_alias"), **options)


def alias(path: str, scope: str, **options: Any) -> Route:
    options = {"by_bucket": (404, "alias_not_found"), "behind": "alias_not_found", **options}
    return Route(scope, path.format("live"), through_alias=path.format("team_alias"), **options)


def job(path: str, scope: str, **options: Any) -> Route:
    return Route(scope, path, by_name=(404, "job_not_found"), by_bucket=(404, "job_not_found"), **options)


NOBODY: Final[dict[str, Any]] = {"by_name": None, "by_bucket": None}

TABLE: Final[dict[tuple[str, str], Route]] = {
    ("POST", "/search"): Route("search", "/search", body={"collection": "{collection}", "query": "x"}),
    ("GET", "/jobs"): Route("read", "/jobs", **NOBODY),
    ("GET", "/jobs/{job_id}"): job("/jobs/{job}", "read"),
    ("GET", "/jobs/{job_id}/failures"): job("/jobs/{job}/failures", "read"),
    ("GET", "/jobs/{job_id}/logs"): job("/jobs/{job}/logs?after=", "read"),
    ("GET", "/jobs/{job_id}/events"): job("/jobs/{job}/events", "read"),
    ("GET", "/collections"): Route("read", "/collections", **NOBODY),
    ("GET", "/collections/{name}"): collection("/collections/{}"),
    ("GET", "/collections/{name}/objects"): collection("/collections/{}/objects"),
    ("GET", "/collections/{name}/chunks"): collection("/collections/{}/chunks?key=none", allowed=404),
    ("GET", "/aliases"): Route("read", "/aliases", **NOBODY),
    ("GET", "/aliases/{name}"): alias("/aliases/{}", "read"),
    ("POST", "/ray/jobs"): Route("submit", "/ray/jobs", 202, JOB, by_bucket=(403, "not_allowed")),
    ("POST", "/spark/jobs"): Route("submit", "/spark/jobs", 501, JOB, by_bucket=(403, "not_allowed")),
    ("POST", "/spark/manifest"): Route("submit", "/spark/manifest", 501, JOB, by_bucket=(403, "not_allowed")),
    ("POST", "/jobs/{job_id}/cancel"): job("/jobs/{job}/cancel", "submit", allowed=202),
    ("POST", "/jobs/{job_id}/retry"): job("/jobs/{job}/retry", "submit", allowed=409),
    ("POST", "/aliases/{name}/rollback"): alias("/aliases/{}/rollback", "submit", allowed=409),
    ("DELETE", "/collections/{name}"): Route(
        "delete",
        "/collections/team_gone",
        through_alias="/collections/team_alias",
        by_bucket=(404, "collection_not_found"),
    ),
    ("DELETE", "/collections/{name}/objects"): collection("/collections/{}/objects?prefix=a", "delete", allowed=202),
    ("DELETE", "/aliases/{name}/versions"): alias("/aliases/{}/versions", "delete"),
    ("DELETE", "/aliases/{name}"): alias("/aliases/{}", "delete", allowed=204),
    ("GET", "/drain"): Route("admin", "/drain", **NOBODY),
    ("PUT", "/drain"): Route("admin", "/drain", body={}, **NOBODY),
    ("DELETE", "/drain"): Route("admin", "/drain", **NOBODY),
    ("GET", "/audit"): Route("admin", "/audit", **NOBODY),
    ("GET", "/livez"): Route("everybody", "/livez", **NOBODY),
    ("GET", "/readyz"): Route("everybody", "/readyz", **NOBODY),
    ("GET", "/metrics"): Route("everybody", "/metrics", **NOBODY),
    ("GET", "/openapi.json"): Route("everybody", "/openapi.json", **NOBODY),
    ("GET", "/docs"): Route("everybody", "/docs", **NOBODY),
    ("GET", "/docs/start.js"): Route("everybody", "/docs/start.js", **NOBODY),
}
"""The table. A new route needs an entry here, and ``make docs``."""

CONSOLE: Final = {
    "everybody": "GET /console/login, POST /console/login, POST /console/logout, GET /console/oidc/login, "
    "GET /console/oidc/callback, GET /console/oidc/logout, GET /console/oidc/logged-out, "
    "POST /console/oidc/backchannel-logout, GET /console/static/{version}/{path:path}",
    "any caller": "GET /console{path:path}",
    "search": "GET /console/search, POST /console/search",
    "read": "GET /, GET /console/jobs/{job_id}, GET /console/jobs/{job_id}/events, "
    "GET /console/jobs/{job_id}/failures, GET /console/jobs/{job_id}/log, GET /console/jobs/{job_id}/parts/failures, "
    "GET /console/jobs/{job_id}/plan, GET /console/aliases, GET /console/aliases/{name}, GET /console/collections, "
    "GET /console/collections/{name}, GET /console/collections/{name}/object, "
    "GET /console/collections/{name}/objects, GET /console/system",
    "submit": "GET /console/jobs/new, POST /console/jobs/new, POST /console/jobs/{job_id}/cancel, "
    "POST /console/jobs/{job_id}/retry, POST /console/jobs/{job_id}/start, "
    "GET /console/aliases/{name}/rollback, POST /console/aliases/{name}/rollback, "
    "GET /console/collections/{name}/compare/{mode}, POST /console/collections/{name}/compare/{mode}",
    "delete": "GET /console/aliases/{name}/prune, POST /console/aliases/{name}/prune, "
    "GET /console/aliases/{name}/remove, POST /console/aliases/{name}/remove, "
    "GET /console/collections/{name}/delete, POST /console/collections/{name}/delete, "
    "GET /console/collections/{name}/remove, POST /console/collections/{name}/remove",
    "admin": "GET /console/system/audit, GET /console/system/drain, POST /console/system/drain",
}
"""The pages, by the scope of what they show or do."""


def list_table() -> dict[tuple[str, str], str]:
    pages = {
        (method, path): scope
        for scope, listed in CONSOLE.items()
        for method, _, path in (one.partition(" ") for one in listed.split(", "))
    }
    return {key: route.scope for key, route in TABLE.items()} | pages


def test_every_route_declares_what_the_table_says() -> None:
    """A new route without an entry fails here."""
    assert SCRIPT["list_routes"](create_app(Settings())) == list_table()


def test_the_documented_table_is_the_routes_own() -> None:
    """`make docs` writes it."""
    page = (ROOT / "docs" / "operate" / "access.md").read_text(encoding="utf-8")
    assert page == SCRIPT["render_page"](page)


# -- the keys ---------------------------------------------------------------------------------------------------------

_PAST: Final = "2020-01-01T00:00:00Z"
_SINCE: Final = format_seconds(utc_now())

_GOOD: Final = make_key("gooooooood")
_DAMAGED: Final = _GOOD[:-1] + ("a" if _GOOD[-1] != "a" else "b")
_EVERY: Final = [scope.value for scope in Scope]


def entry(name: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "id": key.split("_")[1], "secrets": [{"sha256": hash_key(key)}], "scopes": _EVERY, **fields}


KEYS: Final = {
    **{scope.value: make_key(f"{scope.value:x<10}") for scope in Scope},
    "everything": _GOOD,
    "expired": make_key("expiredkey"),
    "revoked": make_key("revokedkey"),
    "former": make_key("rotatedkey"),
    "rotated": make_key("rotatedkey"),
    "ended": make_key("endedkey00"),
    "by name": make_key("foreignnam"),
    "by bucket": make_key("foreignbuc"),
    "through alias": make_key("foreignali"),
}
WITHOUT_ADMIN: Final = [scope for scope in _EVERY if scope != "admin"]
ENTRIES: Final = [
    *(entry(scope.value, KEYS[scope.value], scopes=[scope.value]) for scope in Scope),
    entry("everything", KEYS["everything"]),
    entry("expired", KEYS["expired"], expires_at=_PAST),
    entry("revoked", KEYS["revoked"], revoked_at=_PAST),
    entry(
        "rotated",
        KEYS["rotated"],
        secrets=[
            {"sha256": hash_key(KEYS["rotated"]), "created_at": _SINCE},
            {"sha256": hash_key(KEYS["former"]), "expires_at": "2100-01-01T00:00:00Z"},
        ],
    ),
    entry(
        "ended",
        make_key("endedkey00"),
        secrets=[
            {"sha256": hash_key(make_key("endedkey00"))},
            {"sha256": hash_key(KEYS["ended"]), "expires_at": _PAST},
        ],
    ),
    entry("by name", KEYS["by name"], scopes=WITHOUT_ADMIN, collections=["other_*"]),
    entry("by bucket", KEYS["by bucket"], scopes=WITHOUT_ADMIN, buckets=["elsewhere"]),
    entry("through alias", KEYS["through alias"], scopes=WITHOUT_ADMIN, collections=["team_alias"]),
]
UNKNOWN: Final = {
    "missing": None,
    "wrong": make_key("unknownkey"),
    "wrong secret": make_key("gooooooood"),
    "damaged": _DAMAGED,
    "free text": "hunter2",
    **{name: KEYS[name] for name in ("expired", "revoked", "ended")},
}
WHOLE: Final = ("everything", "former", "rotated")


class Gate:
    """A running service with the keys, one job of another owner, two collections and two aliases."""

    def __init__(self, world: World, plane: Plane, job_id: str) -> None:
        self._world = world
        self._plane = plane
        self._job_id = job_id
        self._before = self._copy()

    def _copy(self) -> tuple[Any, ...]:
        stores = (self._world.qdrant, self._world.weaviate)
        return copy.deepcopy((self._world.state.values, *((one.collections, one.aliases) for one in stores)))

    async def call(
        self, method: str, route: Route, key: str | None, *, path: str | None = None, named: str = "team_notes"
    ) -> tuple[int, str | None, Any]:
        """Return status, code and body of a request to a world that is always the same."""
        values, *stores = copy.deepcopy(self._before)
        self._world.state.values = values
        for store, (collections, aliases) in zip((self._world.qdrant, self._world.weaviate), stores, strict=True):
            store.collections, store.aliases = collections, aliases
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = None if route.body is None else json.loads(json.dumps(route.body).replace("{collection}", named))
        path = (path or route.path).replace("{job}", self._job_id)
        answer = await self._plane.client.request(method, path, headers=headers, json=body)
        is_json = answer.content and "json" in answer.headers.get("content-type", "")
        found = answer.json() if is_json else answer.text
        return answer.status_code, found.get("code") if isinstance(found, dict) else None, found


NO_LIMITS: Final = {
    "failed_logins_per_minute": 1e6,
    "requests_per_second": 1e6,
    "address_requests_per_second": 1e6,
}


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    world = World(tmp_path)
    for name in ("team_notes", "team_gone"):
        make_collection(world, name, bucket="docs")
    for name in ("live", "team_alias"):
        write_alias(world.state, Alias(name, "team_notes", (), True, "job-1", "2026-01-01T00:00:00.000Z", _PAST))
        for store in (world.qdrant, world.weaviate):
            store.aliases[name] = store.spell("team_notes")
    (tmp_path / "keys.json").write_text(json.dumps(ENTRIES))
    async with world.serve(api={"keys_file": tmp_path / "keys.json"}, limits=NO_LIMITS) as plane:
        headers = {"Authorization": f"Bearer {KEYS['everything']}"}
        job_id = (await plane.client.post("/ray/jobs", json=JOB, headers=headers)).json()["job_id"]
        await plane.client.post(f"/jobs/{job_id}/cancel", headers=headers)
        yield Gate(world, plane, job_id)


async def test_a_route_is_open_to_its_scope_and_to_nothing_else(gate: Gate) -> None:
    """With a key of each scope, with keys of all, and with every kind of key that does not count."""
    for (method, _), route in TABLE.items():
        public = route.scope == "everybody"
        for name in (*_EVERY, *WHOLE):
            status, code, _body = await gate.call(method, route, KEYS[name])
            if public or name in WHOLE or name == route.scope:
                assert status == route.allowed, (method, route.path, name, _body)
                assert code not in ("scope_missing", "not_allowed", "unauthenticated")
            else:
                assert (status, code) == (403, "scope_missing"), (method, route.path, name)
        for name, key in UNKNOWN.items():
            status, code, body = await gate.call(method, route, key)
            expected = (route.allowed, None) if public else (401, "unauthenticated")
            assert (status, code) == expected, (method, route.path, name)
            assert key is None or key not in repr(body)


async def test_what_is_foreign_is_closed_to_every_scope(gate: Gate) -> None:
    """By its name, by its bucket, and through an alias that the key may use."""
    for (method, _), route in TABLE.items():
        answers = {"by name": route.by_name, "by bucket": route.by_bucket}
        for name, expected in answers.items():
            status, code, body = await gate.call(method, route, KEYS[name])
            if route.scope == "admin":
                assert (status, code) == (403, "scope_missing"), "a restricted key never operates the service"
            elif expected is not None:
                assert (status, code) == expected, (method, route.path, name)
            elif route.scope != "everybody":
                assert (status, body["items"]) == (200, []), (method, route.path, name)
        if route.through_alias is not None:
            status, code, _ = await gate.call(method, route, KEYS["through alias"], path=route.through_alias)
            assert (status, code) == (404, route.behind), (method, route.path)
    search = TABLE["POST", "/search"]
    found = await gate.call("POST", search, KEYS["through alias"], named="team_alias")
    assert found[:2] == (404, "collection_not_found")
    submit = TABLE["POST", "/ray/jobs"]
    for body in ({**JOB, "collection": "team_alias"}, {"source": {"bucket": "docs"}, "alias": "team_alias"}):
        route = Route("submit", submit.path, body=body)
        assert (await gate.call("POST", route, KEYS["through alias"]))[:2] == (403, "not_allowed")


async def test_a_page_of_the_console_is_open_to_its_scope_and_to_nothing_else(gate: Gate) -> None:
    """A page for whoever lacks it; without a key or a session, the way to the log-in."""
    table = {key: scope for key, scope in list_table().items() if key not in TABLE}
    for (method, path), scope in table.items():
        if scope in {"everybody", "any caller"}:
            continue
        filled = path.replace("{name}", "live" if "/aliases" in path else "team_notes").replace("{mode}", "verify")
        filled = filled.replace("{job_id}", "{job}") + (
            "?key=0.txt&to=nothing&keep=1&prefix=a" if method == "GET" else ""
        )
        route = Route(scope, filled)
        for name in _EVERY:
            status, _, body = await gate.call(method, route, KEYS[name])
            if name == scope:
                assert status not in (401, 403), (method, path, body)
            else:
                assert status == 403, (method, path, name)
        names_something = "{" in path
        for name in ("by name", "by bucket") if scope != "admin" else ():
            status, _, body = await gate.call(method, route, KEYS[name])
            refused = (403, 404) if method == "GET" else (403, 404, 422)  # a form without its fields is refused before
            assert not names_something or status in refused, (method, path, name)
            assert names_something or "team_notes" not in str(body), (method, path, name)
        if "{name}" in path:
            through = filled.replace("team_notes", "team_alias").replace("live", "team_alias")
            status, _, body = await gate.call(method, route, KEYS["through alias"], path=through)
            assert status in ((404,) if method == "GET" else (404, 422)), (method, path)
            assert "team_notes" not in str(body)
        for name, key in UNKNOWN.items():
            status, _, body = await gate.call(method, route, key)
            assert status in (303, 401), (method, path, name)
            assert "team_notes" not in str(body).replace(filled, "")
