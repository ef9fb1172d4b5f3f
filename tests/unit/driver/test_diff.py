"""Planning: what a job works on, and how it is cut into partitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ingestion_engine.domain.records import Action, ObjectRef, PlannedObject, RowState, TableRow
from ingestion_engine.domain.spec import Chunking, FrozenLimits, Source
from ingestion_engine.driver.plan.diff import DiffRules, Tally, diff_objects
from ingestion_engine.driver.plan.packing import Packer, estimate_chunks, stagger
from ingestion_engine.driver.plan.selection import Selection

RULES = DiffRules(
    job_id="job-me",
    bucket="docs",
    fingerprint="f1",
    full=False,
    delete_missing=True,
    retry_failed=False,
    selects=lambda _: True,
)


def ref(key: str, etag: str = "e1", size: int = 10) -> ObjectRef:
    return ObjectRef("docs", key, etag, size, "2026-01-01T00:00:00Z")


def row(key: str, **changes: object) -> TableRow:
    known = TableRow(
        key=key,
        etag="e1",
        size_bytes=10,
        last_modified="2026-01-01T00:00:00Z",
        object_id="o",
        state=RowState.PRESENT,
        error_code=None,
        reason=None,
        retryable=False,
        fingerprint="f1",
        chunk_count=3,
        points_digest="d",
        vectors_digest="v",
        epoch=1,
        job_id="job-0",
        updated_at="now",
    )
    return replace(known, **changes)


def plan(listing: list[ObjectRef], table: list[TableRow], rules: DiffRules = RULES) -> tuple[dict[str, Action], Tally]:
    tally = Tally()
    return {p.ref.key: p.action for p in diff_objects(listing, table, rules, tally)}, tally


def test_every_reason_to_work_on_an_object_is_told_apart() -> None:
    """new, changed, unchanged, deleted, retry and dirty come out of one merge."""
    listing = [ref("changed", "e2"), ref("dirty"), ref("new"), ref("retry"), ref("same")]
    table = [
        row("changed"),
        row("dirty", state=RowState.FAILED, error_code="interrupted", retryable=True),
        row("gone"),
        row("retry", state=RowState.FAILED, error_code="x", retryable=True),
        row("same"),
    ]
    actions, tally = plan(listing, table)
    assert actions == {
        "changed": Action.CHANGED,
        "dirty": Action.DIRTY,
        "gone": Action.DELETE,
        "new": Action.NEW,
        "retry": Action.RETRY,
    }
    assert (tally.listed, tally.unchanged, tally.deletes, tally.table_rows) == (5, 1, 1, 5)


@pytest.mark.parametrize(
    "change", [{"etag": "e9"}, {"size_bytes": 11}, {"last_modified": "2026-02-02T00:00:00Z"}, {"fingerprint": "f0"}]
)
def test_any_difference_makes_an_object_changed(change: dict[str, object]) -> None:
    """etag, size, date and fingerprint all count."""
    actions, _ = plan([ref("a")], [row("a", **change)])
    assert actions == {"a": Action.CHANGED}


def test_a_permanent_failure_is_tried_again_only_on_request_or_change() -> None:
    """An unchanged failed object is counted, not read again."""
    failed = row("a", state=RowState.FAILED, error_code="corrupt_document")
    actions, tally = plan([ref("a")], [failed])
    assert actions == {}
    assert tally.failed_before == 1
    assert plan([ref("a")], [failed], replace(RULES, retry_failed=True))[0] == {"a": Action.RETRY}
    assert plan([ref("a", "e2")], [failed])[0] == {"a": Action.CHANGED}


def test_a_resumed_job_does_not_repeat_its_own_rows() -> None:
    """Rows written by an earlier attempt of the same job count as done or failed, also in mode full."""
    table = [row("a", job_id="job-me"), row("b", job_id="job-me", state=RowState.FAILED, error_code="x")]
    for full in (False, True):
        actions, tally = plan([ref("a"), ref("b")], table, replace(RULES, full=full, retry_failed=full))
        assert actions == {}
        assert (tally.already_done, tally.already_failed, tally.unchanged) == (1, 1, 0)


def test_full_works_on_everything_listed() -> None:
    """Mode full does not ask the table, and still deletes what is gone."""
    actions, _ = plan([ref("a"), ref("b")], [row("a"), row("z")], replace(RULES, full=True))
    assert actions == {"a": Action.FULL, "b": Action.FULL, "z": Action.DELETE}


def test_directory_markers_are_counted_and_never_planned() -> None:
    """Only zero-byte keys with a trailing slash are markers; one that replaced an object removes its points."""
    actions, tally = plan([ref("a/", size=0), ref("b/", size=5), ref("c/", size=0)], [row("c/")])
    assert actions == {"b/": Action.NEW, "c/": Action.PURGE}
    assert tally.directory_markers == 2


def test_delete_missing_false_keeps_everything() -> None:
    """Without it nothing is planned for rows without an object."""
    assert plan([], [row("a")], replace(RULES, delete_missing=False))[0] == {}


def test_rows_outside_the_filters_are_left_alone() -> None:
    """A narrowed job neither counts nor deletes what it does not select."""
    selection = Selection(Source(bucket="docs", include=("*.md",)))
    rules = replace(RULES, selects=selection.matches, leaves_out=selection.leaves_out)
    actions, tally = plan([ref("a.md"), ref("b.pdf")], [row("c.pdf"), row("d.pdf"), row("e.md")], rules)
    assert actions == {"a.md": Action.NEW, "e.md": Action.DELETE}
    assert (tally.listed, tally.table_rows, tally.outside_filters) == (1, 1, 2)


def test_a_retry_does_not_report_what_it_is_not_about() -> None:
    """Its list of keys is no filter: the other objects are nobody's news."""
    selection = Selection(Source(bucket="docs", exclude=("x*",)), ["a"])
    rules = replace(RULES, selects=selection.matches, leaves_out=selection.leaves_out)
    actions, tally = plan([ref("a", "e2")], [row("a"), row("b"), row("x")], rules)
    assert actions == {"a": Action.CHANGED}
    assert tally.outside_filters == 1


