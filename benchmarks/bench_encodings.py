"""Measure how many texts of a table of languages, encodings and lengths are read right, and how fast.

    python benchmarks/bench_encodings.py [--before SRC] [--worst 20]

``--before`` names the ``src`` folder of another version, which is measured too. The texts are our own
(tests/fixtures/languages.toml, tests/support/encoded_texts.py); none declares its encoding. A text is *right* if every
character is; *wrong* text would be stored; *unknown* is an object that fails with an error that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.encoded_texts import EncodedText, encoded_texts  # noqa: E402 - the path is set above

SCRIPTS = {
    "Western European": "en de fr es pt it nl sv da no fi is sq ca", "Central European": "hu pl cs sk sl hr ro",
    "Baltic": "et lv lt", "Turkish": "tr", "Cyrillic": "ru uk be bg sr mk", "Greek": "el", "Hebrew": "he",
    "Arabic, Persian": "ar fa", "Thai": "th", "Vietnamese": "vi", "Japanese": "ja", "Japanese, half-width": "ja-half",
    "Korean": "ko", "Chinese": "zh-cn zh-tw",
}  # fmt: skip
UNICODE = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-7")


def read_all() -> dict[str, object]:
    """Read every text with the installed version; return ``right``, ``wrong`` or ``unknown`` for each, and the time."""
    from ingestion_engine.pipeline.parsing.decode import decode_text

    outcomes = []
    taken: Counter[str] = Counter()
    decode_text("é".encode("cp1252"))  # what is made once
    for case in encoded_texts():
        started = time.perf_counter()
        try:
            outcome = "right" if decode_text(case.body) == case.text else "wrong"
        except ValueError:
            outcome = "unknown"
        taken["utf-8" if case.encoding == "utf-8" else "others"] += round((time.perf_counter() - started) * 1e6)
        outcomes.append(outcome)
    return {"outcomes": outcomes, "taken_us": dict(taken)}


def measure(source: Path) -> tuple[list[str], dict[str, int]]:
    """Run ``read_all`` with the version in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, __file__, "--worker"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return found["outcomes"], found["taken_us"]


def _share(outcomes: Sequence[str]) -> str:
    counts = Counter(outcomes)
    right, unknown = (100 * counts[name] / len(outcomes) for name in ("right", "unknown"))
    return f"{right:.1f} % ({unknown:.1f} %)" if unknown >= 0.05 else f"{right:.1f} %"


def print_table(title: str, results: dict[str, list[str]], groups: Sequence[str | None]) -> None:
    """Print one row per group of texts, in order of appearance, and one column per version; None is in no group."""
    print(f"\n| {title} | texts | {' | '.join(results)} |\n|---|---|{'---|' * len(results)}")
    members: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        if group is not None:
            members[group].append(number)
    for group, numbers in members.items():
        shares = " | ".join(_share([outcomes[number] for number in numbers]) for outcomes in results.values())
        print(f"| {group} | {len(numbers):,} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="src folder of another version")
    parser.add_argument("--worst", type=int, default=0, help="texts to print that this version does not read right")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        json.dump(read_all(), sys.stdout)
        return
    cases = list(encoded_texts())
    sources = ({"before": options.before} if options.before else {}) | {"now": ROOT / "src"}
    measured = {name: measure(source) for name, source in sources.items()}
    results = {name: outcomes for name, (outcomes, _) in measured.items()}
    script_of = {language: script for script, languages in SCRIPTS.items() for language in languages.split()}
    print("Share of texts read right (in brackets: failed because their encoding is unknown; the rest is wrong).")
    legacy = "legacy encodings"
    groupings: dict[str, Callable[[EncodedText], str | None]] = {
        "all": lambda case: case.encoding if case.encoding in UNICODE else legacy,
        legacy: lambda case: None if case.encoding in UNICODE else script_of[case.language],
        "form": lambda case: None if case.encoding in UNICODE else _name_form(case.form),
        "encoding": lambda case: None if case.encoding in UNICODE else case.encoding,
    }
    for title, group in groupings.items():
        print_table(title, results, [group(case) for case in cases])
    for name, (_, taken) in measured.items():
        utf8 = sum(case.encoding == "utf-8" for case in cases)
        per_text = taken["utf-8"] / utf8, taken["others"] / (len(cases) - utf8)
        print(f"\n{name}: {per_text[0]:.0f} µs per text in UTF-8, {per_text[1]:.0f} µs per other text")
    failed = [(case, outcome) for case, outcome in zip(cases, results["now"], strict=True) if outcome != "right"]
    for case, outcome in failed[:: max(1, len(failed) // options.worst)] if options.worst else ():
        print(outcome, case.language, case.encoding, case.form, repr(case.text[:60]))


def _name_form(form: str) -> str:
    return f"about {form} characters" if form.isdigit() else form


if __name__ == "__main__":
    main()
