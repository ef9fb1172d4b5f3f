"""Parser processes: whatever a parser does, it costs its object alone, and its worker goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_engine.domain.errors import ObjectError, ParserDied, TransientError
from ingestion_engine.pipeline.parsing.process import pool
from ingestion_engine.pipeline.parsing.process.pool import close_parsers, run_parse, warm_parsers
from ingestion_engine.pipeline.spool import SpooledBody
from support import parsers
from support.waiting import wait_for

LONG_S = 60.0


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of one test serves another, and no call waits long enough to start a second one by chance."""
    monkeypatch.setattr(pool, "GROW_AFTER_S", LONG_S)
    close_parsers()
    yield
    close_parsers()


async def test_a_call_returns_what_its_function_returns() -> None:
    """Also much of it, and one process serves many calls."""
    assert await run_parse(parsers.answer, {"text": "x" * 5_000_000}, timeout_s=LONG_S) == {"text": "x" * 5_000_000}
    ids = {await run_parse(parsers.process_id, timeout_s=LONG_S) for _ in range(3)}
    assert len(ids) == 1
    assert ids != {os.getpid()}


async def test_a_second_process_starts_when_the_first_is_busy_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes on while parsers work; an object behind a slow one does not wait for it."""
    monkeypatch.setattr(pool, "GROW_AFTER_S", 0.0)
    begun, go = tmp_path / "begun", tmp_path / "go"
    slow = asyncio.create_task(run_parse(parsers.wait_for_file, str(begun), str(go), timeout_s=LONG_S))
    await asyncio.to_thread(wait_for, begun.exists, 20)
    other = await run_parse(parsers.process_id, timeout_s=LONG_S)
    assert not slow.done()
    go.touch()
    assert await slow != other


async def test_short_calls_share_a_process() -> None:
    """Two that come together do not start two processes."""
    assert len(set(await asyncio.gather(*(run_parse(parsers.process_id, timeout_s=LONG_S) for _ in range(6))))) == 1


async def test_a_parser_that_never_ends_is_killed_at_its_limit() -> None:
    """Also one that lets no other thread run; five of them neither stop the process nor the objects after them."""
    await run_parse(parsers.answer, 0, timeout_s=LONG_S)  # the start of a process is not part of the limit
    for _ in range(5):
        with pytest.raises(ObjectError) as caught:
            await run_parse(parsers.hang_with_the_interpreter_lock, timeout_s=0.2)
        assert caught.value.code == "parse_timeout"
    assert await run_parse(parsers.answer, "innocent", timeout_s=LONG_S) == "innocent"


async def test_a_parser_that_crashes_fails_its_object_alone() -> None:
    """The worker lives, and names how the parser ended; the object is tried again by later jobs."""
    with pytest.raises(ParserDied, match=r"ended its parser process 2 times \(signal 11\)") as caught:
        await run_parse(parsers.crash, timeout_s=LONG_S)
    assert (caught.value.code, caught.value.retryable) == ("parser_died", True)
    assert await run_parse(parsers.answer, "innocent", timeout_s=LONG_S) == "innocent"


async def test_a_parser_that_was_killed_once_is_no_fault_of_its_object(tmp_path: Path) -> None:
    """The memory of an earlier object, or of a neighbour, may have been the reason."""
    assert await run_parse(parsers.crash_once, str(tmp_path / "crashed"), timeout_s=LONG_S) == "survived"


async def test_parsers_that_were_killed_while_idle_are_no_fault_of_the_next_object() -> None:
    """A machine short of memory ends processes that have nothing to do; the object finds as many dead ones as wait."""
    for _ in range(3):
        warm_parsers()
        pool._pool.idle += [pool._Process()]
    for process in pool._pool.idle:
        process.wait_ready()
        os.kill(process._process.pid, signal.SIGKILL)
    assert await run_parse(parsers.answer, "innocent", timeout_s=LONG_S) == "innocent"


async def test_an_object_that_needs_too_much_memory_fails() -> None:
    """Python's own error of a limited process fails the object, not the partition."""
    with pytest.raises(ObjectError, match="out of memory"):
        await run_parse(parsers.exhaust, timeout_s=LONG_S)


async def test_an_unexpected_error_is_told() -> None:
    """An exception that cannot be pickled arrives by its text."""
    with pytest.raises(RuntimeError, match="LocalError: a defect"):
        await run_parse(parsers.raise_unexpectedly, timeout_s=LONG_S)


async def test_a_process_that_has_grown_is_replaced() -> None:
    """Memory that one object needed is returned to the machine."""
    first = await run_parse(parsers.grow, pool.KEPT_BYTES * 3 // 2, timeout_s=LONG_S)
    assert await run_parse(parsers.process_id, timeout_s=LONG_S) != first


async def test_files_are_passed_without_copying_them() -> None:
    """A body in a temporary file is read by the other process, and its result comes back in a file."""
    body = SpooledBody()
    body.file.write(b"text " * 500_000)
    text = await run_parse(parsers.upper, body, timeout_s=LONG_S)
    assert "".join(text.pieces()) == "TEXT " * 500_000
    assert body.read(0, 9) == b"text text"


async def test_a_parse_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    """A partition that is put back leaves no parser behind that works for nobody."""
    first = await run_parse(parsers.process_id, timeout_s=LONG_S)
    begun = tmp_path / "begun"
    task = asyncio.create_task(run_parse(parsers.hang_with_the_interpreter_lock, str(begun), timeout_s=LONG_S))
    await asyncio.to_thread(wait_for, begun.exists, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_for, lambda: not is_alive(first), 20)


async def test_a_worker_that_cannot_start_a_process_puts_its_partition_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the machine's fault, not the object's."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TransientError) as caught:
        await run_parse(parsers.answer, 1, timeout_s=LONG_S)
    assert caught.value.code == "parser_unavailable"


async def test_a_process_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose imports fail."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TransientError, match="exit status 1") as caught:
        await run_parse(parsers.answer, 1, timeout_s=LONG_S)
    assert caught.value.code == "parser_unavailable"


async def test_a_parser_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads hostile documents knows no credentials."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("INGEST_QDRANT__API_KEY", "secret")
    assert await run_parse(parsers.secrets, timeout_s=LONG_S) == []


async def test_a_warmed_process_serves_the_first_call() -> None:
    """Its start is over, or under way, when the first document arrives."""
    warm_parsers()
    warm_parsers()
    assert len(pool._pool.idle) == 1
    warmed = pool._pool.idle[0]._process.pid
    assert await run_parse(parsers.process_id, timeout_s=LONG_S) == warmed


def test_a_parser_ends_with_its_worker(tmp_path: Path) -> None:
    """Also when the worker is killed while the parser is in a library that never returns."""
    begun = tmp_path / "begun"
    code = (
        "import asyncio\n"
        "from ingestion_engine.pipeline.parsing.process import pool\n"
        "from support import parsers\n"
        "async def main():\n"
        "    print(await pool.run_parse(parsers.process_id, timeout_s=60), flush=True)\n"
        f"    await pool.run_parse(parsers.hang_with_the_interpreter_lock, {str(begun)!r}, timeout_s=1)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        parser = int(worker.stdout.readline())
        wait_for(begun.exists, 20)
        worker.kill()
    wait_for(lambda: not is_alive(parser), 30)


def is_alive(process_id: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
