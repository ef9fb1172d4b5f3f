"""Reports: results of a benchmark as Markdown for people and JSON for programs, under ``benchmarks/reports``.

Every report names machine, commit, versions and settings. It contains no host names and no paths.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "reports"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Limit of a measured number: ``measured`` must be at most ``limit``, or at least ``limit`` where ``at_least``."""

    name: str
    limit: float
    measured: float
    unit: str
    """Unit of both numbers; empty for a ratio."""
    at_least: bool = False

    @property
    def kept(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        measured, limit = (
            f"{number:.3f}" if not self.unit else f"{number:,.{digits}f} {self.unit}"
            for number, digits in ((self.measured, 1), (self.limit, 0 if self.limit >= 5 else 1))
        )
        bound = "at least" if self.at_least else "at most"
        return f"- {self.name}: {measured} of {bound} {limit}: {'kept' if self.kept else '**missed**'}"


def describe_machine() -> dict[str, Any]:
    """Return cores, memory, processor and load of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 1),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0].strip() if names else platform.machine()


def describe_commit() -> str:
    """Return the commit that is checked out, and whether the product's code differs from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "../src", ".", ":!reports")
        return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the given distributions."""
    return {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def parse_options(parser: argparse.ArgumentParser, quick: Mapping[str, Any]) -> argparse.Namespace:
    """Parse the command line after adding ``--runs`` and ``--quick`` (also ``BENCH_QUICK=1``).

    Args:
        parser: Parser with the benchmark's own options.
        quick: Values of options that are not given, in a quick run.
    """
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, about a minute; prints the report without storing it"
    )
    options = parser.parse_args()
    options.quick |= os.environ.get("BENCH_QUICK", "0") not in ("", "0")
    if options.quick:
        for name, value in {"runs": 1, **quick}.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    return options


def repeat_command(script: str) -> str:
    """Return the command line of this run; absolute paths are shortened to their last part."""
    shown = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])


def median_of(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each field."""
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


@dataclass(slots=True)
class Report:
    """One benchmark's report.

    Args:
        case: File name of the report, without suffix.
        title: Heading of the report.
        command: Command that reproduces it.
        about: What was measured and how, in a few sentences.
        packages: Distributions whose versions are recorded.
        settings: Options of this run.
        quick: True for a run that only checks the benchmark: its report is printed, not stored.
    """

    case: str
    title: str
    command: str
    about: str
    packages: Sequence[str]
    settings: Mapping[str, Any]
    quick: bool = False
    targets: list[Target] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    """Recorded when the report is created: the load is that before the benchmark."""

    def add_table(self, heads: Sequence[str], rows: Sequence[Sequence[object]], *, note: str = "") -> None:
        """Add a Markdown table; the first column is text, the others are numbers."""
        lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
        lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
        self.tables.append("\n".join([*([note, ""] if note else []), *lines]))

    def write(self) -> None:
        """Write both files and print the Markdown."""
        commit, versions = describe_commit(), describe_versions(self.packages)
        load_after = round(os.getloadavg()[0], 1)
        facts = {
            "case": self.case,
            "finished_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "command": self.command,
            "machine": {**self.machine, "load_after": load_after},
            "commit": commit,
            "versions": versions,
            "settings": dict(self.settings),
            "targets": [
                {
                    "name": t.name,
                    "limit": t.limit,
                    "measured": round(t.measured, 3),
                    "unit": t.unit,
                    "at_least": t.at_least,
                    "kept": t.kept,
                }
                for t in self.targets
            ],
            **self.data,
        }
        machine = self.machine
        targets = "\n".join(map(str, self.targets))
        text = (
            f"# {self.title}\n\n{self.about}\n\n`{self.command}` at commit {commit}, {facts['finished_at']}. "
            f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB; load {machine['load_before']} "
            f"before, {load_after} after. "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + ". Settings: "
            + ", ".join(f"{name} {value}" for name, value in self.settings.items())
            + ".\n\n"
            + (f"{targets}\n\n" if targets else "")
            + "\n\n".join(self.tables)
            + "\n"
        )
        print(text)
        if self.quick:
            return
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / f"{self.case}.md").write_text(text, encoding="utf-8")
        (REPORTS / f"{self.case}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