def test_prior_points_travel_with_the_plan() -> None:
    """What a failed new version would leave behind stays known."""
    planned = next(diff_objects([ref("a", "e2")], [row("a")], RULES, Tally()))
    assert (planned.prior_chunks, planned.prior_digest) == (3, "d")


@pytest.mark.parametrize(
    ("include", "exclude", "key", "matches"),
    [
        ((), (), "p/any", True),
        ((), (), "q/any", False),
        (("**/*.md",), (), "p/a.md", True),
        (("**/*.md",), (), "p/x/y/a.md", True),
        (("*.md",), (), "p/x/a.md", False),
        (("*.md",), (), "p/a.MD", False),
        (("**",), ("drafts/**",), "p/drafts/a.md", False),
        (("[ab]?.txt",), (), "p/a1.txt", True),
        (("[!ab]?.txt",), (), "p/a1.txt", False),
        (("a+b(1).md",), (), "p/a+b(1).md", True),
        (("*",), (), "p/line\nbreak", True),
        (("a[", "x"), (), "p/a[", True),
    ],
)
def test_selection(include: tuple[str, ...], exclude: tuple[str, ...], key: str, matches: bool) -> None:
    """Globs are matched against the key after the prefix."""
    source = Source(bucket="docs", prefix="p/", include=include, exclude=exclude)
    assert Selection(source).matches(key) is matches


@pytest.mark.parametrize(
    ("include", "prefixes"),
    [
        ((), ["p/"]),
        (("2024/**/*.md",), ["p/2024/"]),
        (("2024/**", "2023/**", "2024/q1/*"), ["p/2023/", "p/2024/"]),
        (("2024/**", "**/*.md"), ["p/"]),
        (("a[bc]*", "a[", "README.md"), ["p/README.md", "p/a"]),
        (("[!]x?", "ä/*", "z/*"), ["p/[!]x", "p/z/", "p/ä/"]),
        (("x" * 2000 + "*",), ["p/" + "x" * 1022]),
        (tuple(f"2024/{day:03}/*" for day in range(101)), ["p/2024/"]),
    ],
)
def test_what_is_listed(include: tuple[str, ...], prefixes: list[str]) -> None:
    """The literal beginnings of globs, in the order of bytes, without those that others cover."""
    assert Selection(Source(bucket="docs", prefix="p/", include=include)).prefixes == prefixes


