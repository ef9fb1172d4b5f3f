"""The queue of the gateway: order, bands, caps, room and bookkeeping, one fact each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.scheduling.fair_queue import FairQueue
from ingestion_engine.gateway.scheduling.tickets import Caps, Ticket


def ticket(flow: str = "a", characters: int = 100, **fields: object) -> Ticket:
    values = {"band": Band.JOB, "texts": 1} | fields
    return Ticket(flow=flow, characters=characters, **values)  # type: ignore[arg-type]  # fields of the test


def room(ticket: Ticket, urgent: bool) -> bool:
    return True


def rooms(*kinds: str) -> Callable[[Ticket, bool], bool]:
    return lambda ticket, _urgent: ticket.kind in kinds


def send(queue: FairQueue[Ticket], now: float) -> None:
    found = queue.next(now, room)
    assert found is not None
    queue.sent(found, now)


def drain(queue: FairQueue[Ticket], count: int, now: float = 0.0) -> list[Ticket]:
    served = []
    for _ in range(count):
        found = queue.next(now, room)
        if found is None:
            break
        queue.done(found, now)
        served.append(found)
    return served


def test_flows_of_equal_weight_take_turns() -> None:
    """A flow that came first with many requests does not hold up the others."""
    queue: FairQueue[Ticket] = FairQueue()
    for flow in "aaabbc":
        queue.put(ticket(flow), 0.0)
    assert "".join(found.flow for found in drain(queue, 6)) == "abcaba"


def test_shares_follow_weights_and_characters() -> None:
    """Twice the weight gets twice the characters, however they are cut into requests."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(400):
        queue.put(ticket("light", 300, weight=3), 0.0)
        queue.put(ticket("heavy", 100, weight=6), 0.0)
    served = Counter[str]()
    for found in drain(queue, 400):
        served[found.flow] += found.characters
    assert served["heavy"] / served["light"] == pytest.approx(2, rel=0.05)


def test_weights_interleave_request_by_request() -> None:
    """A heavy flow gets its requests spread over a round, not in a burst."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(20):
        queue.put(ticket("heavy", weight=4), 0.0)
        queue.put(ticket("light", weight=2), 0.0)
    order = "".join(found.flow[0] for found in drain(queue, 24))
    assert "hhhh" not in order
    assert order.count("h") == 16


def test_a_new_weight_counts_from_the_request_that_has_it() -> None:
    """A job whose priority changes in mid-run gets its new share at once."""
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(40):
        queue.put(ticket("changed", weight=1 if number < 5 else 10), 0.0)
        queue.put(ticket("other", weight=1), 0.0)
    assert Counter(found.flow for found in drain(queue, 10))["changed"] == 5
    assert Counter(found.flow for found in drain(queue, 22))["changed"] == 20


def test_a_flow_that_was_idle_has_no_credit() -> None:
    """A late flow gets its share from now on, not what it did not use."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(200):
        queue.put(ticket("early"), 0.0)
    drain(queue, 100)
    for _ in range(100):
        queue.put(ticket("late"), 1.0)
    order = [found.flow for found in drain(queue, 40, 1.0)]
    assert "late" in order[:2]
    assert Counter(order)["late"] == 20


@pytest.mark.parametrize("weight", [1, 5, 10])
def test_a_late_flow_is_served_at_once(weight: int) -> None:
    """It does not wait for the round of the others, whatever the weights are and wherever the round stands."""
    for rounds in range(60):
        queue: FairQueue[Ticket] = FairQueue()
        for other in (1, 2, 3, 4, 6, 8, 10):
            for _ in range(60):
                queue.put(ticket(f"job {other}", weight=other), 0.0)
        drain(queue, 200 + rounds)
        queue.put(ticket("late", weight=weight), 0.0)
        assert [found.flow for found in drain(queue, 1)] == ["late"]


