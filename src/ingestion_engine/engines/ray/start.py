"""Reaching Ray, and a worker that gets ready there while the driver still imports, opens its clients and plans.

Nothing else is imported here: a process of Ray's takes a second until it runs its first task, and the sooner it is
asked for, the more of that second is hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_task(function: Callable[..., Any], task_cpus: float) -> Any:
    """Return a function as a task of Ray's, and connect this process to Ray where it is not yet.

    It runs at most once: retries are the driver's.

    Raises:
        ConnectionError: no cluster answers at ``RAY_ADDRESS``, after minutes in which Ray keeps trying.

    Cost: on the first call, importing Ray (half a CPU second) and a connection; nothing later.
    """
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    return ray.remote(max_retries=0, num_cpus=task_cpus)(function)


def warm_up(spec_uri: str, task_cpus: float) -> list[Any]:
    """Have one worker process get ready for a job; return what is under way, for ``RayEngine``. Returns meanwhile.

    One, for a job that finds nothing to do would have started the others in vain; the rest start with their first
    partitions. Raises and costs what ``make_task`` does.
    """
    return [make_task(_warm, task_cpus).remote(spec_uri)]


def _warm(spec_uri: str) -> None:
    from ingestion_engine.pipeline.worker import warm_worker

    warm_worker(spec_uri)
