"""HTML against a browser: the words of every page as the engine reads it, and as Chromium shows it (``innerText``).

    python -m benchmarks.reading.html FOLDER [--before SRC] [--chromium PATH] [--slowest]

Scripts do not run and nothing is fetched. Words that a page has and a browser hides (collapsed sections, descriptions
of pictures) are "added", not an error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reading.compare import ROW_TITLE, WordDiff, compare_words

_READER = """
import json, sys, time
from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
for path in map(str.strip, sys.stdin):
    body = open(path, "rb").read()
    began = time.perf_counter()
    try:
        text = parse_bytes(RawObject(ObjectRef("b", "a.html", "e", len(body), "2026-01-01T00:00:00Z"), body, None, {}),
                           FrozenLimits()).text
    except Exception as error:  # whatever the reader raises is its result
        text = f"!{getattr(error, 'code', error)}"
    print(json.dumps([text, time.perf_counter() - began]), flush=True)
"""


_VISIBLE = (
    "document.body ? [document.documentElement, document.body]"
    ".map(each => each.style.cssText += '; display: block !important') && document.body.innerText : ''"
)
"""A body that waits hidden for its script has no visible text, and ``innerText`` is then that of its scripts too."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Text of a page, and the seconds that reading it took."""

    text: str
    took_s: float


def read_all(paths: list[Path], source: Path) -> list[Reading]:
    """Return the engine's reading of every page, by the engine in ``source``."""
    done = subprocess.run(
        [sys.executable, "-c", _READER],
        input="\n".join(map(str, paths)),
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [Reading(*json.loads(line)) for line in done.stdout.splitlines()]


class Chromium:
    """A browser without windows, scripts and network, driven over its pipe for debuggers."""

    def __init__(self, program: str, profile: str) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{answers}', program, "--headless", "--no-sandbox",
             "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
             "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._count = 0
        self._held = b""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        self._call("Emulation.setScriptExecutionDisabled", value=True)

    def show(self, path: Path) -> str:
        """Return the visible text of a page."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        for event in self._events():
            if event.get("method") == "Page.loadEventFired":
                break
        try:
            result = self._call("Runtime.evaluate", expression=_VISIBLE)
        except RuntimeError:  # the page goes on to another one, which is not there
            return ""
        return str(result["result"].get("value", ""))

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = next(event for event in self._events() if event.get("id") == self._count)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _events(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" not in self._held:
                piece = os.read(self._from, 1 << 20)
                if not piece:
                    raise RuntimeError("The browser has ended.")
                self._held += piece
            event, _, self._held = self._held.partition(b"\0")
            yield json.loads(event)


def main() -> None:
    """Print a row per page that differs, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=Path, help="src folder of another version of the engine")
    parser.add_argument("--chromium", default="chromium")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in (".html", ".htm", ".xhtml"))
    sources = {"now": Path(__file__).resolve().parents[2] / "src"}
    if arguments.before:
        sources = {"before": arguments.before} | sources
    readings = {name: read_all(paths, source) for name, source in sources.items()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(arguments.chromium, profile)
        began = time.perf_counter()
        shown = [browser.show(path) for path in paths]
        print(f"{len(paths)} pages, {sum(path.stat().st_size for path in paths):,} bytes;", end=" ")
        print(f"browser {time.perf_counter() - began:.1f} s", end=" ")
        browser.close()
    for name, read in readings.items():
        print(f"{name} {sum(each.took_s for each in read):.1f} s", end=" ")
    print(f"\n{'':60} {ROW_TITLE}")
    totals = dict.fromkeys(readings, WordDiff())
    for number, path in enumerate(paths):
        if not shown[number].strip():
            continue
        for name, read in readings.items():
            diff = compare_words(read[number].text, shown[number])
            totals[name] += diff
            if diff.lost or read[number].text.startswith("!"):
                print(f"{name:7}{str(path.relative_to(arguments.folder))[-52:]:53} {diff.row()}")
    for name, total in totals.items():
        print(f"{name:60} {total.row()}")


if __name__ == "__main__":
    main()
