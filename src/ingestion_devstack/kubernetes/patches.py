"""JSON merge patch (RFC 7386) and the JSON patch operations add, remove, replace and test (RFC 6902). Pure."""

from __future__ import annotations

import copy
from typing import Any

from ingestion_devstack.kubernetes.errors import ApiError, bad_request


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` merged into it: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(target: Any, operations: Any) -> Any:
    """Return `target` after all operations.

    Raises:
        ApiError: 400 for what is no list of known operations, 422 for one that does not fit the object.
    """
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    patched = copy.deepcopy(target)
    for operation in operations:
        if not isinstance(operation, dict) or not {"op", "path"} <= operation.keys():
            raise bad_request("error decoding patch: an operation has op and path")
        if operation["op"] not in ("add", "remove", "replace", "test"):
            raise bad_request(f"the stand-in applies add, remove, replace and test, not {operation['op']!r}")
        try:
            _apply(patched, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            message = f"the server rejected our request due to an error in our request: {operation['path']}"
            raise ApiError(422, "Invalid", message, details={}) from error
    return patched


def _apply(target: Any, operation: dict[str, Any]) -> None:
    *parents, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    for step in parents:
        target = target[int(step)] if isinstance(target, list) else target[step]
    kind, value = operation["op"], operation.get("value")
    if isinstance(target, list):
        _apply_to_list(target, last, kind, value)
    elif kind == "add":
        target[last] = value
    elif kind == "test":
        _require_equal(target[last], value)
    else:
        del target[last]
        if kind == "replace":
            target[last] = value


def _apply_to_list(target: list[Any], last: str, kind: str, value: Any) -> None:
    if kind == "add":
        target.insert(len(target) if last == "-" else int(last), value)
    elif kind == "test":
        _require_equal(target[int(last)], value)
    elif kind == "replace":
        target[int(last)] = value
    else:
        del target[int(last)]


def _require_equal(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError("test failed")