def test_a_kind_that_was_idle_has_no_credit() -> None:
    """A model that nobody used for a while gets its flows' share from now on."""
    queue: FairQueue[Ticket] = FairQueue()
    queue.put(ticket("a", kind="x"), 0.0)
    for _ in range(120):
        queue.put(ticket("b", kind="y"), 0.0)
    drain(queue, 80)
    for _ in range(20):
        queue.put(ticket("a", kind="x"), 0.0)
    order = [found.flow for found in drain(queue, 20)]
    assert all(abs(order[:count].count("a") - order[:count].count("b")) <= 1 for count in range(20))


def test_clients_that_leave_while_nothing_is_served_cost_no_memory() -> None:
    """Outdated entries of the order are removed although nobody asks for the next ticket."""
    queue: FairQueue[Ticket] = FairQueue(Caps(in_flight=0))
    for number in range(1_000):
        first = ticket(texts=number % 7)
        queue.put(first, 0.0)
        queue.put(ticket(), 0.0)
        assert queue.remove(first, 0.0)
    kind = queue._bands[Band.JOB]._kinds[None]
    assert sum(len(heap) for heap in kind.heaps.values()) < 100


def test_a_stream_of_new_flows_does_not_hold_up_an_old_one() -> None:
    """Virtual time passes with the work done, so new flows start behind those that wait."""
    queue: FairQueue[Ticket] = FairQueue()
    queue.put(ticket("old"), 0.0)
    queue.put(ticket("old"), 0.0)
    waited = 0
    for number in range(50):
        queue.put(ticket(f"new {number}"), 0.0)
        queue.put(ticket(f"new too {number}"), 0.0)
        (found,) = drain(queue, 1)
        waited = 0 if found.flow == "old" else waited + 1
        if not any(status.queued for status in queue.flows(0.0) if status.flow == "old"):
            return
    pytest.fail(f"The old flow was passed over {waited} times.")


def test_searches_go_first() -> None:
    """A search that comes last is next."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(3):
        queue.put(ticket(), 0.0)
    queue.put(ticket("s", band=Band.SEARCH), 0.0)
    assert [found.band for found in drain(queue, 2)] == [Band.SEARCH, Band.JOB]


def test_jobs_get_a_tenth_while_searches_saturate() -> None:
    """One character for nine of searches, whatever the sizes are."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(2_000):
        queue.put(ticket("s", 50, band=Band.SEARCH), 0.0)
        queue.put(ticket("j", 700, texts=8), 0.0)
    served = Counter[str]()
    for found in drain(queue, 1_500):
        served[found.flow] += found.characters
    assert served["j"] / served.total() == pytest.approx(0.1, abs=0.01)


def test_a_job_waits_for_its_turn_at_most_a_few_seconds_of_short_searches() -> None:
    """Searches of few characters do not starve a request of many."""
    queue: FairQueue[Ticket] = FairQueue()
    queue.put(ticket("j", 1_000_000, texts=8), 0.0)
    now, step = 0.0, 0.1
    while True:
        queue.put(ticket("s", 5, band=Band.SEARCH), now)
        if drain(queue, 1, now)[0].flow == "j":
            break
        now += step
    assert now <= 5 + 2 * step


def test_a_job_whose_turn_it_is_is_urgent() -> None:
    """It may fill a server as a search may, else searches would keep it full for ever."""
    queue: FairQueue[Ticket] = FairQueue()
    queue.put(ticket("j", 10), 0.0)
    for _ in range(10):
        queue.put(ticket("s", 30, band=Band.SEARCH), 0.0)
    order = []
    for _ in range(5):
        found = queue.next(0.0, lambda _found, urgent: urgent)
        assert found is not None
        order.append(found.flow)
    assert order == ["s", "s", "s", "j", "s"]


