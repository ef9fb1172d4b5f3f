"""The cause in error texts of engines, as Spark 4.3, the Spark operator 2.5.2 and Ray 2.60 write them."""

from __future__ import annotations

import pytest

from ingestion_engine.submission.causes import LONGEST, find_cause

MAIN = 'Exception in thread "main" '
OPERATOR = "failed to submit spark application: failed to run spark-submit: failed to run spark-submit: "
FRAMES = "\n\tat org.apache.spark.deploy.SparkSubmit.main(SparkSubmit.scala)\n\t... 17 more"
END = (
    "\n\tat java.base/java.lang.Thread.run(Thread.java:840)\n26/01/01 12:00:09 INFO ShutdownHookManager: Shutdown hook"
)

CASES = {
    "one line": ("no such host", "no such host"),
    "nothing": ("\n \n", ""),
    "the operator's own": (f"{OPERATOR}driver pod already exist", "driver pod already exist"),
    "an exception": (
        f"{OPERATOR}{MAIN}java.lang.Error: no memory{FRAMES}{END}",
        "java.lang.Error: no memory",
    ),
    "an exception behind a log": (
        f"WARNING: modules\n26/01/01 12:00:00 WARN Utils: host\n{MAIN}java.lang.Error: x{FRAMES}{END}",
        "java.lang.Error: x",
    ),
    "an exception of two lines": (
        f"{MAIN}java.lang.NumberFormatException: Size must be bytes.\nFailed to parse: lots{FRAMES}",
        "java.lang.NumberFormatException: Size must be bytes. Failed to parse: lots",
    ),
    "the last cause": (
        (
            f"{MAIN}x.ClientException: An error has occurred.{FRAMES}\n"
            f"Caused by: java.io.IOException: Connection refused: /10.0.0.1{FRAMES}\n"
            f"Caused by: java.net.ConnectException: Connection refused{FRAMES}{END}"
        ),
        "x.ClientException: An error has occurred. Caused by java.net.ConnectException: Connection refused",
    ),
    "a cause that only repeats": (
        f"{MAIN}x.Outer: x.Inner: wrong{FRAMES}\nCaused by: x.Inner: wrong{FRAMES}{END}",
        "x.Outer: x.Inner: wrong",
    ),
    "a refused pod": (
        (
            f"{MAIN}x.KubernetesClientException: Failure executing: POST at: https://h/pods. "
            f'Message: pods "d" is forbidden: exceeded quota: q. Received status: Status(code=403){FRAMES}{END}'
        ),
        'x.KubernetesClientException: pods "d" is forbidden: exceeded quota: q',
    ),
    "a trace of Python": (
        'setup failed:\nTraceback (most recent call last):\n  File "a.py", line 3, in run\nValueError: bad pip',
        "ValueError: bad pip",
    ),
    "an error among other output": (
        "Traceback (most recent call last):\n    ERROR: No matching distribution found for nope\n\n[notice] A release",
        "ERROR: No matching distribution found for nope",
    ),
    "only a log": ("26/01/01 12:00:00 INFO A: one\n26/01/01 12:00:01 ERROR B: two", "26/01/01 12:00:01 ERROR B: two"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_found(name: str) -> None:
    """Frames and logs around it are left out."""
    text, expected = CASES[name]
    assert find_cause(text) == expected


def test_a_login_in_a_url_is_left_out() -> None:
    """A package index may have one; notes and errors are shown to everybody."""
    assert find_cause("Could not reach https://user:planted@index.example/simple") == (
        "Could not reach https://index.example/simple"
    )


def test_a_long_cause_is_cut() -> None:
    """A note is a line."""
    assert len(find_cause("x" * 5000)) == LONGEST
