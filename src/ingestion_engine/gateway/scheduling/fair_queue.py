"""The one queue of the gateway: two bands of fair flows under the caps of all servers. See decision record 31."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic

from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.scheduling.lanes import Lane, Lanes, T
from ingestion_engine.gateway.scheduling.rate_window import GUARD_S, Entry, RateWindow
from ingestion_engine.gateway.scheduling.served import SECONDS, ServedMeter
from ingestion_engine.gateway.scheduling.tickets import Caps

SEARCH_PER_JOB = 9
"""While searches saturate the servers, jobs get one character for nine of searches: 10 %."""
SEARCH_MEMORY_S = 10.0
"""Searches are expected for this time after each one."""
PACE = 0.9
"""While searches are expected, texts of jobs take this part of the time that the limit allows for them, so that the
rest of a second is not used up at once. The other tenth is for catching up: the limit is used in full nevertheless."""
LONGEST_PAUSE_S = 5.0
"""Jobs also get one request after this time: short searches cost more of a server's time than their characters say."""


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """What one flow has in one band."""

    flow: str
    band: Band
    weight: int
    """Weight of its next request; of its last one if none waits."""
    queued: int
    queued_chars: int
    in_flight: int
    ahead: int
    """Flows whose next request is before its own, of all bands; 0 if none of its requests waits."""
    of: int
    """Flows with waiting requests, of all bands."""
    share: float
    """Part of the characters of all flows in the last ten seconds, 0 to 1."""
    served_chars: int
    """Characters of the last ten seconds."""
    waited_s: float
    """Age of its oldest waiting request."""


