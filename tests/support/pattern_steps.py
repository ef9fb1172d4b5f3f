"""Counts the steps of a backtracking matcher, and makes texts on which a regular expression takes most of them.

Seconds depend on the machine; steps do not. The matcher tries what ``re`` tries, in the same order, without the
shortcuts of ``re``, so it takes at least as many steps.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from re import _constants as codes  # type: ignore[attr-defined]  # the parser of the standard library has no stub
from re import _parser as parser  # type: ignore[attr-defined]  # see above
from typing import Any

MANY = 10
"""Repetitions from which a repetition counts as unbounded."""

Ends = Iterator[int]
Node = Callable[[str, int], Ends]
"""Yields the ends of all matches from a position on, in the order of preference."""


class TooManySteps(Exception):
    """The matcher has used up its steps."""


def is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    codes.CATEGORY_DIGIT: str.isdecimal,
    codes.CATEGORY_NOT_DIGIT: lambda char: not char.isdecimal(),
    codes.CATEGORY_SPACE: str.isspace,
    codes.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    codes.CATEGORY_WORD: is_word,
    codes.CATEGORY_NOT_WORD: lambda char: not is_word(char),
}


def is_in(items: Sequence[tuple[Any, Any]], char: str) -> bool:
    """Return whether a character is in a class, as the parser gives it."""
    negated = bool(items) and items[0][0] is codes.NEGATE
    found = any(
        (kind is codes.LITERAL and ord(char) == value)
        or (kind is codes.RANGE and value[0] <= ord(char) <= value[1])
        or (kind is codes.CATEGORY and _CATEGORIES[value](char))
        for kind, value in items
    )
    return found != negated


class Matcher:
    """A regular expression as a backtracking matcher that counts.

    Args:
        pattern: The compiled expression, of text or bytes.
        most_steps: Steps after which it gives up.
    """

    def __init__(self, pattern: re.Pattern[Any], most_steps: int = 1_000_000) -> None:
        source = pattern.pattern
        self.steps = 0
        self.most_steps = most_steps
        self.tree = parser.parse(source, pattern.flags)
        self._flags = pattern.flags | self.tree.state.flags
        self._start = self._sequence(list(self.tree))

    def match(self, text: str, at: int = 0, *, whole: bool = False) -> int | None:
        """Return the end of the match at a position, of the whole text if wanted; None without one."""
        for end in self._start(text, at):
            if not whole or end == len(text):
                return end
        return None

    def scan(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of all matches, as ``finditer`` finds them."""
        found, at, is_empty = [], 0, False
        while at <= len(text):
            end = next((end for end in self._start(text, at) if end != at or not is_empty), None)
            if end is None:
                at, is_empty = at + 1, False
                continue
            found.append((at, end))
            is_empty = at == end
            at = end
        return found

    def _step(self) -> None:
        self.steps += 1
        if self.steps > self.most_steps:
            raise TooManySteps

    def _sequence(self, items: list[tuple[Any, Any]]) -> Node:
        nodes = [self._node(*item) for item in items]
        if len(nodes) == 1:
            return nodes[0]

        def run(text: str, at: int, first: int = 0) -> Ends:
            if first == len(nodes):
                yield at
                return
            for end in nodes[first](text, at):
                yield from run(text, end, first + 1)

        return run

    def _node(self, kind: Any, value: Any) -> Node:
        test = self._single(kind, value)
        if test is not None:
            return self._char(test)
        if kind is codes.SUBPATTERN:
            return self._sequence(list(value[3]))
        if kind is codes.BRANCH:
            return self._branch([self._sequence(list(item)) for item in value[1]])
        if kind is codes.ATOMIC_GROUP:
            return self._first(self._sequence(list(value)))
        if kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            low, high, items = value
            only = list(items)
            single = self._single(*only[0]) if len(only) == 1 else None
            node = self._run(single, low, high) if single else self._repeat(self._sequence(only), low, high)
            if kind is codes.MIN_REPEAT:
                return self._lazy(self._sequence(only), low, high)
            return self._first(node) if kind is codes.POSSESSIVE_REPEAT else node
        if kind in (codes.ASSERT, codes.ASSERT_NOT):
            node, behind = self._sequence(list(value[1])), 0 if value[0] > 0 else value[1].getwidth()[1]
            return self._look(node, behind=behind, wanted=kind is codes.ASSERT)
        if kind is codes.AT:
            return self._place(value)
        if kind is codes.FAILURE:
            return lambda _text, _at: iter(())
        raise NotImplementedError(f"{kind} in a regular expression")

    def _single(self, kind: Any, value: Any) -> Callable[[str], bool] | None:
        """Return the test of a node that matches one character; None for any other node."""
        if kind is codes.LITERAL:
            items, negated = [(codes.LITERAL, value)], False
        elif kind is codes.NOT_LITERAL:
            items, negated = [(codes.LITERAL, value)], True
        elif kind is codes.ANY:
            items = [] if self._flags & re.DOTALL else [(codes.LITERAL, 10)]
            negated = True
        elif kind is codes.IN:
            items, negated = value, False
        else:
            return None
        known: dict[str, bool] = {}

        def test(char: str) -> bool:
            if char not in known:
                cases = {char, char.lower(), char.upper()} if self._flags & re.IGNORECASE else {char}
                if items and items[0][0] is codes.NEGATE:
                    known[char] = all(is_in(items, case) for case in cases)
                else:
                    known[char] = any(is_in(items, case) for case in cases) != negated
            return known[char]

        return test

    def _char(self, test: Callable[[str], bool]) -> Node:
        def run(text: str, at: int) -> Ends:
            self._step()
            if at < len(text) and test(text[at]):
                yield at + 1

        return run

    def _branch(self, nodes: list[Node]) -> Node:
        def run(text: str, at: int) -> Ends:
            for node in nodes:
                self._step()
                yield from node(text, at)

        return run

    def _first(self, node: Node) -> Node:
        def run(text: str, at: int) -> Ends:
            end = next(node(text, at), None)
            if end is not None:
                yield end

        return run

    def _run(self, test: Callable[[str], bool], low: int, high: int) -> Node:
        def run(text: str, at: int) -> Ends:
            end, most = at, min(len(text), at + int(high))
            while end < most and test(text[end]):
                self._step()
                end += 1
            for stop in range(end, at + low - 1, -1):
                self._step()
                yield stop

        return run

    def _repeat(self, node: Node, low: int, high: int) -> Node:
        def run(text: str, at: int) -> Ends:
            stack = [(node(text, at), at)]
            while stack:
                self._step()
                ends, start = stack[-1]
                end = next(ends, None) if len(stack) <= high else None
                if end is not None and (end != start or len(stack) <= low):
                    stack.append((node(text, end), end))
                    continue
                stack.pop()
                if len(stack) >= low:
                    yield start

        return run

    def _lazy(self, node: Node, low: int, high: int) -> Node:
        def run(text: str, at: int) -> Ends:
            stack: list[Ends] = [iter((at,))]
            while stack:
                self._step()
                end = next(stack[-1], None)
                if end is None:
                    stack.pop()
                    continue
                if len(stack) > low:
                    yield end
                if len(stack) <= high:
                    stack.append(node(text, end))

        return run

    def _look(self, node: Node, *, behind: int, wanted: bool) -> Node:
        """Return a node that looks ahead, or behind at that many characters: ``re`` knows only fixed widths there."""

        def run(text: str, at: int) -> Ends:
            self._step()
            found = at >= behind and next(node(text, at - behind), None) is not None
            if found == wanted:
                yield at

        return run

    def _place(self, place: Any) -> Node:
        lines = bool(self._flags & re.MULTILINE)

        def test(text: str, at: int) -> bool:
            if place in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING):
                return at == 0 or (lines and place is codes.AT_BEGINNING and text[at - 1] == "\n")
            if place is codes.AT_END_STRING:
                return at == len(text)
            if place is codes.AT_END:
                return at == len(text) or text[at:] == "\n" or (lines and text[at] == "\n")
            before, after = at > 0 and is_word(text[at - 1]), at < len(text) and is_word(text[at])
            return (before != after) == (place is codes.AT_BOUNDARY)

        def run(text: str, at: int) -> Ends:
            self._step()
            if test(text, at):
                yield at

        return run


