"""Every regular expression takes time in proportion to its input, whatever the input."""

from __future__ import annotations

import ast
import fnmatch
import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.pattern_steps import MOST_GROWTH, Attack, Matcher, TooManySteps, find_worst

_SOURCE = Path(__file__).resolve().parents[2] / "src"
_PATHS = sorted(path for path in _SOURCE.rglob("*.py") if "migrations" not in path.parts)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression of the product and how it is used."""

    name: str
    pattern: re.Pattern[Any]
    scans: bool
    """True unless every use tries one place of the text only."""
    whole: bool
    """True when every use must match the whole text."""


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _calls_of_re(node: ast.AST) -> Iterator[ast.Call]:
    for child in ast.walk(node):
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            owner = child.func.value
            if isinstance(owner, ast.Name) and owner.id == "re" and child.func.attr not in ("escape", "purge"):
                yield child


def _uses(name: str, paths: list[Path]) -> set[str]:
    """Return how modules use a name: "match" and "fullmatch" called on it, "scans" for any other use."""
    found = set()
    for path in paths:
        nodes = list(ast.walk(_tree(path)))
        calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        # A match at a given place is one step of a scan.
        anchored = {
            id(call.func.value): call.func.attr
            for call in calls
            if call.func.attr == "fullmatch" or (call.func.attr == "match" and len(call.args) == 1)
        }
        loads = (node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        found |= {anchored.get(id(node), "scans") for node in loads if node.id == name}
    return found


def _patterns(value: object) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | frozenset | set):
        for item in value:
            yield from _patterns(item)
    elif isinstance(value, dict):
        yield from _patterns(list(value.values()))


def _expressions() -> Iterator[Expression]:
    for path in _PATHS:
        if not any(_calls_of_re(_tree(path))):
            continue
        module = importlib.import_module(".".join(path.relative_to(_SOURCE).with_suffix("").parts))
        for statement in _tree(path).body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or not any(_calls_of_re(statement)):
                continue
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            assert isinstance(target, ast.Name), f"{path}: {ast.unparse(statement)}"
            uses = _uses(target.id, [path] if target.id.startswith("_") else _PATHS)
            for number, pattern in enumerate(_patterns(getattr(module, target.id))):
                name = f"{module.__name__}.{target.id}" + (f"[{number}]" if number else "")
                yield Expression(name, pattern, scans="scans" in uses, whole=uses == {"fullmatch"})


_EXPRESSIONS = [
    *_expressions(),
    Expression("globs of API keys", re.compile(fnmatch.translate("*a*a*a*a*a?*[ab]*b")), scans=False, whole=True),
]


def test_every_expression_is_a_constant_of_its_module() -> None:
    """Only there do the tests below find it: none is compiled, or applied uncompiled, in a function."""
    hidden = []
    for path in _PATHS:
        constants = {
            id(call) for statement in _tree(path).body if isinstance(statement, ast.Assign | ast.AnnAssign)
            for call in _calls_of_re(statement)
        }  # fmt: skip
        hidden += [f"{path}:{call.lineno}" for call in _calls_of_re(_tree(path)) if id(call) not in constants]
        imported = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom) and node.module == "re"]
        hidden += [f"{path}:{node.lineno}" for node in imported]
    assert not hidden
    assert len(_EXPRESSIONS) > 40


@pytest.mark.parametrize("expression", _EXPRESSIONS, ids=[each.name for each in _EXPRESSIONS])
def test_steps_grow_with_the_length(expression: Expression) -> None:
    """A text of twice the length takes about twice the steps, for texts made to make it backtrack."""
    worst = find_worst(expression.pattern, scans=expression.scans, whole=expression.whole)
    assert worst.growth < MOST_GROWTH, worst


@pytest.mark.parametrize("expression", _EXPRESSIONS, ids=[each.name for each in _EXPRESSIONS])
def test_the_counting_matcher_matches_as_re_does(expression: Expression) -> None:
    """Its steps say something about ``re`` only if both find the same."""
    is_text = isinstance(expression.pattern.pattern, str)
    for start, pump, end in Attack(expression.pattern).parts():
        text = start + pump * 2 + end
        subject = text if is_text else text.encode("latin-1", "replace")
        text = text if is_text else subject.decode("latin-1")
        try:
            spans = Matcher(expression.pattern, 50_000).scan(text)
        except TooManySteps:  # the test above is for that
            continue
        assert spans == [found.span() for found in expression.pattern.finditer(subject)], text


FORMER = {
    "comments before HTML": (
        r"\s*(?:<!--.*?-->\s*)*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", False,
    ),
    "lines of headings": (r"(?:\s* {0,3}#{1,6} [^\n]*)+\s*", False),
    "fonts of Rich Text": (r"\\f(\d+)(?:\\(?!fcharset)[a-z]+-?\d* ?)*\\fcharset(\d+)", True),
    "cell marks of Rich Text": (r"(?: \| )+(?=\n|$)", True),
    "encoding of a page": (r"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", True),
    "pieces of a glob": (r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", True),
    "a glob": (r"[^/]*a[^/]*a[^/]*a[^/]*a[^/]*a[^/]*b", False),
    "nested": (r"(a+)+b", False),
    "alternatives": (r"(?:a|aa)+b", False),
    "adjacent": (r"\d+\d+x", False),
}  # fmt: skip
"""Expressions that this project had, and textbook ones, and whether each scans a text."""


@pytest.mark.parametrize("name", FORMER)
def test_bad_expressions_are_found(name: str) -> None:
    """The test above would have refused each of them."""
    source, scans = FORMER[name]
    assert find_worst(re.compile(source, re.IGNORECASE | re.DOTALL), scans=scans, whole=not scans).growth > MOST_GROWTH
