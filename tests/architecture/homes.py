"""An import-linter contract: every third-party package has its homes, and is imported directly nowhere else."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

_ROOTS = ("ingestion_engine", "ingestion_devstack")


class HomesContract(Contract):
    """``homes`` lists ``package: pattern, pattern``; a pattern is a glob over module names, those of the
    product without their root package.

    Broken by an import outside the homes, and by a third-party package that the list does not name at all.
    """

    type_name = "homes"
    homes = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Compare every direct import of a third-party package with the list."""
        homes = dict(_parse(line) for line in self.homes)  # type: ignore[attr-defined]
        faults = [
            f"{importer} imports {package} ({', '.join(homes[package])} may)"
            if package in homes
            else f"{importer} imports {package}, which has no home in pyproject.toml"
            for package in sorted(_third_party(graph))
            for importer in sorted(graph.find_modules_that_directly_import(package))
            if not _is_home(importer, homes.get(package, ()))
        ]
        return ContractCheck(kept=not faults, metadata={"faults": faults})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line per fault."""
        for fault in check.metadata["faults"]:
            output.print_error(fault)


def _parse(line: str) -> tuple[str, tuple[str, ...]]:
    package, _, patterns = line.partition(":")
    return package.strip(), tuple(pattern.strip() for pattern in patterns.split(","))


def _third_party(graph: ImportGraph) -> Iterator[str]:
    for module in graph.modules:
        top = module.partition(".")[0]
        if top not in _ROOTS and top not in sys.stdlib_module_names:
            yield module


def _is_home(importer: str, patterns: tuple[str, ...]) -> bool:
    name = importer.removeprefix("ingestion_engine.")
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