def test_a_kind_without_room_holds_up_no_other_and_keeps_its_turn() -> None:
    """The head of a flow whose servers are full is next when they have room."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(3):
        queue.put(ticket("a", kind="x"), 0.0)
        queue.put(ticket("b", kind="y"), 0.0)
    assert [queue.next(0.0, rooms("y")).flow for _ in range(2)] == ["b", "b"]  # type: ignore[union-attr]  # found
    assert [found.flow for found in drain(queue, 4)] == ["a", "a", "b", "a"]


def test_one_flow_has_a_line_for_each_kind() -> None:
    """A client that uses two models waits for neither because of the other; each line keeps its order."""
    queue: FairQueue[Ticket] = FairQueue()
    tickets = [ticket("a", kind=kind) for kind in "xyxy"]
    for found in tickets:
        queue.put(found, 0.0)
    assert queue.next(0.0, rooms("y")) is tickets[1]
    assert queue.next(0.0, rooms("y")) is tickets[3]
    assert queue.next(0.0, rooms("y")) is None
    assert queue.next(0.0, rooms("x")) is tickets[0]


def test_a_kind_that_was_away_for_long_has_a_bounded_credit_and_keeps_its_weights() -> None:
    """When its servers are back, the others wait for a few requests only, and it is shared by weight as before."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(600):
        queue.put(ticket("away", kind="x", weight=2), 0.0)
        queue.put(ticket("away too", kind="x", weight=6), 0.0)
        queue.put(ticket("b", kind="y", weight=2), 0.0)
    for _ in range(300):
        assert queue.next(0.0, rooms("y")) is not None
    order = [found.flow for found in drain(queue, 200)]
    assert "b" in order[:15]
    counts = Counter(order)
    assert counts["b"] == pytest.approx(40, abs=4)
    assert counts["away too"] / counts["away"] == pytest.approx(3, rel=0.1)


def test_the_cap_on_requests_in_flight_holds_and_may_change() -> None:
    """A lowered cap waits for requests to end; 0 sends nothing."""
    queue: FairQueue[Ticket] = FairQueue(Caps(in_flight=2))
    for _ in range(9):
        queue.put(ticket(), 0.0)
    out = [queue.next(0.0, room), queue.next(0.0, room)]
    assert None not in out
    assert queue.next(0.0, room) is None
    queue.set_caps(Caps(in_flight=1))
    queue.done(out[0], 0.0)  # type: ignore[arg-type]  # found
    assert queue.next(0.0, room) is None
    queue.done(out[1], 0.0)  # type: ignore[arg-type]  # found
    queue.set_caps(Caps(in_flight=0))
    assert queue.next(0.0, room) is None
    queue.set_caps(Caps())
    assert queue.next(0.0, room) is not None
    assert queue.wake_at() is None


def test_the_cap_on_texts_says_when_to_wake() -> None:
    """The oldest texts leave the window one second after they were sent."""
    queue: FairQueue[Ticket] = FairQueue(Caps(texts_per_second=10), guard_s=0.0)
    for _ in range(3):
        queue.put(ticket(texts=5), 0.0)
    send(queue, 0.0)
    send(queue, 0.25)
    assert queue.next(0.5, room) is None
    assert queue.wake_at() == 1.0
    assert queue.next(1.0, room)


def test_small_requests_use_what_is_left_of_a_second_and_delay_no_large_one() -> None:
    """When the oldest four texts leave, one is left beside the five that wait: it is used at once, and no more."""
    queue: FairQueue[Ticket] = FairQueue(Caps(texts_per_second=10), guard_s=0.0)
    for at in (0.0, 0.5):
        queue.put(ticket("first", texts=4), at)
        send(queue, at)
    large = ticket("large", texts=5, characters=1)
    queue.put(large, 0.75)
    for _ in range(5):
        queue.put(ticket("small", characters=50), 0.75)
    assert [found.flow for found in drain(queue, 9, 0.75)] == ["small"]
    assert queue.wake_at() == 1.0
    assert drain(queue, 9, 0.99) == []
    assert queue.next(1.0, room) is large


