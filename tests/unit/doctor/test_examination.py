"""How checks are run: at the same time, in order, bounded in time, and each for itself."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterator

import pytest

from ingestion_engine.doctor.context import Context, Role
from ingestion_engine.doctor.examination import CHECKS, Check, Run, examine
from ingestion_engine.doctor.findings import Finding, fail, ok
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.runtime.settings import Settings

MODULE = "scripted_checks"


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module of the package whose functions a test defines."""
    name = f"ingestion_engine.doctor.{MODULE}"
    found = sys.modules[name] = types.ModuleType(name)
    yield found
    del sys.modules[name]


def make(module: types.ModuleType, name: str, run: Run, **fields: object) -> Check:
    setattr(module, name, run)
    given = {"roles": frozenset(Role), "about": name, "hint": f"Check {name}.", **fields}
    return Check(name=name, module=MODULE, function=name, **given)  # type: ignore[arg-type]  # a test's own values


async def collect(checks: list[Check], context: Context | None = None, only: tuple[str, ...] = ()) -> list[Finding]:
    return [one async for one in examine(context or Context(settings=Settings()), checks=checks, only=only)]


async def test_checks_run_together_and_are_shown_in_order(module: types.ModuleType) -> None:
    """A check that waits for a later one ends; its result comes first all the same."""
    reached = asyncio.Event()

    async def first(_: Context) -> list[Finding]:
        await reached.wait()
        return [ok("one"), ok("two")]

    async def second(_: Context) -> list[Finding]:
        reached.set()
        return [ok("three")]

    found = await collect([make(module, "first", first), make(module, "second", second)])
    assert [(one.name, one.detail) for one in found] == [("first", "one"), ("first", "two"), ("second", "three")]


async def test_failures_of_one_check_are_its_results(module: types.ModuleType) -> None:
    """A time-out, an error of ours, a missing package and a defect end no other check, and each has a hint."""

    async def hang(_: Context) -> list[Finding]:
        await asyncio.Event().wait()
        raise AssertionError

    async def refuse(_: Context) -> list[Finding]:
        raise TransientError("qdrant_unavailable", "Qdrant refuses connections.")

    async def lack(_: Context) -> list[Finding]:
        raise ModuleNotFoundError(name="asyncpg")

    async def break_down(_: Context) -> list[Finding]:
        raise ZeroDivisionError("token-word")

    async def work(_: Context) -> list[Finding]:
        return [ok("fine")]

    checks = [
        make(module, "hang", hang),
        make(module, "refuse", refuse),
        make(module, "lack", lack, extra="postgres"),
        make(module, "break_down", break_down),
        make(module, "work", work),
    ]
    settings = Settings(ray={"auth_token": "token-word"})
    found = await collect(checks, Context(settings=settings, time_limit_s=0.05))
    assert [(one.code, one.hint) for one in found] == [
        ("check_timeout", "Check hang."),
        ("qdrant_unavailable", "Check refuse."),
        ("not_installed", "Run: pip install 'ingestion-engine[postgres]'"),
        ("unexpected_error", "Check break_down."),
        (None, ""),
    ]
    assert found[3].detail == "The check failed: ZeroDivisionError: ***"


async def test_a_check_that_needs_a_broken_one_is_skipped(module: types.ModuleType) -> None:
    """Its own failure would only repeat the other one; a check that decides itself is told."""
    seen: list[bool] = []

    async def broken(_: Context) -> list[Finding]:
        return [fail("down", "Start it.")]

    async def never(_: Context) -> list[Finding]:
        raise AssertionError

    async def decide(context: Context) -> list[Finding]:
        seen.append(context.has_failed("broken"))
        return [ok("fine")]

    checks = [
        make(module, "broken", broken),
        make(module, "later", never, after=("broken",)),
        make(module, "own", decide, after=("broken",), despite=True),
    ]
    found = await collect(checks)
    assert [(one.name, str(one.state)) for one in found] == [("broken", "failed"), ("later", "skipped"), ("own", "ok")]
    assert found[1].detail == "because 'broken' is not ok"
    assert seen == [True]


async def test_only_names_choose_checks_of_any_role(module: types.ModuleType) -> None:
    """What a check waits for is not made for its sake."""

    async def work(context: Context) -> list[Finding]:
        return [ok(f"after {len(context.former)}")]

    checks = [
        make(module, "one", work, roles=frozenset({Role.WORKER})),
        make(module, "two", work, roles=frozenset({Role.WORKER}), after=("one",)),
    ]
    assert await collect(checks) == []
    assert [(one.name, one.detail) for one in await collect(checks, only=("two",))] == [("two", "after 0")]


@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
def test_every_check_can_be_loaded(check: Check) -> None:
    """The table names functions that exist, and checks that come before."""
    assert callable(check.load())
    names = [one.name for one in CHECKS]
    assert all(names.index(name) < names.index(check.name) for name in check.after)
    assert check.hint.split()[0].istitle()


def test_a_worker_checks_without_the_packages_of_the_service() -> None:
    """None of its checks imports a database driver, Alembic or the client of Kubernetes."""
    import subprocess

    code = (
        "import sys; from ingestion_engine.doctor.context import Role\n"
        "from ingestion_engine.doctor.examination import CHECKS\n"
        "[check.load() for check in CHECKS if Role.WORKER in check.roles]\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"sqlalchemy", "alembic", "kubernetes", "fastapi", "uvicorn"}.isdisjoint(loaded)


def test_roles_have_what_they_need() -> None:
    """A worker reaches no database and no cluster; a gateway no store."""
    names = {role: {check.name for check in CHECKS if role in check.roles} for role in Role}
    assert names[Role.WORKER].isdisjoint({"database", "ray", "kubernetes", "spark", "api-keys"})
    assert {"parsers", "ocr", "s3", "state", "ollama", "gateway", "qdrant", "weaviate", "temp"} <= names[Role.WORKER]
    assert names[Role.GATEWAY] == {"settings", "runtime", "tls", "ollama", "gateway"}