_ANYTHING = ("a", "0", " ", "\n", "!", "-", "é", "\0")
"""Characters to try for classes that exclude others."""


@dataclass(slots=True)
class Attack:
    """Makes texts from an expression's own pieces: a beginning, something repeated, and an end that may not match."""

    pattern: re.Pattern[Any]
    _pumps: dict[str, None] = field(default_factory=dict, init=False)
    _starts: dict[str, None] = field(default_factory=dict, init=False)
    _chars: dict[str, None] = field(default_factory=dict, init=False)

    def parts(self) -> Iterator[tuple[str, str, str]]:
        """Yield the parts of texts: beginning, what to repeat, end."""
        tree = list(parser.parse(self.pattern.pattern, self.pattern.flags))
        self._starts[""] = None
        self._visit(tree, "")
        pumps = dict.fromkeys([*self._pumps, *list(self._chars)[:12]])
        ends = ("", "\0", "\n!", *list(self._chars)[:2])
        yield from itertools.product(self._starts, filter(None, pumps), dict.fromkeys(ends))

    def _visit(self, items: Sequence[tuple[Any, Any]], before: str) -> None:
        """Collect beginnings and repetitions; ``before`` matches what is in front of the items."""
        start = before
        for kind, value in items:
            if kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
                _, high, inner = value
                if int(high) >= MANY:
                    self._starts[start] = None
                    self._pumps |= dict.fromkeys(self.samples(list(inner)))
                self._visit(list(inner), start)
            elif kind is codes.SUBPATTERN:
                self._visit(list(value[3]), start)
            elif kind is codes.BRANCH:
                for item in value[1]:
                    self._visit(list(item), start)
            elif kind is codes.ATOMIC_GROUP:
                self._visit(list(value), start)
            elif kind in (codes.ASSERT, codes.ASSERT_NOT):
                self._visit(list(value[1]), start)
            start += self.samples([(kind, value)])[0]
            if start != before:
                self._pumps[start] = None

    def samples(self, items: Sequence[tuple[Any, Any]]) -> list[str]:
        """Return some short texts that match the items, the first one with every repetition."""
        choices = [self._sample(*item) for item in items]
        first = [choice[0] for choice in choices]
        found = ["".join(first)]
        for at, choice in enumerate(choices):
            found += ["".join([*first[:at], other, *first[at + 1 :]]) for other in choice[1:]]
        return list(dict.fromkeys(found))[:8]

    def _sample(self, kind: Any, value: Any) -> list[str]:
        if kind is codes.LITERAL:
            self._chars[chr(value)] = None
            return [chr(value)]
        if kind in (codes.NOT_LITERAL, codes.ANY):
            excluded = chr(value) if kind is codes.NOT_LITERAL else "\n"
            self._chars[excluded] = None
            return [char for char in _ANYTHING if char != excluded][:3]
        if kind is codes.IN:
            return self._sample_class(value)
        if kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            low, high, inner = value
            most = [text * max(low, 1) for text in self.samples(list(inner))]
            return [*most, *(text * 2 for text in most[:2] if high > 1), *([""] if low == 0 else [])]
        if kind is codes.SUBPATTERN:
            return self.samples(list(value[3]))
        if kind is codes.BRANCH:
            return [text for item in value[1] for text in self.samples(list(item))]
        if kind is codes.ATOMIC_GROUP:
            return self.samples(list(value))
        if kind is codes.ASSERT:
            return ["", *self.samples(list(value[1]))]
        return [""]

    def _sample_class(self, items: Sequence[tuple[Any, Any]]) -> list[str]:
        named = [
            chr(value if kind is codes.LITERAL else value[0])
            for kind, value in items
            if kind in (codes.LITERAL, codes.RANGE)
        ]
        self._chars |= dict.fromkeys(named[:4])
        return [char for char in dict.fromkeys([*named, *_ANYTHING]) if is_in(items, char)][:4] or [""]


