"""Optional dependencies: what is missing is named before a command runs, and only then."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NoReturn

import pytest

from ingestion_devstack.stack import up
from ingestion_engine.cli import app as command
from ingestion_engine.cli.extras import WORKER_MODULES
from ingestion_engine.cli.output import ExitCode, run_app
from ingestion_engine.driver import entry, run

PARTITION = ["worker", "partition", "--spec", "file:///x/jobs/j/spec.json", "--id", "p"]
DRIVER = ["worker", "driver", "--spec", "file:///x/jobs/j/spec.json"]


def miss(*_: object, **__: object) -> NoReturn:
    """A third-party module that a job needs at some moment is not there."""
    raise ModuleNotFoundError("No module named 'left_pad'", name="left_pad")


@pytest.mark.parametrize("arguments", [PARTITION, DRIVER, ["worker", "run", "FILE"], ["up"]])
def test_a_module_that_is_missing_in_the_middle_is_a_failure_of_the_work(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no usage error with the advice to install an extra; a crash has a traceback."""
    monkeypatch.setenv("INGEST_STATE_URL", f"file://{tmp_path / 'state'}")
    file = tmp_path / "request.json"
    file.write_text('{"source": {"bucket": "docs"}, "collection": "c"}', encoding="utf-8")
    for module, name in ((run, "run_partition"), (run, "run_driver"), (entry, "main"), (up, "run_up")):
        monkeypatch.setattr(module, name, miss)
    with pytest.raises(ModuleNotFoundError):
        run_app(command, [str(file) if argument == "FILE" else argument for argument in arguments])


@pytest.mark.parametrize("arguments", [PARTITION, DRIVER, ["worker", "run", "-"]])
def test_an_extra_that_is_missing_is_named_before_the_work(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parsers are imported when the first document of their format comes, so the command looks for them first."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pypdfium2" else find_spec(name))
    assert run_app(command, arguments) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "'pypdfium2' is not installed" in said
    assert "ingestion-engine[worker]" in said


def test_every_module_of_the_extra_is_there() -> None:
    """The names are those of modules, not of distributions."""
    assert all(importlib.util.find_spec(name) for name in WORKER_MODULES)
