"""Selection: the keys that a job works on, and the prefixes that it lists."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.spec import Source
from ingestion_engine.driver.plan import globs
from ingestion_engine.driver.plan.globs import Glob
from ingestion_engine.driver.plan.selection import Selection
from support.line_steps import count_lines


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
    """The literal prefixes of globs, in byte order, without those that others cover."""
    assert Selection(Source(bucket="docs", prefix="p/", include=include)).prefixes == prefixes


def test_selection_by_keys() -> None:
    """A retry selects only its keys."""
    selection = Selection(Source(bucket="docs"), ["a"])
    assert selection.matches("a")
    assert not selection.matches("b")


@pytest.mark.parametrize(
    ("glob", "key"),
    [
        ("*a" * 8 + "*b", "a" * 240),
        ("**a" * 8 + "**b", "a" * 240),
        ("**/*a" * 8 + "**/b", "a/" * 120),
        ("**/" * 20 + "b", "a/" * 120),
        ("*[ab]*[!b]" * 8 + "b", "a" * 240),
        ("a**/a" * 9 + "b", "a/" * 120),
        ("?*" * 100 + "b", "a" * 240),
    ],
)
def test_steps_of_a_match_grow_with_the_key(glob: str, key: str) -> None:
    """No glob backtracks: a key of twice the length takes about twice the steps, and few of them."""
    found = Glob(glob)
    once, twice = (count_lines(lambda text=text: found.matches(text), globs) for text in (key, key * 2))
    assert twice <= 2 * once
    assert once <= 20 * (len(glob) + len(key))


def test_steps_of_reading_a_glob_grow_with_it() -> None:
    """Brackets that nothing closes are not searched to the end again and again."""
    once, twice = (count_lines(lambda length=length: Glob("[!" * length), globs) for length in (200, 400))
    assert twice <= 2 * once
