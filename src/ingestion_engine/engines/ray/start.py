"""Connects to Ray, and warms up a worker while the driver still imports, opens its clients and plans.

Nothing else is imported here: a Ray worker process takes a second to run its first task, and the earlier it is
requested, the more of that second is hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_task(function: Callable[..., Any], task_cpus: float) -> Any:
    """Return a function as a Ray task, after connecting this process to Ray if necessary.

    A task runs at most once: only the driver retries.

    Raises:
        ConnectionError: no cluster responds at ``RAY_ADDRESS``, after minutes of retries by Ray.

    Cost: on the first call, importing Ray (0.5 s of CPU time) and a connection; nothing later.
    """
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    return ray.remote(max_retries=0, num_cpus=task_cpus)(function)


def warm_up(spec_uri: str, task_cpus: float) -> list[Any]:
    """Start to warm up one worker process for a job, and return the running tasks for ``RayEngine``. Does not wait.

    Only one, because a job without work would have started others for nothing; they start with their first partitions.
    Errors and cost are those of ``make_task``.
    """
    return [make_task(_warm, task_cpus).remote(spec_uri)]


def _warm(spec_uri: str) -> None:
    from ingestion_engine.pipeline.worker import warm_worker

    warm_worker(spec_uri)
