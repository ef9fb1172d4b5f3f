"""Questions that come together are asked together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.runtime.coalesce import RequestCoalescer


class Server:
    """Notes what it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()

    async def answer(self, questions: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(questions))
        await self.may_answer.wait()
        if "bad" in questions:
            raise TransientError("away", "It is away.")
        return {question: question.upper() for question in questions}


async def ask_all(
    joined: RequestCoalescer[str, dict[str, str]], questions: Sequence[str]
) -> list[asyncio.Task[dict[str, str]]]:
    tasks = [asyncio.create_task(joined.request(question)) for question in questions]
    await asyncio.sleep(0)
    return tasks


async def test_one_request_at_a_time_and_the_next_gathers() -> None:
    """The first asks at once; all who come meanwhile share the second request, and each finds its answer."""
    server = Server()
    tasks = await ask_all(RequestCoalescer(server.answer), ["a", "b", "c"])
    assert server.asked == [["a"]]
    server.may_answer.set()
    answers = await asyncio.gather(*tasks)
    assert server.asked == [["a"], ["b", "c"]]
    assert [answer[question] for answer, question in zip(answers, "abc", strict=True)] == ["A", "B", "C"]


async def test_a_failed_request_fails_all_in_it_and_no_other() -> None:
    """Nobody waits for ever, and nobody is told of another request's failure."""
    server = Server()
    joined = RequestCoalescer(server.answer)
    tasks = await ask_all(joined, ["a", "bad", "c"])
    server.may_answer.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == {"a": "A"}
    assert [type(outcome) for outcome in outcomes[1:]] == [TransientError, TransientError]
    assert await joined.request("d") == {"d": "D"}


@pytest.mark.parametrize("canceled", [0, 1, 2])
async def test_a_canceled_task_leaves_the_others_their_answers(canceled: int) -> None:
    """Also when it was the one that had sent the request."""
    server = Server()
    tasks = await ask_all(RequestCoalescer(server.answer), ["a", "b", "c"])
    tasks[canceled].cancel()
    await asyncio.sleep(0)
    server.may_answer.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(canceled), asyncio.CancelledError)
    left = [question for number, question in enumerate("abc") if number != canceled]
    answers = zip(left, outcomes, strict=True)
    assert all(isinstance(answer, dict) and answer[question] == question.upper() for question, answer in answers)
