"""Positions in a log of which only the end is kept: no line is lost or shown twice."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.services.log_position import LogPosition, read_after


def line(number: int, text: str = "INFO    driver progress") -> str:
    return f"2026-01-31T12:00:{number:02}.000Z {text}\n"


def test_each_line_is_read_once() -> None:
    """Whatever the steps in which it grows; a line that is being written is left for later."""
    whole = "Ray says hello\n" + "".join(line(n) + "  a traceback\n" * (n % 3) for n in range(20)) + "no end"
    position, found = LogPosition(1), ""
    for end in range(0, len(whole) + 1, 7):
        added, position = read_after(whole[:end], position, is_final=False)
        position = LogPosition.parse(str(position))
        found += added
    added, position = read_after(whole, position, is_final=True)
    assert found + added == whole + "\n"
    assert read_after(whole, position, is_final=True)[0] == ""


def test_the_beginning_may_be_cut_off_meanwhile() -> None:
    """Only the end is kept: what follows the last line is found in it."""
    _, position = read_after(line(1) + line(2) + "  more\n", LogPosition(1), is_final=False)
    assert read_after(line(2) + "  more\n" + line(3), position, is_final=False)[0] == line(3)


def test_a_line_that_is_gone_gives_everything() -> None:
    """When more was added than is kept, all that is kept follows."""
    _, position = read_after(line(1), LogPosition(1), is_final=False)
    assert read_after(line(7) + line(8), position, is_final=False)[0] == line(7) + line(8)


def test_the_copy_of_the_engine_continues_in_the_ledgers() -> None:
    """The engine's log has lines that the ledger's has not; a position is valid in both."""
    _, position = read_after("Ray: starting\n" + line(1) + line(2), LogPosition(2), is_final=False)
    assert read_after(line(1) + line(2) + line(3), position, is_final=False)[0] == line(3)


@pytest.mark.parametrize("text", ["x", "1", "1.2", "1.2.zz", "1.2." + "a" * 17, "-1.0."])
def test_a_position_of_somebody_else_is_refused(text: str) -> None:
    """422, with the field."""
    with pytest.raises(SubmissionError) as refused:
        LogPosition.parse(text)
    assert (refused.value.status, refused.value.field) == (422, "after")


def test_a_copy_of_the_log_that_is_behind_repeats_nothing() -> None:
    """While Ray does not respond, the ledger's copy is read, which lacks the last seconds; then Ray's again."""
    lines = [f"2026-01-01T00:00:0{number}.000Z INFO    line {number}\n" for number in range(5)]
    seen, position = read_after("Entrypoint.\n" + "".join(lines[:4]), LogPosition(1), is_final=False)
    assert seen.count("\n") == 5
    behind, position = read_after("".join(lines[:3]), LogPosition.parse(str(position)), is_final=False)
    assert behind == ""
    later, position = read_after("Entrypoint.\n" + "".join(lines), LogPosition.parse(str(position)), is_final=False)
    assert later == lines[4]
    dropped, _ = read_after(
        "".join(lines[2:]), LogPosition(1, 0, "0" * 16, time="2026-01-01T00:00:01.500Z"), is_final=False
    )
    assert dropped == "".join(lines[2:])
