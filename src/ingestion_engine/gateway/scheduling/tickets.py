"""A waiting request, as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from ingestion_engine.domain.records import Band

MAX_WEIGHT = 10
DEFAULT_WEIGHT = 5


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits over all servers. None means no limit, 0 that nothing may be sent."""

    in_flight: int | None = None
    """Requests that were handed out and are not done."""
    texts_per_second: float | None = None
    """Texts of the requests handed out in any one second."""


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """One request. Extend it with what the dispatcher needs; equal only to itself.

    Raises:
        ValueError: the weight is not between 1 and 10, or a size is negative.
    """

    flow: str
    """Who shares: a job's id, else the client's address."""
    band: Band
    characters: int
    """The cost, which shares are measured in. An empty request costs one."""
    texts: int
    weight: int = DEFAULT_WEIGHT
    """Share of this request's flow relative to the others of its band; may differ from one request to the next."""
    kind: Hashable = None
    """Requests of one kind can be served by the same servers (model and digest). Order is kept per flow and kind."""
    size_bytes: int = 0
    """Memory that the request holds while it waits."""
    arrived: float = field(init=False, default=0.0)
    """When it was put into the queue, by the queue's time."""

    def __post_init__(self) -> None:
        """Check the numbers, because a wrong weight would distort the shares of all flows."""
        if not 1 <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"The weight must be between 1 and {MAX_WEIGHT}, not {self.weight}.")
        if min(self.characters, self.texts, self.size_bytes) < 0:
            raise ValueError("Characters, texts and bytes must not be negative.")
