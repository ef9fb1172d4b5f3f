"""Logs of Ray jobs: the API returns them whole, the service keeps only the end."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.submission.ray.jobs import LOG_TAIL_BYTES, RESPONSE_MAX_BYTES, RayJobsClient, decode_end

LINE = 'a line with an ümlaut, a backslash \\ and a "quote"\n'


class Pieces(httpx.AsyncByteStream):
    """A response that is made while it is read."""

    def __init__(self, *parts: tuple[bytes, int]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece, count in self._parts:
            for _ in range(count):
                yield piece


def a_client(*parts: tuple[bytes, int], status: int = 200) -> RayJobsClient:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=Pieces(*parts)))
    return RayJobsClient("http://head:8265", transport=transport)


async def test_a_huge_log_needs_little_memory() -> None:
    """Of 200 MB the last megabyte is returned, to the last line."""
    block = json.dumps(LINE * 1500)[1:-1].encode()
    client = a_client((b'{"logs": "', 1), (block, 2300), (b"the end\\n", 1), (b'"}', 1))
    tracemalloc.start()
    text = await client.get_logs("job-a-01")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await client.close()
    assert text is not None
    assert len(text) == LOG_TAIL_BYTES
    assert text.endswith(LINE + "the end\n")
    assert peak_bytes < 8 * RESPONSE_MAX_BYTES


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_an_answer_of_another_server_needs_little_memory(status: int) -> None:
    """However much it sends."""
    client = a_client((b"x" * 100_000, 1000), status=status)
    tracemalloc.start()
    with pytest.raises(TransientError):
        await client.get_logs("job-a-01")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await client.close()
    assert peak_bytes < 8 * RESPONSE_MAX_BYTES


@pytest.mark.parametrize("text", ["", "short\nlog\n", "no line break at all"])
async def test_a_small_log_is_whole(text: str) -> None:
    """Nothing is dropped from it."""
    client = a_client((json.dumps({"logs": text}).encode(), 1))
    assert await client.get_logs("job-a-01") == (text or None)
    await client.close()


@given(st.text(st.sampled_from('\\n\n"u0é😀x')), st.integers(0, 60))
@example("\\n\\n\nx", 1)
@example("\\\\\n", 2)
@example("😀\nend", 3)
@example("\\\n\n", 0)
def test_a_cut_anywhere_leaves_whole_lines(text: str, cut: int) -> None:
    """The text starts after a line break of the log, wherever an escape is torn; only the last line may be torn."""
    body = json.dumps({"logs": text})[len('{"logs": "') :].encode()
    cut = min(cut, len(body) - 2)
    read = decode_end(body[cut:])
    tokens = list(re.finditer(rb"\\u[0-9a-f]{4}|\\.|[^\\]", body[:-2]))
    assert b"".join(token[0] for token in tokens) == body[:-2]
    starts = [token.end() for token in tokens if token[0] == rb"\n" and token.start() > cut]
    torn = any(token.start() < cut < token.end() for token in tokens)
    # Where it begins with backslashes, nobody can say what the character after them is.
    unclear = len(body[cut:]) - len(body[cut:].lstrip(b"\\"))
    clear = [token.end() for token in tokens if token[0] == rb"\n" and token.start() >= cut + max(1, unclear)]
    if clear and not torn:
        whole = json.loads(b'"' + body[clear[0] : -1])
        assert read == whole or read.endswith("\n" + whole)
    if starts:
        assert read.endswith(json.loads(b'"' + body[starts[-1] : -1]))


def test_an_end_that_is_no_json_is_another_servers() -> None:
    """A page, or a response that was cut off."""
    for body in (b"</html>", b"text without an end", b'bad escape \\x\\n"}'):
        with pytest.raises(TransientError) as failed:
            decode_end(body if body != b'bad escape \\x\\n"}' else b'first\\n bad escape \\x"}')
        assert failed.value.code == "engine_unexpected_answer"
