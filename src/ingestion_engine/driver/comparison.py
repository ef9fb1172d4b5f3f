"""Comparison of the stores with the object table: modes verify and repair, and the proof before an alias moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ingestion_engine.domain.errors import CollectionMissing
from ingestion_engine.domain.ids import SegmentKind
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import Action
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.driver.plan.parity_plan import ParityPlan
from ingestion_engine.driver.plan.plan_thread import FindObjects


def compare_stores(
    plan: ParityPlan,
    action: Action,
    *,
    run: Callable[[FindObjects, SegmentKind], BaseException | None],
    count_points: Callable[[], Mapping[str, int]],
) -> BaseException | None:
    """Compare every object, then search for stray points where a store holds more points than its objects.

    Args:
        plan: Streams of what to compare and search.
        action: VERIFY or REPAIR.
        run: Runs a plan of segments of one kind to its end; returns the error after which it has to start over.
        count_points: Returns the number of points in each store.

    Returns:
        The error after which the comparison has to start over; None when it is complete.
    """
    error = run(lambda: plan.find_rows(action), SegmentKind.WORK)
    if error is not None:
        return error
    held = count_points()
    if plan.scope.is_whole and all(plan.counts.points_seen.get(name, 0) == points for name, points in held.items()):
        return None
    return run(lambda: plan.find_ranges(max(held.values())), SegmentKind.STRAY_SEARCHES)


async def count_points(stores: Mapping[StoreName, VectorStore], collection: str) -> dict[str, int]:
    """Return the exact number of points by store; 0 for a store without the collection."""
    counts: dict[str, int] = {}
    for name, store in stores.items():
        try:
            counts[name.value] = await store.count(collection)
        except CollectionMissing:
            counts[name.value] = 0
    return counts
