"""Every reader ends, in bounded memory, with text or a known error, whatever a valid file was turned into.

A case that fails is made again by ``support.reader_fuzz.make_case(target, number, base)``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.pipeline.parsing.process.pool import close_parsers, run_parse
from support.mutations import TOKENS, Mutator
from support.reader_fuzz import SUFFIXES, find_seeds, run_cases

CASES, NIGHTLY_CASES = 2_000 // len(SUFFIXES), 100_000 // len(SUFFIXES)
BATCH = 25
"""Cases that one call reads; they take about half a second."""
LIMIT_S = 120.0
"""Seconds after which a batch is killed: a hundred times what it takes, so that a slow machine fails no test."""


@pytest.fixture(autouse=True, scope="module")
def _ends_its_processes() -> Iterator[None]:
    yield
    close_parsers()


def read(target: str, count: int, base: str, folder: Path) -> list[str]:
    """Read the first cases of a target in parser processes; return what is wrong."""
    marker, faults = folder / "case", []
    for first in range(0, count, BATCH):
        call = run_parse(run_cases, target, first, min(BATCH, count - first), base, str(marker), timeout_s=LIMIT_S)
        try:
            faults += asyncio.run(call)
        except IngestionError as error:
            faults.append(f"case {target}/{marker.read_text()} of {base!r}: {error.message}")
    return faults


@pytest.mark.parametrize("target", SUFFIXES)
def test_mutated_files(target: str, tmp_path: Path) -> None:
    """The same cases everywhere."""
    assert read(target, CASES, "", tmp_path) == []


@pytest.mark.nightly
@pytest.mark.parametrize("target", SUFFIXES)
def test_many_mutated_files(target: str, tmp_path: Path) -> None:
    """New ones every night."""
    assert read(target, NIGHTLY_CASES, secrets.token_hex(4), tmp_path) == []


@pytest.mark.parametrize("target", SUFFIXES)
def test_mutations_are_repeatable_bounded_and_of_many_kinds(target: str) -> None:
    """A number names a case; few cases are files as they were."""
    mutator = Mutator(TOKENS[target], find_seeds(target))
    made = [mutator.make(number) for number in range(24)]
    assert made == [mutator.make(number) for number in range(24)]
    assert len(set(made)) > 16
    assert sum(body in mutator.seeds for body in made) < 5
    assert all(len(body) < 2**20 for body in made), "members of an archive may be stored without compression"