def test_selection_by_keys() -> None:
    """A retry looks at its keys alone."""
    selection = Selection(Source(bucket="docs"), ["a"])
    assert selection.matches("a")
    assert not selection.matches("b")


def planned(key: str, size: int) -> PlannedObject:
    return PlannedObject(ref(key, size=size), Action.NEW)


def test_a_large_object_gets_its_own_partition() -> None:
    """It does not hold up the small ones that stand beside it."""
    objects = [planned("a", 10), planned("b", 40 * 2**20), planned("c", 10)]
    parts = list(Packer(FrozenLimits(), Chunking()).pack(objects))
    assert [[p.ref.key for p in part] for part in parts] == [["a"], ["b"], ["c"]]


def test_a_small_job_is_spread_over_its_workers() -> None:
    """At least four partitions per parallel worker when there are objects enough."""
    objects = [planned(f"{i:04}", 2_000) for i in range(100)]
    packer = Packer(FrozenLimits(), Chunking())
    parts = list(packer.shrunk_for(objects, 4).pack(objects))
    assert 16 <= len(parts) <= 34


def count_objects(parts: list[tuple[PlannedObject, ...]]) -> list[int]:
    return [len(part) for part in parts]


def test_partitions_of_a_job_rise_at_its_begin_and_fall_at_its_end() -> None:
    """Workers that began together would otherwise end together; and all of them end with the job."""
    assert stagger(4) == [0.25, 0.5, 0.75]
    assert stagger(1) == []
    limits = FrozenLimits().model_copy(update={"partition_objects": 40})
    objects = [planned(f"{i:04}", 10) for i in range(320)]
    packer = Packer(limits, Chunking())
    whole = packer.pack_block(objects, rising=stagger(4), falling=stagger(4))
    assert count_objects(whole) == [10, 20, 30, 40, 40, 40, 40, 40, 30, 20, 10]
    assert [o for part in whole for o in part] == objects
    ends = [0] * 4
    for size in count_objects(whole):  # whoever ends first takes the next
        ends[ends.index(min(ends))] += size
    assert ends == [80] * 4
    assert count_objects(packer.pack_block(objects, rising=stagger(4)))[-3:] == [40, 40, 20]
    assert count_objects(packer.pack_block(objects, falling=stagger(4)))[:3] == [40, 40, 40]


def test_large_objects_begin_first() -> None:
    """One that began last would keep a worker busy when nothing else is left."""
    objects = [planned("a", 10), planned("b", 40 * 2**20), planned("c", 10), planned("d", 50 * 2**20)]
    parts = Packer(FrozenLimits(), Chunking()).pack_block(objects)
    assert [[p.ref.key for p in part] for part in parts] == [["d"], ["b"], ["a", "c"]]


def test_comparisons_are_weighed_by_their_points() -> None:
    """Nothing of an object is read, so none is large."""
    objects = [PlannedObject(ref(key, size=40 * 2**20), Action.VERIFY, prior_chunks=100) for key in "abc"]
    assert Packer(FrozenLimits(), Chunking()).pack_block(objects) == [tuple(objects)]


CHUNKS: list[tuple[str, int, Callable[[int], bool]]] = [
    ("a.txt", 0, lambda n: n == 1),
    ("a.txt", 105_000, lambda n: n == 100),
    ("a.pdf", 105_000, lambda n: n == 10),
    ("a.txt.gz", 105_000, lambda n: n == 400),
]


@pytest.mark.parametrize(("key", "size", "plausible"), CHUNKS)
def test_estimates(key: str, size: int, plausible: Callable[[int], bool]) -> None:
    """Estimates follow size and type, and are never zero."""
    assert plausible(estimate_chunks(ref(key, size=size), Chunking()))
