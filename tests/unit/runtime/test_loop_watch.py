"""A worker whose event loop stands still ends by itself."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, re
from ingestion_engine.runtime.loop_watch import end_when_frozen

async def main():
    end_when_frozen(asyncio.get_running_loop(), 2.0)
    await asyncio.sleep(3)  # longer than the limit, but the loop goes on
    print("alive", flush=True)
    re.match("(?:a|aa)+$", "a" * 60 + "b")  # keeps the interpreter's lock forever

asyncio.run(main())
"""


def test_a_process_ends_when_its_loop_stands_still() -> None:
    """Also when no other thread of it can run any more; the log shows where it stood."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == ("alive", 1)
    assert "Timeout" in done.stderr
    assert "in main" in done.stderr
