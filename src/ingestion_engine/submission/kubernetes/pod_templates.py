"""Pod templates for Spark's driver and executors, from the file ``INGEST_SPARK__POD_TEMPLATE``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ingestion_engine.domain.errors import FatalError

PodTemplates = Mapping[str, Any]
"""One pod template for both roles (``spec``, ``metadata``), or one each under ``driver`` and ``executor``."""


def read_pod_templates(path: Path | None) -> PodTemplates | None:
    """Return the content of a file of pod templates; None without a path.

    Raises:
        FatalError: "engine_misconfigured": the file cannot be read as YAML or JSON, or is not a mapping.
    """
    if path is None:
        return None
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FatalError(
            "engine_misconfigured",
            f"The pod template {str(path)!r} cannot be read ({type(error).__name__}).",
            hint="Set INGEST_SPARK__POD_TEMPLATE to a YAML or JSON file.",
        ) from error
    if not isinstance(data, dict):
        raise FatalError("engine_misconfigured", f"The pod template {str(path)!r} is not a mapping.")
    return data
