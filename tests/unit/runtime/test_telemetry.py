"""Log lines: their form, the fields of process, task and thread, and characters that must not reach a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from ingestion_engine.runtime.telemetry import (
    TextFormatter,
    configure_logging,
    context_without_fields,
    get_logger,
    log_fields,
    make_readable,
    set_process_fields,
)

log = get_logger("ingestion_engine.pipeline.x")
HOSTILE = "a\x1b[31mred\x00\x9b2J\u202etxt\u2028\udcffend"


@contextlib.contextmanager
def written(*, as_json: bool, names_job: bool = True) -> Iterator[io.StringIO]:
    """Collect what this process logs meanwhile."""
    root, ours = logging.getLogger(), logging.getLogger("ingestion_engine")
    before = root.handlers[:], root.level, ours.level
    stream = io.StringIO()
    try:
        configure_logging("info", json=as_json, stream=stream, names_job=names_job)
        yield stream
    finally:
        set_process_fields()
        logging.captureWarnings(False)
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(before[2])


@pytest.mark.parametrize("as_json", [True, False])
def test_no_control_character_reaches_a_log(as_json: bool) -> None:
    """Not from a message, a field or an exception: ESC would move the cursor of who reads the log; and it is UTF-8."""
    with written(as_json=as_json) as stream:
        log.warning(HOSTILE, extra={"key": HOSTILE})
        logging.getLogger("botocore").warning("line\nforged")
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
    text = stream.getvalue()
    assert all(char.isprintable() or char == "\n" for char in text)
    text.encode("utf-8")
    assert "\\u001b[31mred\\u0000" in text
    assert not any(line.startswith("forged") for line in text.splitlines())
    if as_json:
        events = [json.loads(line) for line in text.splitlines()]
        assert len(events) == 3
        assert events[0]["event"] == events[0]["key"] == HOSTILE
        assert "ValueError" in events[2]["exception"]


@pytest.mark.parametrize("as_json", [True, False])
async def test_lines_of_tasks_threads_and_libraries_name_what_is_worked_on(as_json: bool) -> None:
    """Partitions of one process that run at the same time are told apart; a shared task names none of them."""

    async def outlive() -> None:
        log.info("shared")

    async def work(name: str) -> None:
        with log_fields(partition_id=name):
            await asyncio.sleep(0)
            log.info("in task")
            await asyncio.to_thread(logging.getLogger("botocore.retries").warning, "in thread")
            await asyncio.create_task(outlive(), context=context_without_fields())

    with written(as_json=as_json) as stream:
        set_process_fields(job_id="job-a", attempt=2)
        await asyncio.gather(work("p-1"), work("p-2"))
        log.info("after", extra={"job_id": "job-b"})
    lines = stream.getvalue().splitlines()
    if as_json:
        events = [json.loads(line) for line in lines]
        for name in ("in task", "in thread"):
            assert sorted(event["partition_id"] for event in events if event["event"] == name) == ["p-1", "p-2"]
        assert all("partition_id" not in event for event in events if event["event"] in ("shared", "after"))
        assert all((event["job_id"], event["attempt"]) == ("job-a", 2) for event in events[:-1])
        assert events[-1]["job_id"] == "job-b"
    else:
        assert sum("in thread job_id=job-a attempt=2 partition_id=p-1" in line for line in lines) == 1
        assert lines[-1].endswith("after attempt=2 job_id=job-b")


def test_a_field_hides_neither_time_nor_event() -> None:
    """A field called ``level`` or ``event`` keeps its value under another name."""
    with written(as_json=True) as stream:
        log.info("ended", extra={"level": 3, "event": "x", "time": "never"})
    event = json.loads(stream.getvalue())
    assert (event["level"], event["event"], event["level_"], event["event_"]) == ("info", "ended", 3, "x")
    assert event["time"] != "never"


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {("a", 1): 2}])
def test_a_value_that_json_lacks_loses_no_event(value: object) -> None:
    """``NaN`` is no JSON for collectors of logs, and a key that is no text would raise."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    with written(as_json=True) as stream:
        get_logger("x").info("measured", extra={"value": value, "parts": 3})
    event = json.loads(stream.getvalue(), parse_constant=refuse)
    assert (event["event"], event["value"], event["parts"]) == ("measured", str(value), 3)


def test_warnings_of_python_are_events() -> None:
    """They were lines of their own form on standard error."""
    with written(as_json=True) as stream:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "old" in json.loads(stream.getvalue())["event"]


def test_a_log_as_json_is_shown_as_the_kept_tail_shows_it() -> None:
    """So that `ingest logs --follow` finds its place in either copy; other lines stay as they are."""
    with written(as_json=True) as stream:
        tail = logging.StreamHandler(kept := io.StringIO())
        tail.setFormatter(TextFormatter(names_job=False))
        logging.getLogger().addHandler(tail)
        set_process_fields(job_id="job-a", attempt=1)
        log.info("job ended", extra={"note": 'two "words"', "counts": {"done": 1}, "rate": 0.5, "none": None})
        log.warning(HOSTILE, extra={"attempt": 1})
        try:
            raise ValueError("why\nso")
        except ValueError:
            log.exception("failed")
    assert make_readable(stream.getvalue()) == kept.getvalue()
    assert "job-a" not in kept.getvalue()
    plain = 'Traceback (most recent call last):\n{"time": "cut\n{"other": 1}\n'
    assert make_readable(plain) == plain