@dataclass(frozen=True, slots=True)
class Worst:
    """The text on which an expression takes most steps for its length."""

    steps_per_char: float = 0.0
    growth: float = 1.0
    """Steps per character of a text twice as long, relative to those of this text: 1 if linear, 2 if quadratic."""
    text: str = ""


MOST_STEPS_PER_CHAR = 100
"""Steps per character that no linear expression of reasonable length needs."""

MOST_GROWTH = 1.5
"""Growth between that of a linear expression and of a quadratic one."""

FEW_STEPS_PER_CHAR = 5
"""Steps per character of a short text that are too few to be worth a look at a longer one."""


def find_worst(pattern: re.Pattern[Any], *, scans: bool, whole: bool = False, length: int = 160) -> Worst:
    """Return the first text whose steps grow faster than its length, or else the one with most steps per character.

    Args:
        pattern: The expression.
        scans: Whether it is searched for in a text, or applied from one match to the next.
        whole: Whether it must match a whole text, if it does not scan.
        length: Length of the texts, about.
    """

    def steps_per_char(text: str) -> float:
        matcher = Matcher(pattern, most_steps=MOST_STEPS_PER_CHAR * (len(text) + 1))
        try:
            if scans:
                matcher.scan(text)
            else:
                matcher.match(text, whole=whole)
        except (TooManySteps, RecursionError):
            return math.inf
        return matcher.steps / (len(text) + 1)

    worst = Worst()
    for start, pump, end in Attack(pattern).parts():
        count = length // len(pump) + 1
        text = start + pump * count + end
        steps = steps_per_char(text)
        growth = 1.0
        if steps > FEW_STEPS_PER_CHAR:
            growth = steps_per_char(start + pump * 2 * count + end) / steps if steps < math.inf else math.inf
            if growth > MOST_GROWTH:
                return Worst(steps, growth, text)
        if steps > worst.steps_per_char:
            worst = Worst(steps, growth, text)
    return worst
