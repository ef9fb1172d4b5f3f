"""Both clients have the same methods, and every route has one."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.client import AsyncIngestClient, IngestClient
from ingestion_engine.client.methods import Iteration, Method
from ingestion_engine.client.routes import Routes
from ingestion_engine.server.app import create_app
from support.control import World

DESCRIBED = {name: found for name, found in vars(Routes).items() if isinstance(found, Method | Iteration)}
WITHOUT_METHOD = frozenset[str]()
"""Operations that programs do not call."""


def public(client: type) -> dict[str, Any]:
    return {name: found for name, found in inspect.getmembers(client, callable) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_and_signatures() -> None:
    """But for what they are awaited for; ``close`` of one is ``aclose`` of the other."""
    blocking, asynchronous = public(IngestClient), public(AsyncIngestClient)
    assert set(blocking) - {"close"} == set(asynchronous) - {"aclose"} == set(DESCRIBED)
    for name, described in DESCRIBED.items():
        left, right = inspect.signature(blocking[name]), inspect.signature(asynchronous[name])
        assert left.parameters == right.parameters == inspect.signature(described.describe).parameters
        assert blocking[name].__doc__ == asynchronous[name].__doc__
        assert blocking[name].__doc__
        if isinstance(described, Method):
            assert left.return_annotation == right.return_annotation
            assert inspect.iscoroutinefunction(asynchronous[name])
            assert not inspect.iscoroutinefunction(blocking[name])
        else:
            assert f"Async{left.return_annotation}" == right.return_annotation
    left, right = inspect.signature(IngestClient), inspect.signature(AsyncIngestClient)
    assert [*left.parameters] == [*right.parameters]


def test_every_route_has_a_method(tmp_path: Path) -> None:
    """And every method names routes that exist."""
    world = World(tmp_path)
    paths = create_app(world.settings(), world.parts()).openapi()["paths"]
    served = {
        operation["operationId"]
        for methods in paths.values()
        for method, operation in methods.items()
        if method in {"get", "put", "post", "delete", "patch"}
    }
    called = {operation for described in DESCRIBED.values() for operation in described.operations}
    assert served - called == WITHOUT_METHOD
    assert called - served == set()


def test_every_parameter_of_a_route_has_one_of_its_method(tmp_path: Path) -> None:
    """Filters that the service adds reach the client; pages and positions are its own business."""
    world = World(tmp_path)
    paths = create_app(world.settings(), world.parts()).openapi()["paths"]
    renamed = {
        "state": {"state", "states"},
        "all": {"everything"},
        "code": {"codes"},
        "job": {"job_id"},
        "after": {"self"},
        "cursor": {"self"},
        "limit": {"self"},
    }
    for methods in paths.values():
        for operation in methods.values():
            names = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
            known = {
                name
                for described in DESCRIBED.values()
                if operation["operationId"] in described.operations
                for name in inspect.signature(described.describe).parameters
            }
            missing = {name for name in names if not renamed.get(name, {name}) & known}
            assert not missing, operation["operationId"]


def test_the_client_imports_little() -> None:
    """httpx, pydantic and orjson; nothing of the service, and no event loop for programs that block."""
    code = "import sys, ingestion_engine.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"asyncio", "fastapi", "starlette", "uvicorn", "sqlalchemy", "numpy", "typer", "aiohttp", "jinja2", "jwt"}
    assert heavy.isdisjoint(loaded)
    ours = {name.split(".")[1] for name in loaded if name.startswith("ingestion_engine.")}
    assert ours == {"client", "domain", "models", "runtime"}


SAMPLE = """
from typing import assert_type
from collections.abc import AsyncGenerator, Generator
from ingestion_engine.client import AsyncIngestClient, IngestClient, JobRequest, JobState, Source
from ingestion_engine.models.jobs import JobAccepted, JobView

client, other = IngestClient("http://s"), AsyncIngestClient("http://s")
assert_type(client.submit(JobRequest(source=Source(bucket="docs"), collection="a"), engine="spark"), JobAccepted)
assert_type(client.get_job("a").state, JobState)
async def program() -> None:
    assert_type(await other.get_job("a"), JobView)
assert_type(client.watch("a"), Generator[JobView, None, None])
assert_type(other.watch("a", patience_s=1), AsyncGenerator[JobView, None])
client.get_job(3)  # type: ignore[arg-type]
client.submit({}, nope=1)  # type: ignore[call-arg]
client.wait("a").stat  # type: ignore[attr-defined]
"""


def test_programs_are_checked_by_mypy(tmp_path: Path) -> None:
    """Results have their models, and wrong arguments are found, although the methods are made at run time."""
    from mypy import api

    program = tmp_path / "program.py"
    program.write_text(SAMPLE)
    options = ["--strict", "--no-error-summary", "--cache-dir", str(Path(__file__).parents[3] / ".mypy_cache")]
    shown, failed, code = api.run([*options, str(program)])
    assert (shown, failed, code) == ("", "", 0)


@pytest.mark.parametrize("client", [IngestClient, AsyncIngestClient])
def test_subclasses_can_replace_methods(client: type) -> None:
    """As tests of programs do."""

    class Own(client):  # type: ignore[misc]  # a parameter
        def get_job(self, job_id: str) -> str:
            return job_id

    assert Own("http://service").get_job("a") == "a"
