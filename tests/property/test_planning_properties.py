"""Planning over any bucket: the merge equals a comparison of dictionaries, partitions cover, listings come sorted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_engine.domain.estimates import weigh
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.records import (
    REMOVALS,
    Action,
    ObjectRef,
    Partition,
    PlannedObject,
    RowState,
    TableRow,
)
from ingestion_engine.domain.spec import Chunking, FrozenLimits, Source
from ingestion_engine.driver.plan.diff import DiffRules, Tally, diff_objects
from ingestion_engine.driver.plan.listing import ListingOutOfOrderError, check_order, sort_listing
from ingestion_engine.driver.plan.packing import Packer, stagger
from ingestion_engine.driver.plan.selection import MOST_PREFIXES, Selection

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
versions = st.dictionaries(keys, st.sampled_from(["e1", "e2"]), max_size=30)


def refs_of(bucket: dict[str, str]) -> list[ObjectRef]:
    refs = [ObjectRef("docs", key, etag, 5, "t") for key, etag in bucket.items()]
    return sorted(refs, key=lambda r: r.key.encode())


def rows_of(table: dict[str, str]) -> list[TableRow]:
    rows = [
        TableRow(key, etag, 5, "t", "o", RowState.PRESENT, None, None, False, "f", 1, "d", "v", 1, "j0", "now")
        for key, etag in table.items()
    ]
    return sorted(rows, key=lambda r: r.key.encode())


@given(versions, versions)
def test_the_merge_equals_a_comparison_of_dictionaries(bucket: dict[str, str], table: dict[str, str]) -> None:
    """Whatever keys stand on either side, each comes out once, in order, for the right reason."""
    rules = DiffRules(
        job_id="j1",
        bucket="docs",
        fingerprint="f",
        full=False,
        delete_missing=True,
        retry_failed=False,
        selects=lambda _: True,
    )
    tally = Tally()
    planned = list(diff_objects(refs_of(bucket), rows_of(table), rules, tally))
    expected = dict.fromkeys(bucket.keys() - table.keys(), Action.NEW)
    expected |= dict.fromkeys(table.keys() - bucket.keys(), Action.DELETE)
    expected |= {key: Action.CHANGED for key in bucket.keys() & table.keys() if bucket[key] != table[key]}
    assert {p.ref.key: p.action for p in planned} == expected
    order = [p.ref.key.encode() for p in planned]
    assert order == sorted(order)
    assert tally.unchanged == len(bucket) - sum(a in {Action.NEW, Action.CHANGED} for a in expected.values())


glob_pieces = st.sampled_from(
    ["*", "**", "**/", "?", "[ab]", "[!a]", "[b-a]", "[", "]", "[]", "[!]", "/", "a", "b", "ä"]
)
globs = st.lists(glob_pieces | keys, max_size=5).map("".join)
paths = st.text(st.sampled_from("ab/ä*[]?😀\uffff\n"), min_size=1, max_size=6)
many_globs = st.lists(globs, max_size=4) | st.lists(
    keys, min_size=MOST_PREFIXES, max_size=MOST_PREFIXES + 20, unique=True
)


@given(st.sets(paths, max_size=30), st.text("ab/", max_size=2), many_globs, st.lists(globs, max_size=2))
def test_listing_only_the_literal_prefixes_of_globs_misses_nothing(
    bucket: set[str], prefix: str, include: list[str], exclude: list[str]
) -> None:
    """The short listings, one after another and filtered, are the whole listing filtered: same keys, same order."""
    include = [*include, *sorted(bucket)[:1]]
    selection = Selection(Source(bucket="docs", prefix=prefix, include=tuple(include), exclude=tuple(exclude)))

    def list_keys(start: str) -> list[str]:
        return sorted((key for key in bucket if key.startswith(start)), key=str.encode)

    pushed_down = [key for start in selection.prefixes for key in list_keys(start)]
    assert [key for key in pushed_down if selection.matches(key)] == list(filter(selection.matches, list_keys("")))
    assert pushed_down == sorted(set(pushed_down), key=str.encode)
    assert all(start.startswith(prefix) for start in selection.prefixes)
    assert len(selection.prefixes) <= MOST_PREFIXES


objects = st.lists(
    st.tuples(st.integers(0, 60_000_000), st.sampled_from(["txt", "pdf", "gz"]), st.sampled_from(list(Action))),
    max_size=120,
)


def is_alone(planned: PlannedObject, packer: Packer) -> bool:
    """True for an object that gets a partition of its own, before the others."""
    if planned.action is Action.SUSPECT:
        return True
    size_bytes, chunks = weigh(planned, packer.chunking)
    return size_bytes > packer.limits.partition_bytes or chunks > packer.limits.partition_chunks


@given(objects, st.integers(1, 64), st.booleans(), st.booleans())
def test_partitions_are_a_disjoint_cover_within_limits(
    shapes: list[tuple[int, str, Action]], parallelism: int, begins: bool, ends: bool
) -> None:
    """Nothing is lost or doubled, only large objects are moved, and only a single object may exceed a limit."""
    planned = [
        PlannedObject(ObjectRef("docs", f"{i:04}.{kind}", "e", size, "t"), action)
        for i, (size, kind, action) in enumerate(shapes)
    ]
    limits = FrozenLimits()
    packer = Packer(limits, Chunking()).shrunk_for(planned, parallelism)
    shares = stagger(parallelism)
    assert [o for part in packer.pack(planned, shares) for o in part] == planned
    parts = packer.pack_block(planned, rising=shares if begins else (), falling=shares if ends else ())
    seen = [o for part in parts for o in part]
    assert sorted(seen, key=lambda o: o.ref.key) == planned
    assert [o for part in parts for o in part if not is_alone(o, packer)] == [
        o for o in planned if not is_alone(o, packer)
    ]
    assert all(is_alone(o, packer) for o in seen[: sum(is_alone(o, packer) for o in planned)])
    for part in parts:
        assert part
        work = [o.ref.size_bytes for o in part if o.action not in REMOVALS]
        assert len(part) == 1 or (sum(work) <= limits.partition_bytes and len(part) <= limits.partition_objects)


@given(versions, st.integers(0, 5))
def test_a_partition_survives_its_json(bucket: dict[str, str], prior: int) -> None:
    """Any key comes back, and equal content has an equal hash."""
    objects_ = tuple(
        PlannedObject(r, Action.CHANGED, prior_chunks=prior, prior_digest="d" if prior else "") for r in refs_of(bucket)
    )
    partition = Partition(PartitionId("a01-00001.0.1.x"), objects_)
    assert Partition.from_json(partition.id, partition.to_json()) == partition
    assert Partition(PartitionId("other"), objects_).content_hash() == partition.content_hash()


@given(st.lists(keys, max_size=40), st.integers(1, 7))
def test_any_listing_comes_out_sorted_by_bytes(listed: list[str], run_objects: int) -> None:
    """Also when it does not fit into memory; a key listed twice comes once, as listed last."""
    refs = [ObjectRef("docs", key, str(i), 1, "t") for i, key in enumerate(listed)]
    out = list(sort_listing(iter(refs), run_objects=run_objects))
    assert [r.key for r in out] == sorted(set(listed), key=str.encode)
    assert {r.key: r.etag for r in out} == {r.key: r.etag for r in refs}


@given(st.lists(keys, max_size=20))
def test_disorder_is_noticed_before_anything_wrong_is_yielded(listed: list[str]) -> None:
    """What comes through is always strictly increasing."""
    refs = [ObjectRef("docs", key, "e", 1, "t") for key in listed]
    seen: list[bytes] = []
    encoded = [key.encode() for key in listed]
    strictly_increasing = all(a < b for a, b in itertools.pairwise(encoded))
    if strictly_increasing:
        seen = [r.key.encode() for r in check_order(refs)]
        assert seen == encoded
    else:
        with pytest.raises(ListingOutOfOrderError):
            seen.extend(r.key.encode() for r in check_order(refs))
        assert seen == sorted(set(seen))


@given(st.lists(st.tuples(st.sampled_from(["b", "bb", "b/b"]), keys), unique=True, max_size=30))
def test_object_ids_are_injective(pairs: list[tuple[str, str]]) -> None:
    """No two of bucket and key share an id."""
    assert len({make_object_id(bucket, key) for bucket, key in pairs}) == len(pairs)
