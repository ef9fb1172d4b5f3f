"""Errors for optional dependencies that are not installed: a sentence with the command to run, not a traceback."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Final

DEVSTACK_HINT = (
    "In a checkout, run `make setup`, or install it with: pip install . ./src/ingestion_devstack. "
    "To use your own systems instead, run `ingest serve`."
)


WORKER_MODULES: Final = (
    "aiohttp",
    "botocore",
    "numpy",
    "obstore",
    "pyarrow",
    "pypdfium2",
    "semantic_text_splitter",
    "simdjson",
    "weaviate",
    "webencodings",
)
"""Modules of the extra ``worker``, which a job imports when it first uses them."""


class NotInstalled(Exception):
    """A command requires packages that are not installed.

    Args:
        message: Names the command and the missing module.
        hint: How to install it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@contextlib.contextmanager
def requires_extra(extra: str, purpose: str) -> Iterator[None]:
    """Raise NotInstalled where a third-party module of an extra cannot be imported.

    For imports only: a module that is missing while a command runs is a failure of what the command does.

    Args:
        extra: Extra of the distribution ``ingestion-engine``.
        purpose: Subject of the error message, for example a command.
    """
    with _translate(f"{purpose} requires the extra {extra!r}", f"Run: pip install 'ingestion-engine[{extra}]'"):
        yield


def require_worker(purpose: str) -> None:
    """Return when the modules of the extra ``worker`` are installed; imports none. Raises NotInstalled."""
    for name in WORKER_MODULES:
        if importlib.util.find_spec(name) is None:
            with requires_extra("worker", purpose):
                raise ModuleNotFoundError(name=name)


@contextlib.contextmanager
def requires_devstack(command: str) -> Iterator[None]:
    """Raise NotInstalled where the distribution ``ingestion-devstack`` or one of its dependencies is missing."""
    with _translate(f"`{command}` requires the embedded stack (distribution 'ingestion-devstack')", DEVSTACK_HINT):
        yield


@contextlib.contextmanager
def _translate(message: str, hint: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.partition(".")[0] == "ingestion_engine":
            raise  # a defect of this distribution
        raise NotInstalled(f"{message}: module {name!r} is not installed.", hint) from error