class FairQueue(Generic[T]):
    """Orders waiting requests: ``search`` before ``job``; inside a band fair by characters and weight.

    A ticket is put once, and then handed out by ``next`` and ended by ``done``, or removed. ``now`` is in seconds of
    any clock that does not go back. Not thread-safe.

    Cost: O(log flows) per operation; ``next`` calls ``room`` at most once per kind and band (twice when the rate window
    is nearly full). Memory: flows are forgotten ten seconds after their last request.
    """

    def __init__(self, caps: Caps | None = None, *, queue_bytes: int | None = None, guard_s: float = GUARD_S) -> None:
        """Start empty. ``queue_bytes`` limits the size of all waiting tickets; None means no limit."""
        self._caps = caps or Caps()
        self._window = RateWindow(self._caps.texts_per_second, guard_s=guard_s)
        self._queue_bytes = queue_bytes
        self._bands: dict[Band, Lanes[T]] = {band: Lanes() for band in Band}
        self._flows: dict[str, dict[tuple[Band, Hashable], Lane[T]]] = {}
        self._idle: OrderedDict[Lane[T], tuple[float, Band]] = OrderedDict()
        """Lanes with nothing waiting or in flight, and since when."""
        self._out: dict[T, Lane[T]] = {}
        self._unsent: dict[T, Entry] = {}
        """Texts of tickets that were handed out and may not have left yet."""
        self._waiting: dict[T, Lane[T]] = {}
        self._bytes = 0
        self._flow_bytes: dict[str, int] = {}
        self._served = ServedMeter()
        self._job_credit = 0
        """Characters of searches served while a job could have been, minus what jobs got for them."""
        self._passed_over_since: float | None = None
        self._searched_at: float | None = None
        self._pause_jobs_until: float | None = None
        self._wake_at: float | None = None

    @property
    def caps(self) -> Caps:
        """The limits in force."""
        return self._caps

    def set_caps(self, caps: Caps) -> None:
        """Change the limits. Requests in flight go on; nothing is sent until their number and texts are below."""
        self._caps = caps
        self._window.limit = caps.texts_per_second

    def __len__(self) -> int:
        """Return the number of waiting tickets."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Tickets handed out and not done."""
        return len(self._out)

    @property
    def waiting_bytes(self) -> int:
        """Size of all waiting tickets."""
        return self._bytes

    def texts_in_window(self, now: float) -> int:
        """Return the texts handed out in the last second."""
        return self._window.used(now)

    def put(self, ticket: T, now: float) -> list[T]:
        """Queue a ticket; return those that are refused to keep ``queue_bytes``.

        When the queue is full, the flow that holds the most loses its newest tickets, so a flow is refused only while
        it holds more than any other. The refused ones may include ``ticket`` itself.

        Raises:
            ValueError: it is queued or in flight already.
        """
        if ticket in self._waiting or ticket in self._out:
            raise ValueError("The ticket was put before.")
        self._sweep(now)
        lane = self._lane(ticket)
        self._idle.pop(lane, None)
        ticket.arrived = now
        if ticket.band is Band.SEARCH:
            self._searched_at = now
        self._bands[ticket.band].put(lane, ticket)
        self._queued(lane, ticket)
        refused: list[T] = []
        while self._queue_bytes is not None and self._bytes > self._queue_bytes:
            largest = max(self._flow_bytes, key=lambda flow: (self._flow_bytes[flow], flow == ticket.flow))
            lanes = (lane for lane in self._flows[largest].values() if lane.waiting)
            newest = max((next(reversed(lane.waiting)) for lane in lanes), key=lambda found: found.arrived)
            self.remove(newest, now)
            refused.append(newest)
        return refused

    def is_full_for(self, flow: str, size_bytes: int) -> bool:
        """Return whether ``put`` would refuse a ticket of this flow and size itself.

        Cost: O(1) while there is room, else O(n) with n flows.
        """
        if self._queue_bytes is None or self._bytes + size_bytes <= self._queue_bytes:
            return False
        own = self._flow_bytes.get(flow, 0) + size_bytes
        return all(size <= own for other, size in self._flow_bytes.items() if other != flow)

    def put_back(self, ticket: T, now: float) -> None:
        """Return a ticket that ``next`` handed out to the head of its flow, for another try at its old turn.

        It may have another kind by now (without the servers that failed). Its flow is charged once. Its texts stay in
        the rate window and count again with the next try, because a server may have embedded them.
        """
        tried = self._end(ticket)
        lane = self._lane(ticket)
        self._idle.pop(lane, None)
        self._bands[ticket.band].put_back(lane, ticket)
        self._queued(lane, ticket)
        self._rest(tried, ticket.band, now)

    def remove(self, ticket: T, now: float) -> bool:
        """Remove a waiting ticket. False: it is not waiting, and one in flight is ended by ``done`` as always."""
        lane = self._waiting.get(ticket)
        if lane is None:
            return False
        self._bands[ticket.band].remove(lane, ticket)
        self._dequeued(ticket)
        self._rest(lane, ticket.band, now)
        return True

    def drop_flow(self, flow: str, now: float) -> list[T]:
        """Remove and return the waiting tickets of a flow. Its requests in flight go on."""
        dropped = [ticket for lane in self._flows.get(flow, {}).values() for ticket in lane.waiting]
        for ticket in reversed(dropped):  # so that the head of a lane changes once
            self.remove(ticket, now)
        return sorted(dropped, key=lambda ticket: ticket.arrived)

    def next(self, now: float, room: Callable[[T, bool], bool]) -> T | None:
        """Hand out the next ticket, or None. Call it until it returns None after anything has changed.

        ``room(ticket, urgent)`` says whether a server with room can serve the ticket now. Searches are urgent, and so
        is a job whose turn it is although searches wait: it may fill a server as a search may. Within one call the
        answer must depend on the ticket's kind and ``urgent`` alone. Flows of a kind without room keep their turn and
        hold up no other kind.

        A ticket that does not fit the rest of the second keeps its turn as well: smaller ones go before it only as long
        as they do not delay it. While searches are expected, jobs are spread over the second, because a search could
        wait for up to a second behind a burst that used all its texts. ``wake_at`` then says when to call again.
        """
        self._sweep(now)
        self._wake_at = None
        if self._caps.in_flight is not None and len(self._out) >= self._caps.in_flight:
            return None
        found = self._first(now, room)
        if found is not None and not self._is_due(found[1], now):
            texts = found[1].texts
            found = self._first(now, room, self._window.spare(texts, now))
            if found is not None and not self._is_due(found[1], now):
                found = None
        return None if found is None else self._hand_out(*found, now=now)

    def wake_at(self) -> float | None:
        """Return when ``next`` may have a ticket for the passing of time alone; None: it waits for other changes.

        It belongs to the last call of ``next``.
        """
        return self._wake_at

    def sent(self, ticket: T, now: float) -> None:
        """Note that a ticket that was handed out leaves now: its texts count until now, and for a second more.

        A new connection to a server takes its time, and the next one, which needs none, would arrive less than a second
        later. The texts of a ticket that is never sent count until it is done.
        """
        entry = self._unsent.pop(ticket, None)
        if entry is not None:
            self._window.move(entry, now)

    def done(self, ticket: T, now: float) -> None:
        """End a ticket that was handed out, however it ended; it frees its place.

        Raises:
            ValueError: it is not in flight.
        """
        self._rest(self._end(ticket), ticket.band, now)

    def flows(self, now: float) -> list[FlowStatus]:
        """Return the status of all flows that have requests or had some in the last ten seconds.

        Cost: O(n log n) with n flows.
        """
        self._sweep(now)
        ranks: dict[tuple[Band, str], int] = {}
        for band in Band:
            for lane in self._bands[band].ranks():
                ranks.setdefault((band, lane.flow), len(ranks))
        total = self._served.total(now)
        statuses = []
        for flow, lanes in self._flows.items():
            for band in Band:
                of_band = [lane for (its_band, _), lane in lanes.items() if its_band is band]
                if not of_band:
                    continue
                heads = [lane.head for lane in of_band if lane.waiting]
                served = sum(lane.served.total(now) for lane in of_band)
                statuses.append(
                    FlowStatus(
                        flow=flow,
                        band=band,
                        weight=max((head.weight for head in heads), default=of_band[0].weight),
                        queued=sum(len(lane.waiting) for lane in of_band),
                        queued_chars=sum(lane.characters for lane in of_band),
                        in_flight=sum(lane.in_flight for lane in of_band),
                        ahead=ranks.get((band, flow), 0),
                        of=len(ranks),
                        share=served / total if total else 0.0,
                        served_chars=served,
                        waited_s=now - min((head.arrived for head in heads), default=now),
                    )
                )
        return statuses

    def _first(self, now: float, room: Callable[[T, bool], bool], texts: int | None = None) -> tuple[Lane[T], T] | None:
        """Return the ticket whose turn it is, of those with room and at most this many texts."""
        search = self._bands[Band.SEARCH].first(lambda ticket: room(ticket, True), texts)
        job = self._bands[Band.JOB].first(lambda ticket: room(ticket, self._is_jobs_turn(ticket, now)), texts)
        if search is None or (job is not None and self._is_jobs_turn(job[1], now)):
            return job
        return search

    def _is_due(self, ticket: T, now: float) -> bool:
        """Return whether the rate allows a ticket now; else note when it will."""
        at = self._window.free_at(ticket.texts, now)
        if at is not None and ticket.band is Band.JOB:
            at = max(at, self._pause_jobs_until or at)
        if at is not None and at <= now:
            return True
        self._wake_at = at if self._wake_at is None or at is None else min(self._wake_at, at)
        return False

    def _is_jobs_turn(self, job: T, now: float) -> bool:
        """Return whether a job goes before waiting searches."""
        if self._job_credit >= SEARCH_PER_JOB * max(1, job.characters):
            return True
        return self._passed_over_since is not None and now - self._passed_over_since >= LONGEST_PAUSE_S

    def _note_turn(self, ticket: T, now: float) -> None:
        """Keep the account between the bands."""
        if ticket.band is Band.JOB:
            self._job_credit = max(0, self._job_credit - SEARCH_PER_JOB * ticket.characters)
            self._passed_over_since = None
            return
        largest = self._bands[Band.JOB].largest_head()
        if not largest:  # no job waits
            self._job_credit = 0
            self._passed_over_since = None
            return
        self._job_credit = min(self._job_credit, SEARCH_PER_JOB * largest) + ticket.characters
        if self._passed_over_since is None:
            self._passed_over_since = now

    def _hand_out(self, lane: Lane[T], ticket: T, *, now: float) -> T:
        self._note_turn(ticket, now)
        self._bands[ticket.band].take(lane)
        self._dequeued(ticket)
        self._unsent[ticket] = self._window.add(ticket.texts, now, held=True)
        if ticket.band is Band.JOB:
            self._pause_jobs_until = self._end_of_pause(ticket, now)
        self._served.add(ticket.characters, now)
        lane.served.add(ticket.characters, now)
        lane.in_flight += 1
        self._out[ticket] = lane
        return ticket

    def _end_of_pause(self, ticket: T, now: float) -> float | None:
        """Return when the next job may follow this one, if searches are expected."""
        limit = self._caps.texts_per_second
        if not limit or self._searched_at is None or now - self._searched_at > SEARCH_MEMORY_S:
            return None
        return now + PACE * ticket.texts / limit

    def _end(self, ticket: T) -> Lane[T]:
        lane = self._out.pop(ticket, None)
        if lane is None:
            raise ValueError("The ticket is not in flight.")
        unsent = self._unsent.pop(ticket, None)
        if unsent is not None:
            unsent.held = False
        lane.in_flight -= 1
        return lane

    def _lane(self, ticket: T) -> Lane[T]:
        lanes = self._flows.setdefault(ticket.flow, {})
        key = (ticket.band, ticket.kind)
        if key not in lanes:
            lanes[key] = self._bands[ticket.band].open(ticket.flow, ticket.kind)
        return lanes[key]

    def _queued(self, lane: Lane[T], ticket: T) -> None:
        self._waiting[ticket] = lane
        self._bytes += ticket.size_bytes
        self._flow_bytes[ticket.flow] = self._flow_bytes.get(ticket.flow, 0) + ticket.size_bytes

    def _dequeued(self, ticket: T) -> None:
        del self._waiting[ticket]
        self._bytes -= ticket.size_bytes
        self._flow_bytes[ticket.flow] -= ticket.size_bytes

    def _rest(self, lane: Lane[T], band: Band, now: float) -> None:
        if not lane.waiting and not lane.in_flight:
            self._idle[lane] = (now, band)

    def _sweep(self, now: float) -> None:
        """Forget lanes that are idle for longer than shares are shown. Cost: O(1) per lane ever made."""
        while self._idle:
            lane, (since, band) = next(iter(self._idle.items()))
            if now - since <= SECONDS:
                return
            del self._idle[lane]
            lanes = self._flows[lane.flow]
            del lanes[band, lane.kind]
            if not lanes:
                del self._flows[lane.flow]
                self._flow_bytes.pop(lane.flow, None)
            self._bands[band].close(lane)
