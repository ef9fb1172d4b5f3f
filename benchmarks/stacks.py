"""An embedded stack for one benchmark, in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ingestion_devstack.stack.stack import Stack
from ingestion_engine.runtime.settings import PREFIX, Settings

MODEL = "hash-384"
"""Test model of the Ollama stand-in: its vectors cost nothing, so that the model is not measured."""


@contextlib.contextmanager
def open_stack(systems: Collection[str], *, with_api: bool, **settings: Any) -> Iterator[Stack]:
    """Run these systems on loopback while the context lasts.

    Raises:
        SystemExit: A system is configured in the environment; a benchmark must not write to existing servers.
    """
    for name in os.environ:
        if name.startswith(PREFIX):
            raise SystemExit(f"unset {name}: benchmarks start their own stack")
    with (
        tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder,
        Stack(
            Settings(data_dir=Path(folder), **settings),
            only=systems,
            with_api=with_api,
            ollama_arguments=("--test-models",),
        ) as stack,
    ):
        yield stack
