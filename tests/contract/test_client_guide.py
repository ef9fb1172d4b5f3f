"""The examples of docs/python-client.md run, in order, against the real service; its table has every method."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.client.methods import Iteration, Method
from ingestion_engine.client.routes import Routes
from ingestion_engine.state.ledger import Ledger
from support.control import World, make_collection
from support.live_service import LiveService

PAGE = Path(__file__).parents[2] / "docs" / "python-client.md"
URL = "http://127.0.0.1:8080"
"""The service's URL in the examples."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveService]:
    """A service with a collection, whose jobs fail at two objects of ten."""
    world = World(tmp_path)
    make_collection(world, "handbook", bucket="docs", query_prefix="")
    submit = world.engine.submit

    async def submit_and_finish(job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        await submit(job_id, attempt, spec_uri, parallelism)
        failures = [{"key": f"handbook/{n}.pdf", "code": "parse_failed", "reason": "It is damaged."} for n in range(2)]
        ledger = Ledger(world.state, job_id)
        ledger.write_failures("a01-00000", failures)
        ledger.write_log(1, "a line of the driver\n")
        counts = {"listed": 10, "planned": 10, "done": 8, "failed": 2, "failures.parse_failed": 2}
        world.engine.finish(job_id, state="partially_succeeded", counts=counts)

    world.engine.submit = submit_and_finish  # type: ignore[method-assign]
    with LiveService(world) as service:
        yield service


def examples() -> Iterator[tuple[int, str]]:
    """Yield the line and the code of each example."""
    text = PAGE.read_text(encoding="utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)) + 1, match[1]


def test_the_examples_run(
    service: LiveService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as a reader would try them, and show what the text says."""
    for name in ("INGEST_API_URL", "INGEST_API_KEY", "INGEST_TLS__CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ingestion_engine.client.routes.LOG_POLL_S", 0.01)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[str] = []
    for line, code in examples():
        source = "\n" * (line - 1) + code.replace(URL, service.url)
        exec(compile(source, str(PAGE), "exec"), names)
        shown.append(capsys.readouterr().out)
    submitted, watched, failures, found, lists, concurrent, refused, *_ = shown
    assert submitted == "partially_succeeded 8 objects done\n"
    assert "partially_succeeded" in watched
    assert "a line of the driver" in watched
    assert failures.startswith("{'parse_failed': 2}\nhandbook/0.pdf It is damaged.")
    assert failures.endswith("Counter({'parse_failed': 2})\n")
    assert "qdrant 0.txt" in found
    assert "weaviate 0.txt" in found
    assert "handbook {'parse_failed': 2}" in lists
    assert names["names"] == ["handbook"]
    assert concurrent.count("PARTIALLY_SUCCEEDED") == 3
    assert "422 validation_error collection" in refused
    assert len(shown) >= 9


def test_the_table_has_every_method() -> None:
    """In the order of the source."""
    table = PAGE.read_text(encoding="utf-8").split("## Methods")[1]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert named == [name for name, found in vars(Routes).items() if isinstance(found, Method | Iteration)]


def test_the_examples_are_checked_by_mypy(tmp_path: Path) -> None:
    """A reader's editor finds no fault in them."""
    from mypy import api

    program = tmp_path / "examples.py"
    program.write_text("\n".join(code for _, code in examples()))
    cache = Path(__file__).parents[2] / ".mypy_cache"
    assert api.run(["--strict", "--no-error-summary", "--cache-dir", str(cache), str(program)]) == ("", "", 0)
