"""Pages of collections, objects, searches, aliases and the system: who sees what, and what is recorded."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_engine.access.principal import Principal
from ingestion_engine.console.formats import show_age, show_key, show_latency
from ingestion_engine.console.marks import WORDS_MAX, mark_words
from ingestion_engine.console.passages import MARKED_MAX, align, describe_agreement
from ingestion_engine.console.routes.objects import list_folders
from ingestion_engine.console.routes.system import SYSTEM_NAMES, _name_gateways
from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.domain.records import INTERRUPTED, RowState
from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.models.search import Hit, SearchView
from ingestion_engine.services.audit.log import AuditFilter
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import ScriptedGateway, World, bearer, make_collection, write_keys
from support.stored_objects import HANDBOOK, write_collection, write_versions

READ_PAGES = (
    "/console/collections",
    "/console/collections/notes",
    "/console/collections/notes/objects",
    "/console/collections/notes/object?key=readme.md",
    "/console/aliases",
    "/console/aliases/books",
    "/console/system",
)
ACTIONS = {
    "submit": (
        ("/console/collections/notes/compare/verify", {}),
        ("/console/collections/notes/compare/repair", {}),
        ("/console/aliases/books/rollback?to={former}", {"to": "{former}"}),
    ),
    "delete": (
        ("/console/collections/notes/remove?prefix=handbook/", {"prefix": "handbook/", "typed": "notes"}),
        ("/console/aliases/books/prune?keep=0", {"keep": "0", "listed": "{former}", "typed": "books"}),
        ("/console/aliases/books/remove", {"typed": "books"}),
        ("/console/collections/free/delete", {"typed": "free"}),
    ),
    "admin": (("/console/system/drain", {"order": "start"}),),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("scope", ["search", "read", "submit", "delete", "admin"])
async def test_pages_and_actions_require_their_scope(world: World, tmp_path: Path, scope: str) -> None:
    """Each page and each form is allowed to exactly one scope; everybody else gets a page that names it."""
    write_collection(world, "notes")
    write_collection(world, "free")
    _, former = write_versions(world, "books", 2)
    keys = write_keys(tmp_path, {"name": scope, "scopes": [scope]})
    async with world.serve(api={"keys_file": keys}, headers=bearer(scope)) as plane:
        for path in READ_PAGES:
            assert (await plane.client.get(path)).status_code == (200 if scope == "read" else 403), path
        for path in ("/console/system/audit", "/console/system/audit?who=boss&outcome=refused&subject=notes"):
            assert (await plane.client.get(path)).status_code == (200 if scope == "admin" else 403)
        assert (await plane.client.get("/console/search")).status_code == (200 if scope == "search" else 403)
        for needed, actions in ACTIONS.items():
            for path, fields in actions:
                url = path.format(former=former)
                asked = await plane.client.get(url)
                done = await plane.client.post(
                    url.partition("?")[0], data={name: value.format(former=former) for name, value in fields.items()}
                )
                if needed == scope:
                    assert (asked.status_code, done.status_code) == (200, 303), path
                else:
                    assert (asked.status_code, done.status_code) == (403, 403), path
                    assert f"scope {needed!r}".replace("'", "&#39;") in asked.text


async def test_buttons_are_shown_to_those_who_may_press_them(world: World, tmp_path: Path) -> None:
    """A reader sees no action; each scope adds its own."""
    write_collection(world, "notes")
    write_versions(world, "books", 2)
    every = ["search", "read", "submit", "delete", "admin"]
    keys = write_keys(tmp_path, {"name": "reader", "scopes": ["read"]}, {"name": "all", "scopes": every})
    pages = {
        "/console/collections/notes": {"compare/verify", "compare/repair", "delete", "search"},
        "/console/collections/notes/objects": {"remove"},
        "/console/aliases/books": {"rollback", "prune", "remove", "search"},
        "/console/system": {"drain"},
    }
    async with world.serve(api={"keys_file": keys}) as plane:
        for path, actions in pages.items():
            for name, expected in (("reader", set()), ("all", actions)):
                text = (await plane.client.get(path, headers=bearer(name))).text
                main = text[text.index("<main") :]
                found = {
                    action for action in actions if re.search(rf'href="[^"]*/{action}(?:[?"#]|&)', main) is not None
                }
                assert found == expected, (path, name)


KEPT = {
    "/console/collections/notes/compare/verify": "Do not verify",
    "/console/collections/notes/compare/repair": "Do not repair",
    "/console/collections/notes/delete": "Keep the collection",
    "/console/collections/notes/remove?prefix=handbook/": "Keep the objects",
    "/console/aliases/books/rollback?to={former}": "Leave the alias where it is",
    "/console/aliases/books/prune?keep=0": "Keep all versions",
    "/console/aliases/books/prune?keep=9": "Back to the alias",
    "/console/aliases/books/remove": "Keep the alias",
    "/console/system/drain": "Do not drain",
}


async def test_each_confirmation_has_its_own_words_for_going_back(world: World) -> None:
    """What changes nothing has nothing to keep; where there is nothing to do, there is no form."""
    write_collection(world, "notes")
    _, former = write_versions(world, "books", 2)
    async with world.serve() as plane:
        for path, words in KEPT.items():
            text = (await plane.client.get(path.format(former=former))).text
            assert f">{words}</a>" in text, path
            assert ('<form method="post">' in text) == (words != "Back to the alias"), path
        assert (await plane.client.put("/drain")).status_code == 200
        assert ">Stay drained</a>" in (await plane.client.get("/console/system/drain")).text


async def test_every_system_has_a_name(world: World) -> None:
    """Also the gateways, whose addresses are for operators; the API keeps the names that it has."""
    parts = world.parts(gateway=ScriptedGateway(urls=("http://user:secret@gateway-1:11430", "http://gateway-2:11430")))
    async with world.serve(parts) as plane:
        names = set((await plane.client.get("/readyz")).json()["dependencies"])
        text = (await plane.client.get("/console/system")).text
        of_operators = _name_gateways(plane.services, shows_addresses=True)
        of_others = _name_gateways(plane.services, shows_addresses=False)
    assert names - {*SYSTEM_NAMES} == {*of_operators} == {*of_others}
    assert [*of_operators.values()] == ["Gateway http://gateway-1:11430", "Gateway http://gateway-2:11430"]
    assert [*of_others.values()] == ["Gateway 1", "Gateway 2"]
    assert {*SYSTEM_NAMES} >= {"database", "state", "s3", "ollama", *StoreName, *EngineName}
    for name in ("Job database", "Gateway http://gateway-1:11430", "&lt; 1 ms", "just now"):
        assert name in text


async def test_a_restricted_key_sees_nothing_foreign(world: World, tmp_path: Path) -> None:
    """Lists leave it out; its pages and actions are those of what does not exist, or are refused by name."""
    write_collection(world, "notes")
    write_collection(world, "foreign")
    _, former = write_versions(world, "others", 2)
    keys = write_keys(tmp_path, {"name": "team", "buckets": ["docs"], "collections": ["notes"]})
    async with world.serve(api={"keys_file": keys}, headers=bearer("team")) as plane:
        for path in ("/console/collections", "/console/aliases", "/console/search"):
            text = (await plane.client.get(path)).text
            assert "foreign" not in text
            assert "others" not in text
        for path in (
            "/console/collections/foreign",
            "/console/collections/foreign/objects",
            "/console/collections/foreign/object?key=readme.md",
            "/console/collections/foreign/compare/verify",
            "/console/collections/foreign/delete",
            "/console/collections/foreign/remove",
            f"/console/collections/{former}",
            "/console/aliases/others",
            f"/console/aliases/others/rollback?to={former}",
            "/console/aliases/others/prune",
            "/console/aliases/others/remove",
        ):
            answer = await plane.client.get(path)
            assert answer.status_code in {403, 404}, path
            assert "points" not in answer.text, path
        searched = await plane.client.post("/console/search", data={"collection": "foreign", "query": "cats"})
        assert searched.status_code in {403, 404}
        assert "service desk" not in searched.text
        for path, fields in (
            ("/console/collections/foreign/delete", {"typed": "foreign"}),
            ("/console/collections/foreign/remove", {"prefix": "", "typed": "foreign"}),
            ("/console/aliases/others/rollback", {"to": former}),
            ("/console/aliases/others/remove", {"typed": "others"}),
        ):
            assert (await plane.client.post(path, data=fields)).status_code in {403, 404}, path
    assert "foreign" in world.qdrant.collections
    assert former in world.qdrant.collections


async def test_a_browser_without_the_token_of_its_form_changes_nothing(world: World) -> None:
    """Also where nobody has to log in: a page of another site cannot know the token."""
    write_collection(world, "notes")
    async with world.serve() as plane:
        for path, fields in (
            ("/console/collections/notes/delete", {"typed": "notes"}),
            ("/console/collections/notes/compare/repair", {}),
            ("/console/system/drain", {"order": "start"}),
        ):
            answer = await plane.client.post(path, data=fields)
            assert answer.status_code == 403, path
        assert (await plane.client.get("/jobs")).json()["items"] == []
    assert "notes" in world.qdrant.collections


async def test_actions_are_in_the_audit_log_and_searches_are_not(world: World, tmp_path: Path) -> None:
    """Under the name of the API's operation, with what they were about."""
    write_collection(world, "notes")
    _, former = write_versions(world, "books", 2)
    keys = write_keys(tmp_path, {"name": "boss"})
    async with world.serve(api={"keys_file": keys}, headers=bearer("boss")) as plane:
        searched = await plane.client.post("/console/search", data={"collection": "notes", "query": "cats"})
        assert searched.status_code == 200
        for path, fields in (
            ("/console/collections/notes/compare/verify", {"once": "a"}),
            ("/console/aliases/books/rollback", {"to": former}),
            ("/console/aliases/books/remove", {"typed": "books"}),
        ):
            assert (await plane.client.post(path, data=fields)).status_code == 303
        await plane.services.audit.flush()
        found, _ = await plane.services.audit.list_page(AuditFilter(), limit=100, cursor=None)
    assert [(entry.operation, entry.subject, entry.who) for entry in found[::-1]] == [
        ("console.submit_comparison", "notes", "boss"),
        ("console.roll_back_alias", "books", "boss"),
        ("console.remove_alias", "books", "boss"),
    ]