def test_a_removed_ticket_is_gone_and_its_flow_goes_on() -> None:
    """A client that leaves frees its place in the queue; in flight its request is ended by ``done``."""
    queue: FairQueue[Ticket] = FairQueue()
    tickets = [ticket() for _ in range(3)]
    for found in tickets:
        queue.put(found, 0.0)
    assert queue.remove(tickets[0], 0.0)
    assert not queue.remove(tickets[0], 0.0)
    assert queue.next(0.0, room) is tickets[1]
    assert not queue.remove(tickets[1], 0.0)
    assert (len(queue), queue.in_flight) == (1, 1)


def test_a_dropped_flow_loses_its_queue_in_all_bands() -> None:
    """The tickets come back in order of arrival, so that each caller can be answered."""
    queue: FairQueue[Ticket] = FairQueue()
    tickets = [ticket("a"), ticket("a", band=Band.SEARCH), ticket("b"), ticket("a")]
    for number, found in enumerate(tickets):
        queue.put(found, float(number))
    assert queue.drop_flow("a", 4.0) == [tickets[0], tickets[1], tickets[3]]
    assert queue.drop_flow("unknown", 4.0) == []
    assert drain(queue, 9, 4.0) == [tickets[2]]


def test_a_ticket_that_is_put_back_is_next_of_its_flow_and_charged_once() -> None:
    """A second try does not wait for the whole queue, and costs its flow nothing."""
    queue: FairQueue[Ticket] = FairQueue()
    for _ in range(6):
        queue.put(ticket("a"), 0.0)
        queue.put(ticket("b"), 0.0)
    first = queue.next(0.0, room)
    assert first is not None
    for _ in range(2):
        queue.put_back(first, 0.0)
        assert queue.next(0.0, room) is first
    queue.done(first, 0.0)
    assert "".join(found.flow for found in drain(queue, 11)) == "babababab" + "ab"


def test_a_ticket_that_is_put_back_may_have_another_kind() -> None:
    """A second try excludes the server that failed, and holds up nothing of the kind it had before."""
    queue: FairQueue[Ticket] = FairQueue()
    tried, waiting, other = ticket("a", kind="x"), ticket("a", kind="x"), ticket("b", kind="x without 1")
    for found in (tried, waiting, other):
        queue.put(found, 0.0)
    assert queue.next(0.0, room) is tried
    tried.kind = "x without 1"
    queue.put_back(tried, 0.0)
    assert queue.next(0.0, rooms("x without 1")) is tried
    queue.put_back(tried, 0.0)
    assert queue.next(0.0, rooms("x")) is waiting
    assert queue.remove(tried, 0.0)
    assert queue.next(0.0, rooms("x without 1")) is other
    assert (len(queue), queue.in_flight) == (0, 2)


def longest_search_wait(seconds: int) -> tuple[float, float]:
    """Ingest at 50 texts/s in batches of ten; return the longest wait of a search and the texts per second."""
    queue: FairQueue[Ticket] = FairQueue(Caps(texts_per_second=50))
    out: list[tuple[float, Ticket]] = []
    longest, texts = 0.0, 0
    for step in range(seconds * 200):
        now = step / 200
        while out and out[0][0] <= now:
            queue.done(out.pop(0)[1], now)
        while len(queue) < 8:
            queue.put(ticket(texts=10), now)
        if step % 397 == 0:
            queue.put(ticket("s", 50, band=Band.SEARCH), now)
        while (found := queue.next(now, room)) is not None:
            out.append((now + 0.1, found))
            texts += found.texts
            if found.band is Band.SEARCH and now > 10:
                longest = max(longest, now - found.arrived)
    return longest, texts / seconds


def test_a_search_waits_for_no_burst_of_jobs() -> None:
    """While searches come, the texts of jobs are spread over the second; without that it would wait for most of one."""
    longest, rate = longest_search_wait(60)
    assert longest < 0.3
    assert rate > 44  # a search takes the place of a batch of ten: (4 * 10 + 1) to 50 fit in a second


