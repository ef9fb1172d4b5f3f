"""Running a job with another main file than the product's, on the same clusters and by the same requests."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path

from ingestion_engine.domain.spec import EngineName, JobSpec
from ingestion_engine.runtime.spec_uri import with_location
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.submission.kubernetes.spark_manifest import build_manifest
from ingestion_engine.submission.ray.jobs import RayJobsClient
from support.platform_world import APPLICATIONS, Platform

DRIVER_MAIN = Path(__file__).with_name("driver_main.py")


def start_main(platform: Platform, ledger: Ledger, attempt: int, *arguments: str) -> None:
    """Start an attempt whose driver is ``driver_main.py``; locally, run it to its end."""
    spec = ledger.read_spec()
    spec_uri = with_location(ledger.spec_uri, platform.settings)
    words = ["--spec", spec_uri, "--attempt", str(attempt), "--engine", spec.engine.value, *arguments]
    if spec.engine is EngineName.SPARK:
        _create_application(platform, spec, attempt, spec_uri, words)
        return
    command = [sys.executable, str(DRIVER_MAIN), *words]
    if spec.engine is EngineName.RAY:
        asyncio.run(_submit_to_ray(platform, f"{spec.job_id}-{attempt:02d}", command))
    else:
        environment = {**os.environ, **platform.env}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=240)


def _create_application(platform: Platform, spec: JobSpec, attempt: int, spec_uri: str, words: list[str]) -> None:
    manifest = build_manifest(spec.job_id, attempt, spec_uri, parallelism=spec.parallelism, settings=platform.settings)
    manifest["spec"] |= {"mainApplicationFile": f"local://{DRIVER_MAIN}", "arguments": words}
    with platform.kubernetes() as client:
        answer = client.post(APPLICATIONS.format(platform.settings.spark.namespace), json=manifest)
    assert answer.status_code == 201, answer.text


async def _submit_to_ray(platform: Platform, submission_id: str, command: list[str]) -> None:
    ray = platform.settings.ray
    assert ray.address is not None
    assert ray.auth_token is not None
    client = RayJobsClient(ray.address, ray.auth_token.get_secret_value())
    try:
        await client.submit(submission_id, shlex.join(command), runtime_env={}, metadata={})
    finally:
        await client.close()