async def test_the_system_is_shown_while_the_database_is_unavailable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is when it is needed."""
    async with world.serve() as plane:

        async def away() -> None:
            raise TransientError("database_unavailable", "The database does not respond.")

        monkeypatch.setattr(plane.services.store, "ping", away)
        plane.services.health.distrust("database_unavailable")
        answer = await plane.client.get("/console/system")
        assert answer.status_code == 200


async def test_versions_are_dropped_only_as_agreed(world: World) -> None:
    """When another version would go than the one that was shown, nothing goes."""
    _, former = write_versions(world, "books", 2)
    async with world.serve() as plane:
        with pytest.raises(SubmissionError) as changed:
            await plane.services.aliases.prune("books", 0, Principal(), expected=["another"])
        assert changed.value.code == "versions_changed"
        assert former in world.qdrant.collections
        dropped, _ = await plane.services.aliases.prune("books", 0, Principal(), expected=[former])
        assert dropped == [former]


async def test_a_collection_names_the_alias_that_it_is_a_version_of(world: World) -> None:
    """The current and a former version do; another collection does not, nor for who may not use the alias."""
    newest, former = write_versions(world, "books", 2)
    make_collection(world, "books_of_others")
    async with world.serve() as plane:
        find = plane.services.aliases.find_of
        for name in (newest, former):
            found = await find(name, Principal())
            assert found is not None
            assert found.name == "books"
        assert await find("books_of_others", Principal()) is None
        assert await find(newest, Principal(collections=(newest,))) is None


@pytest.mark.parametrize("had_failed", [False, True])
async def test_an_interrupted_object_is_said_to_be_tried_again(world: World, had_failed: bool) -> None:
    """The next job completes it, whether an earlier one had failed it, as its row remembers, or not."""
    write_collection(world, "notes")
    table = ObjectTable(world.state, "notes")
    row = next(iter(table.scan()))
    changes = {"state": RowState.FAILED, "error_code": INTERRUPTED, "reason": "The job ended."}
    changed = replace(row, retryable=not had_failed, **changes)  # type: ignore[arg-type]  # fields of a row
    table.append_run([changed], epoch=5, job_id=row.job_id)
    async with world.serve() as plane:
        page = await plane.client.get("/collections/notes/objects", params={"prefix": row.key})
        assert [one["retryable"] for one in page.json()["items"]] == [True]
        page = await plane.client.get("/console/collections/notes/object", params={"key": row.key})
        assert "the next sync job tries the object again" in page.text


async def test_collections_and_aliases_are_paged_by_name(world: World) -> None:
    """The pages of a list cover it; a part of the name is found in upper and lower case."""
    names = [f"c{number:03d}" for number in range(7)]
    for name in names:
        make_collection(world, name)
        write_versions(world, f"A{name}", 1)
    everything = sorted(world.qdrant.collections)
    async with world.serve() as plane:
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page, after = await plane.services.collections.list_page(Principal(), limit=4, after=after)
            found += [one.name for one in page]
        assert found == everything
        some, _ = await plane.services.collections.list_page(Principal(), limit=100, after="", part="aC00")
        assert [one.name for one in some] == [name for name in everything if name.startswith("A")]
        found = []
        after = ""
        while after is not None:
            aliases, after = await plane.services.aliases.list_page(Principal(), after=after, limit=3)
            found += [one.alias.name for one in aliases]
        assert found == [f"A{name}" for name in names]


def _hit(point_id: str, **fields: object) -> Hit:
    return Hit.model_validate({"point_id": point_id, "score": 0.5, "key": "a", "text": "same", **fields})


def _view(qdrant: list[Hit], weaviate: list[Hit], differences: int | None = 0) -> SearchView:
    results = {StoreName.QDRANT: qdrant, StoreName.WEAVIATE: weaviate}
    return SearchView(
        collection="notes", alias=None, model="m", results=results, errors={}, took_ms=1, differences=differences
    )


@pytest.mark.parametrize(
    ("qdrant", "weaviate", "said"),
    [
        ("abc", "abc", "Both stores found the same 3 passages in the same order."),
        ("a", "a", "Both stores found the same passage."),
        ("abc", "acb", "Both stores found the same 3 passages; some with nearly the same score are in another order."),
        ("abc", "abd", "The stores agree, except on which passages come last in the list."),
        ("", "", None),
    ],
)
def test_one_sentence_says_how_far_the_stores_agree(qdrant: str, weaviate: str, said: str | None) -> None:
    """And nothing more than what is true; passages that are not everywhere are not shown once for both."""
    found = _view([*map(_hit, qdrant)], [*map(_hit, weaviate)])
    passages = align(found)
    assert describe_agreement(found, passages) == said
    assert [one.is_same for one in passages] == [one.is_everywhere for one in passages]
    assert sum(one.is_same for one in passages) == len({*qdrant} & {*weaviate})
    assert describe_agreement(_view(list(map(_hit, "a")), [], None), passages) is None


def test_the_words_of_a_few_different_passages_are_compared() -> None:
    """More of them would keep the service from others."""
    names = [f"p{number}" for number in range(MARKED_MAX + 5)]
    ours = [_hit(name, text="one two", differences=["text"]) for name in names]
    theirs = [_hit(name, text="one three", differences=["text"]) for name in names]
    passages = align(_view(ours, theirs, len(names)))
    marked = [one for one in passages if ("two", True) in one.pieces[StoreName.QDRANT]]
    assert len(marked) == MARKED_MAX
    assert [(one.is_same, one.differs) for one in passages] == [(False, True)] * len(names)
    assert "".join(words for words, _ in passages[0].pieces[StoreName.WEAVIATE]) == "one three"


def test_keys_have_a_sign_where_nobody_sees_a_character() -> None:
    """The character itself stays, so that a copy is exact; letters of any language have none."""
    assert show_key("ümläut & שלום 日本 🙂/a b") == "ümläut & שלום 日本 🙂/a b"
    for blank in "\u115f\u3164\uffa0\u2800\u034f\ufe0f\U000e0100":  # letters, signs and marks without a shape
        assert show_key(f"a{blank}b") == f'a<span class="sign" data-code="U+{ord(blank):04X}">{blank}</span>b'
    shown = show_key("<b>\u202eexe\x00\u00a0")
    assert shown == (
        '&lt;b&gt;<span class="sign" data-code="U+202E">\u202e</span>exe'
        '<span class="sign" data-code="U+0000">\x00</span><span class="sign" data-code="U+00A0">\xa0</span>'
    )


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0, "< 1 ms"), (0.9, "< 1 ms"), (12.4, "12 ms"), (1234, "1,234 ms"), (20_000, "20 s")]
)
def test_latencies_have_one_unit(milliseconds: float, shown: str) -> None:
    assert show_latency(milliseconds) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0, "just now"), (4.7, "4 s ago"), (59, "59 s ago"), (60, "1 min ago")])
def test_ages_are_in_whole_seconds(seconds: float, shown: str) -> None:
    assert show_age(seconds) == shown


def test_words_that_differ_are_marked() -> None:
    """The pieces are the text; what the other text lacks is marked; long texts are marked as a whole, quickly."""
    own, other = "between eight and six.\nOr later", "between nine and six. Or later"
    pieces = mark_words(own, other)
    assert "".join(words for words, _ in pieces) == own
    assert [words for words, differs in pieces if differs] == ["eight", "\n"]
    assert mark_words(own, own) == [(own, False)]
    assert mark_words("", other) == []
    long = "word " * WORDS_MAX
    assert mark_words(long, long + "x") == [(long, True)]


def test_texts_of_few_words_are_compared_quickly() -> None:
    """Two words in turn are not searched for in each other, half a million pairs; one word of prose is still found."""
    chooser = random.Random(1)
    own, other = (" ".join(chooser.choices("ab", k=900)) for _ in range(2))
    assert mark_words(own, other) == [(own, True)]
    prose = " ".join(f"the word {number} and" for number in range(200))
    changed = prose.replace("word 120 ", "word none ")
    assert [words for words, differs in mark_words(changed, prose) if differs] == ["none"]


def test_folders_of_a_key() -> None:
    """Each with its prefix, also folders without a name."""
    assert list_folders(HANDBOOK[3]) == [("handbook", "handbook/"), ("travel", "handbook/travel/")]
    assert list_folders("a//b") == [("a", "a/"), ("", "a//")]
    assert list_folders("readme.md") == []
    assert list_folders("a/b/") == [("a", "a/"), ("b", "a/b/")]
