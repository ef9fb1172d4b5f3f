"""Constructors stay small, and calls with many arguments name them, so that no field is forgotten or swapped."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

_SRC = Path(__file__).resolve().parents[2] / "src"
_SOURCES = sorted(path for path in _SRC.rglob("*.py") if "migrations" not in path.parts)
_MAX_PARAMETERS = 8
_MAX_POSITIONAL = 3
_FORWARDING = {"to_thread", "partial", "run_in_executor", "submit", "run_in_threadpool"}
"""Callables whose further arguments belong to the function that is their first."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _decorator(node: ast.ClassDef, name: str) -> ast.expr | None:
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name) and target.id == name:
            return decorator
    return None


def _is_frozen(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and any(
        keyword.arg == "frozen" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in decorator.keywords
    )


def _is_parameter(node: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    if not isinstance(node, ast.AnnAssign):
        return False
    value = node.value
    return not (
        isinstance(value, ast.Call)
        and any(
            keyword.arg == "init" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            for keyword in value.keywords
        )
    )


def constructors(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, int]]:
    """Yield classes that are not frozen records with the number of their constructors' parameters."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        dataclass = _decorator(node, "dataclass")
        if dataclass is not None:
            if not _is_frozen(dataclass):
                fields = [statement for statement in node.body if _is_parameter(statement)]
                if any(statement.value is None for statement in fields):  # else it is a set of counters
                    yield node, len(fields)
            continue
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                arguments = statement.args
                yield node, len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1


def defined_names() -> set[str]:
    """Names of every class, function and method of ours."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for path in _SOURCES for node in ast.walk(parse(path)) if isinstance(node, kinds)}


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def positional_calls(tree: ast.Module, ours: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and callee of every call of ours with more than three positional arguments."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = _name(node.func), node.args
        while name in _FORWARDING and arguments:
            skip = 2 if name == "run_in_executor" else 1
            name, arguments = _name(arguments[skip - 1]), arguments[skip:]
        if name in ours and not hasattr(builtins, name) and len(arguments) > _MAX_POSITIONAL:
            yield node.lineno, name


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(_SRC)) for path in paths]


@pytest.fixture(scope="module")
def ours() -> set[str]:
    return defined_names()


@pytest.mark.parametrize("path", _SOURCES, ids=ids(_SOURCES))
def test_no_constructor_has_more_than_eight_parameters(path: Path) -> None:
    """Frozen records are exempt: they are data, and the next test makes their construction name every field."""
    large = {node.name: count for node, count in constructors(parse(path)) if count > _MAX_PARAMETERS}
    assert not large


@pytest.mark.parametrize("path", _SOURCES, ids=ids(_SOURCES))
def test_no_call_has_more_than_three_positional_arguments(path: Path, ours: set[str]) -> None:
    """Further arguments are passed by name."""
    assert not list(positional_calls(parse(path), ours))


def test_the_checks_see_what_they_are_for() -> None:
    """Each finds a planted violation and leaves the allowed form alone."""
    tree = ast.parse(
        "class Big:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...\n"
        "Big(1, 2, 3, 4)\nBig(1, 2, 3, d=4)\nto_thread(Big, 1, 2, 3, 4)\n"
    )
    assert [(node.name, count) for node, count in constructors(tree)] == [("Big", 9)]
    assert [line for line, _ in positional_calls(tree, {"Big"})] == [3, 5]
