"""Lints a text exposition for Prometheus: the rules of its format, of its naming, and of bounded labels."""

from __future__ import annotations

import re
from collections import defaultdict

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"')
_OTHER_UNITS = ("milliseconds", "ms", "minutes", "hours", "days", "kilobytes", "megabytes", "kb", "mb", "percent")
"""Parts of names that are no base units."""
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")

MOST_SERIES = 200
"""Most series of one metric in a small installation; more come from a label without bounds."""


def lint(text: str, *, most_series: int = MOST_SERIES) -> list[str]:
    """Return the faults of an exposition, each as a sentence; empty when there is none."""
    faults: list[str] = []
    helps: dict[str, str] = {}
    types: dict[str, str] = {}
    samples: dict[str, list[tuple[str, dict[str, str], float]]] = defaultdict(list)
    order: list[str] = []
    if not text.endswith("\n"):
        faults.append("The last line has no end.")
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, kind, name, *rest = line.split(" ", 3)
            known = helps if kind == "HELP" else types
            if name in known:
                faults.append(f"{name} has two lines of {kind}.")
            if samples.get(name):
                faults.append(f"{name} has its {kind} after its samples.")
            known[name] = rest[0] if rest else ""
            continue
        if line.startswith("#") or not line:
            continue
        sample = _read(line)
        if sample is None:
            faults.append(f"This line is no sample: {line}")
            continue
        family = _find_family(sample[0], types)
        samples[family].append(sample)
        if not order or order[-1] != family:
            order.append(family)
    faults += [f"The samples of {name} are not together." for name in {n for n in order if order.count(n) > 1}]
    for family in {*helps, *types, *samples}:
        faults += _check_family(family, helps, types, samples=samples.get(family, []), most_series=most_series)
    return sorted(faults)


def _read(line: str) -> tuple[str, dict[str, str], float] | None:
    found = _SAMPLE.fullmatch(line)
    if found is None:
        return None
    labels = dict(_LABEL.findall(found[3] or ""))
    spelt = ",".join(f'{name}="{value}"' for name, value in labels.items())
    if spelt != (found[3] or "").rstrip(","):
        return None
    try:
        return found[1], labels, float(found[4])
    except ValueError:
        return None


def _find_family(name: str, types: dict[str, str]) -> str:
    for end in _OF_HISTOGRAMS:
        if name.endswith(end) and types.get(name.removesuffix(end)) in {"histogram", "summary"}:
            return name.removesuffix(end)
    return name


def _check_family(
    family: str,
    helps: dict[str, str],
    types: dict[str, str],
    *,
    samples: list[tuple[str, dict[str, str], float]],
    most_series: int,
) -> list[str]:
    kind = types.get(family)
    faults = []
    if not helps.get(family, "").strip():
        faults.append(f"{family} has no HELP.")
    if kind is None:
        return [*faults, f"{family} has no TYPE."]
    if not _NAME.fullmatch(family):
        faults.append(f"{family} is not in snake_case.")
    if (kind == "counter") is not family.endswith("_total"):
        faults.append(f"{family} is a {kind}; a counter, and nothing else, ends in _total.")
    if kind != "histogram" and family.endswith(_OF_HISTOGRAMS):
        faults.append(f"{family} ends like a part of a histogram.")
    faults += [f"{family} is not in base units ({unit})." for unit in _OTHER_UNITS if unit in family.split("_")]
    if kind in family.split("_"):
        faults.append(f"{family} repeats its type.")
    seen = [(name, tuple(sorted(labels.items()))) for name, labels, _ in samples]
    if len(seen) != len(set(seen)):
        faults.append(f"{family} has a sample twice.")
    if len({frozenset(labels) - {"le"} for _, labels, _ in samples}) > 1:
        faults.append(f"{family} has samples with different labels.")
    if len(samples) > most_series:
        faults.append(f"{family} has {len(samples)} series.")
    if kind == "counter" and any(value < 0 for _, _, value in samples):
        faults.append(f"{family} is negative.")
    if kind == "histogram":
        faults += _check_histogram(family, samples)
    return faults


def _check_histogram(family: str, samples: list[tuple[str, dict[str, str], float]]) -> list[str]:
    faults = []
    groups: dict[tuple[tuple[str, str], ...], dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for name, labels, value in samples:
        key = tuple(sorted((label, text) for label, text in labels.items() if label != "le"))
        groups[key][name.removeprefix(family)].append((float(labels.get("le", "nan")), value))
    for parts in groups.values():
        buckets = parts["_bucket"]
        bounds, counts = [bound for bound, _ in buckets], [count for _, count in buckets]
        if bounds != sorted(bounds) or len(bounds) != len(set(bounds)) or not bounds or bounds[-1] != float("inf"):
            faults.append(f"{family} has buckets that are not sorted up to +Inf.")
        if counts != sorted(counts):
            faults.append(f"{family} has buckets that are not cumulative.")
        if len(parts["_sum"]) != 1 or len(parts["_count"]) != 1 or not counts or parts["_count"][0][1] != counts[-1]:
            faults.append(f"{family} has no sum, or a count that differs from its last bucket.")
    return faults