def test_wrong_use_is_refused() -> None:
    """A ticket is put once and ended once."""
    queue: FairQueue[Ticket] = FairQueue()
    found = ticket()
    queue.put(found, 0.0)
    with pytest.raises(ValueError, match="put before"):
        queue.put(found, 0.0)
    with pytest.raises(ValueError, match="not in flight"):
        queue.done(found, 0.0)
    with pytest.raises(ValueError, match="weight"):
        ticket(weight=11)
    with pytest.raises(ValueError, match="negative"):
        ticket(characters=-1)


def test_a_full_queue_refuses_the_flow_that_holds_the_most() -> None:
    """A large job does not keep a small one out."""
    queue: FairQueue[Ticket] = FairQueue(queue_bytes=100)
    large = [ticket("large", size_bytes=20) for _ in range(6)]
    for found in large[:5]:
        assert queue.put(found, 0.0) == []
    assert queue.put(large[5], 0.0) == [large[5]]
    assert queue.put(ticket("small", size_bytes=20), 0.0) == [large[4]]
    assert queue.put(ticket("small", size_bytes=20), 0.0) == [large[3]]
    assert queue.waiting_bytes == 100
    giant = ticket("giant", size_bytes=101)
    assert queue.put(giant, 0.0) == [giant]


def test_status_shows_place_share_and_wait() -> None:
    """What ``ingest watch`` shows of a job."""
    queue: FairQueue[Ticket] = FairQueue()
    queue.put(ticket("a", 300, weight=10), 0.0)
    queue.put(ticket("a", 100, weight=10), 1.0)
    queue.put(ticket("b", 100), 2.0)
    queue.put(ticket("s", 100, band=Band.SEARCH), 2.0)
    assert queue.next(3.0, room).flow == "s"  # type: ignore[union-attr]  # found
    assert queue.next(3.0, room).flow == "a"  # type: ignore[union-attr]  # found
    flows = {status.flow: status for status in queue.flows(4.0)}
    a, b, s = flows["a"], flows["b"], flows["s"]
    assert (a.queued, a.queued_chars, a.in_flight, a.weight, a.waited_s) == (1, 100, 1, 10, 3.0)
    assert (a.ahead, a.of, a.share, a.served_chars) == (1, 2, 0.75, 300)
    assert (b.ahead, b.of, b.share, b.waited_s) == (0, 2, 0.0, 2.0)
    assert (s.queued, s.in_flight, s.band, s.share) == (0, 1, Band.SEARCH, 0.25)


def test_flows_that_are_gone_are_forgotten() -> None:
    """Memory does not grow with the number of flows and kinds ever seen."""
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(1_000):
        queue.put(ticket(f"flow {number}", kind=number), number / 10)
        drain(queue, 1, number / 10)
    assert len(queue.flows(99.9)) <= 102
    queue.put(ticket(), 200.0)
    assert [status.flow for status in queue.flows(200.0)] == ["a"]
    assert len(queue._bands[Band.JOB]._kinds) == 1


def test_flows_that_are_gone_are_not_shown_while_nothing_else_comes() -> None:
    """A night without requests does not end with the flows of the evening."""
    queue: FairQueue[Ticket] = FairQueue()
    queue.put(ticket(), 0.0)
    drain(queue, 1, 0.0)
    assert [status.flow for status in queue.flows(10.0)] == ["a"]
    assert queue.flows(10.1) == []


def test_texts_count_from_the_moment_at_which_they_leave() -> None:
    """A request that waits for a new connection arrives late, and the next ones must not arrive in the same second."""
    queue: FairQueue[Ticket] = FairQueue(Caps(texts_per_second=2), guard_s=0.0)
    first, second, third = ticket(texts=2), ticket(texts=2), ticket(texts=2)
    for each in (first, second, third):
        queue.put(each, 0.0)
    assert queue.next(0.0, room) is first
    queue.sent(first, 0.3)
    queue.done(first, 0.5)
    assert queue.next(1.0, room) is None
    assert queue.wake_at() == 1.3
    assert queue.next(1.3, room) is second
    queue.done(second, 1.4)
    queue.sent(second, 1.5)  # it has ended: its texts count as before
    assert queue.next(2.3, room) is third
