"""Shares of the embedding limit: never exceeded, nobody starved, every server as busy as the others."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingestion_engine.adapters.ollama.server_pool import Flight, Server, ServerPool
from ingestion_engine.domain.spec import EngineName, JobRequest, JobSpec
from ingestion_engine.domain.states import JobState
from ingestion_engine.pipeline.worker import choose_home
from ingestion_engine.runtime.adaptive_limit import Outcome
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.admission import admit_jobs
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.shares import (
    LARGEST_SHARE,
    QUEUED_PER_SERVER,
    Grant,
    choose_share,
    grant_parallelism,
)
from ingestion_engine.services.specs import make_spec

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

servers = st.integers(1, 40)
parallelisms = st.integers(1, 60)


def make_settings(count: int, in_flight: int | None = None) -> Settings:
    urls = ",".join(f"http://ollama-{number}:11434" for number in range(count))
    return Settings(state_url="file:///state", ollama={"urls": urls}, embed={"in_flight": in_flight})


def request_for(parallelism: int) -> JobRequest:
    body = {"source": {"bucket": "docs"}, "collection": "notes", "parallelism": parallelism}
    return JobRequest.model_validate(body)


def spec_for(count: int, parallelism: int, **fields: Any) -> JobSpec:
    request = request_for(parallelism)
    return make_spec(make_settings(count), request, EngineName.RAY, "job-a", parallelism=parallelism, **fields)


@given(servers, parallelisms, st.integers(0, 200))
def test_a_share_is_bounded_by_servers_and_by_what_is_free(count: int, parallelism: int, free: int) -> None:
    """At least one; more only as far as servers have use for it and half of what is free stays for others."""
    share = choose_share(make_settings(count), parallelism, free)
    assert 1 <= share <= LARGEST_SHARE
    assert parallelism * share <= max(parallelism, free // 2)
    assert share == 1 or parallelism * (share - 1) < QUEUED_PER_SERVER * count
    if parallelism * LARGEST_SHARE >= QUEUED_PER_SERVER * count and free >= 2 * (
        QUEUED_PER_SERVER * count + parallelism
    ):
        assert parallelism * share >= QUEUED_PER_SERVER * count


@given(servers, parallelisms)
def test_rates_are_shared_like_requests(count: int, parallelism: int) -> None:
    """All partitions of a job have that part of the texts per second which its requests are of the limit."""
    settings = make_settings(count).model_copy(update={"embed": Settings(embed={"texts_per_second": 100}).embed})
    granted = grant_parallelism(settings, request_for(parallelism))
    limits = make_spec(settings, request_for(parallelism), EngineName.RAY, "job-a", parallelism=granted).limits
    assert limits.embed_texts_per_second is not None
    of_limit = granted * limits.embed_in_flight / settings.embed_in_flight
    assert abs(limits.embed_texts_per_second * granted - 100 * of_limit) < 1e-6
    assert of_limit <= 1


@given(servers, st.integers(1, 64), st.lists(parallelisms, min_size=1, max_size=20), st.data())
def test_requests_of_admitted_jobs_stay_within_the_limit(
    count: int, limit: int, sizes: list[int], data: st.DataObject
) -> None:
    """Whatever jobs come and go, in whatever order they end; and every job is admitted in the end."""
    settings = make_settings(count, limit)
    arriving = [queued(number, size) for number, size in enumerate(sizes)]
    active: list[JobRecord] = []

    def want(job: JobRecord, free: int) -> Grant:
        parallelism = grant_parallelism(settings, JobRequest.model_validate(job.request))
        return Grant(parallelism, choose_share(settings, parallelism, free))

    while arriving or active:
        coming = data.draw(st.integers(0 if active else 1, 3), label="arrivals")
        active, arriving = active + arriving[:coming], arriving[coming:]
        for decision in admit_jobs(active, limit=limit, wanted=want):
            if decision.grant is not None:
                at = active.index(decision.job)
                active[at] = admitted(settings, decision.job, decision.grant)
        held = [job for job in active if job.admitted_at is not None]
        assert sum(grant.requests for job in held if (grant := job.grant)) <= limit
        assert held or not active
        if held:
            active.remove(data.draw(st.sampled_from(held), label="ends"))


def queued(number: int, parallelism: int) -> JobRecord:
    created = START + dt.timedelta(seconds=number)
    body = {"source": {"bucket": "docs"}, "collection": f"c{number}", "parallelism": parallelism}
    return JobRecord(f"job-{number}", EngineName.RAY, body["collection"], JobState.QUEUED, body, "", created)


def admitted(settings: Settings, job: JobRecord, grant: Grant) -> JobRecord:
    request = JobRequest.model_validate(job.request)
    spec = make_spec(settings, request, job.engine, job.id, parallelism=grant.parallelism, share=grant.share)
    return replace(job, admitted_at=START, parallelism=grant.parallelism, spec=spec.model_dump(mode="json"))


@given(servers, st.integers(1, 30), st.integers(1, LARGEST_SHARE), st.data())
def test_processes_load_servers_evenly(count: int, processes: int, share: int, data: st.DataObject) -> None:
    """Processes that do not know of one another, each with all its requests in flight, differ by one server's request
    at most; and it stays so while answers come in any order and the next request follows each.
    """
    spec = spec_for(count, processes, share=share)
    urls = [f"http://ollama-{number}:11434" for number in range(count)]
    pools = [ServerPool(urls, home=choose_home(spec, slot), clock=lambda: 0.0) for slot in range(processes)]
    flights: list[list[Flight]] = [[] for _ in pools]
    room = min(share, QUEUED_PER_SERVER * count)  # the limit of each server starts there
    for pool, held in zip(pools, flights, strict=True):
        for _ in range(room):
            held.append(pool.begin(choose(pool), 1))
    for number in data.draw(st.lists(st.integers(0, processes - 1), max_size=30), label="who is answered"):
        ended = data.draw(st.sampled_from(flights[number]), label="which request")
        flights[number].remove(ended)
        pools[number].end(ended, Outcome.REFUSED)
        flights[number].append(pools[number].begin(choose(pools[number]), 1))
    loads = [sum(pool.servers[number].in_flight for pool in pools) for number in range(count)]
    assert sum(loads) == processes * room
    assert max(loads) - min(loads) <= 1


def choose(pool: ServerPool) -> Server:
    server = pool.choose("m")
    assert server is not None
    return server
