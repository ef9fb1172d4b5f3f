"""Requests that are generated from the OpenAPI document, valid and invalid: none is answered other than as declared.

Schemathesis checks the status, the media type, the headers and the body of each response with the document, that what
the document forbids is refused, and that nothing takes longer than two seconds. The service runs in a process of its
own over working doubles.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.control import bearer, write_keys
from support.servers import RunningServer, answers, free_port, start_command

TESTS = Path(__file__).resolve().parents[1]
CONFIG = TESTS / "support" / "schemathesis.toml"
SLOWEST_S = 2
"""Longest response, on a machine that does nothing else."""
SLOWEST_BUSY_S = 10
"""The same while other tests take the processors: what never ends is found all the same."""
KEY = "fuzz"
NOT_CHECKED = "positive_data_acceptance,use_after_free"
"""Whether two fields fit each other is in no schema; and what a request deletes, ``fuzzed_main`` makes again."""


@pytest.fixture(params=["without keys", "with keys"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    """The service; with keys, it knows ``KEY``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    keys = [str(write_keys(tmp_path, {"name": KEY}))] if request.param == "with keys" else []
    command = [sys.executable, "-m", "support.fuzzed_main", str(tmp_path), str(port), *keys]
    log = tmp_path / "service.log"
    env = {"PYTHONPATH": str(TESTS)}
    server = start_command("service", command, url=url, log=log, env=env, is_ready=answers(f"{url}/livez"))
    try:
        yield server
    finally:
        server.stop()


def run(service: RunningServer, folder: Path, *, examples: int, seed: int, slowest_s: float = SLOWEST_S) -> int:
    """Run schemathesis over the whole document and return the number of requests; fails with what it has found.

    A stream has no end while its job has none, so its route has a test of its own.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    command += [f"{service.url}/openapi.json", "--checks", "all", "--exclude-checks", NOT_CHECKED]
    command += ["--exclude-operation-id", "follow_job", "--max-examples", str(examples), "--seed", str(seed)]
    command += ["--max-response-time", str(slowest_s), "--request-timeout", "20", "--generation-deterministic"]
    command += ["--no-shrink", "--continue-on-failure", "--header", f"Authorization: Bearer {KEY}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert "Traceback" not in service.log.read_text(), "an error was not expected"
    found = re.search(r"([0-9,]+) generated", done.stdout)
    assert found is not None, done.stdout[-3_000:]
    return int(found[1].replace(",", ""))


def count_statuses(service: RunningServer) -> Counter[int]:
    """Return the number of requests that the service has answered, by status."""
    text = httpx.get(f"{service.url}/metrics", headers=bearer(KEY), timeout=30).text
    found: Counter[int] = Counter()
    for labels, value in re.findall(r"^ingest_http_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        status = re.search(r'status="([0-9]+)"', labels)
        assert status is not None, labels
        found[int(status[1])] += int(float(value))
    return found


def test_no_generated_request_is_answered_other_than_declared(service: RunningServer, tmp_path: Path) -> None:
    """A few of each kind, the same in every run."""
    assert run(service, tmp_path, examples=2, seed=1, slowest_s=SLOWEST_BUSY_S) > 1_000


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_none_of_ten_thousand_requests_is_answered_other_than_declared(
    service: RunningServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """All phases, also sequences of requests on what earlier ones have made; few meet a limit instead of a route."""
    number = run(service, tmp_path, examples=350, seed=20)
    assert number >= 10_000
    seen = count_statuses(service)
    record_property("cases", f"{number}: {dict(sorted(seen.items()))}")
    assert [status for status in seen if status >= 500] == []
    assert seen[429] < 0.05 * sum(seen.values())


def test_a_caller_without_a_key_gets_no_further(service: RunningServer, tmp_path: Path) -> None:
    """The stream of a job that has ended; everything that needs a key says so, whatever else is wrong."""
    with httpx.Client(base_url=service.url) as client:
        ended = client.get("/jobs/job-failed/events", headers=bearer(KEY))
        assert (ended.status_code, ended.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        document = client.get("/openapi.json").json()
        assert ended.text.startswith("retry:")
        for path, item in document["paths"].items():
            for method, operation in item.items():
                needs_key = {} not in operation.get("security", [{}])
                answer = client.request(method, path.replace("{name}", "notes").replace("{job_id}", "job-failed"))
                assert (answer.status_code == 401) == needs_key, (method, path)
