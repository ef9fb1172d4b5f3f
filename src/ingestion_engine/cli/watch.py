"""Following a job: a progress bar on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from ingestion_engine.cli.hints import choose_hint
from ingestion_engine.cli.output import STATE_STYLES, err, out, write_json
from ingestion_engine.client import IngestClient
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.models.jobs import JobView


def watch_job(client: IngestClient, job_id: str, *, json: bool) -> JobView:
    """Show a job until it has ended, and return its final state. Ctrl-C stops watching, not the job."""
    events = client.watch(job_id)
    try:
        if json:
            return _watch_json(events)
        job = _watch_bars(events) if out.is_terminal else _watch_lines(events)
    except KeyboardInterrupt:
        err.print(Text(f"\nStopped watching; the job continues: ingest watch {job_id} · ingest cancel {job_id}"))
        raise
    show_end(job)
    return job


def _watch_json(events: Iterator[JobView]) -> JobView:
    for job in events:
        write_json(job)
    return job


def _watch_lines(events: Iterator[JobView]) -> JobView:
    last = ""
    for job in events:
        line = describe(job)
        if line != last:
            out.print(Text(line))
            last = line
    return job


def _watch_bars(events: Iterator[JobView]) -> JobView:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(highlight=False)) as progress:
        task = progress.add_task("waiting", total=None, facts="")
        for job in events:
            percent = _percent(job)
            progress.update(
                task,
                description=describe_phase(job),
                total=None if percent is None else 100,
                completed=percent or 0,
                facts=" · ".join(describe_facts(job)),
            )
    return job


def _percent(job: JobView) -> float | None:
    return None if job.progress is None else job.progress.percent


def describe(job: JobView) -> str:
    """Return a line with phase, progress and counts of a job. Pure."""
    percent = _percent(job)
    share = [] if percent is None else [f"{percent:.0f} %"]
    return "  ".join([describe_phase(job), *share, *describe_facts(job)])


def describe_phase(job: JobView) -> str:
    """Return the phase of a job, with the reason when it waits. Pure."""
    state = job.state.value
    if job.state is JobState.RUNNING and job.progress is not None and job.progress.phase:
        state = job.progress.phase
    return f"{state} ({job.note})" if job.note and job.state not in FINAL_STATES else state


def describe_facts(job: JobView) -> list[str]:
    """Return the progress of a job as texts: objects, chunks, rate, remaining time. Pure."""
    counts, progress = job.counts, job.progress
    facts = []
    if "planned" in counts:
        # The total still grows while the job is planned.
        open_end = "" if progress is None or progress.planning_complete else "+"
        ended = counts.get("done", 0) + counts.get("failed", 0)
        facts.append(f"{ended}/{counts['planned']}{open_end} objects")
        if not counts["planned"] and counts.get("skipped"):
            facts.append(f"{counts['skipped']} unchanged or skipped")
    if counts.get("failed"):
        facts.append(f"{counts['failed']} failed")
    if counts.get("objects_with_warnings"):
        facts.append(f"{counts['objects_with_warnings']} with warnings")
    if counts.get("chunks"):
        facts.append(f"{counts['chunks']} chunks")
    if job.state not in FINAL_STATES:
        eta_s = None if progress is None else progress.eta_s
        rate = 0.0 if progress is None else progress.rates.get("chunks_per_s", 0.0)
        if rate and not (job.note and eta_s is None):  # else nothing is done at the moment
            facts.append(f"{rate:.1f} chunks/s")
        if job.embedding is not None and job.embedding.queued:
            facts.append(f"{job.embedding.share:.0%} of the embedder")
        if eta_s is not None:
            facts.append(f"{dt.timedelta(seconds=round(eta_s))} left")
    return facts


def describe_points(job: JobView) -> str | None:
    """Return the points by store as text, and whether the stores differ; None while they are unknown. Pure."""
    texts = {
        store: ", ".join(f"{number} {name}" for name, number in points if number is not None)
        for store, points in (job.store_points or {}).items()
    }
    if not any(texts.values()):
        return None
    if len(texts) > 1 and len(set(texts.values())) == 1:
        return f"{next(iter(texts.values()))} in each of {', '.join(texts)}"
    shown = "; ".join(f"{store}: {text}" for store, text in texts.items())
    return f"{shown} (the stores differ)" if job.find_differences() else shown


def describe_duration(job: JobView) -> str:
    """Return how long the client of a job has waited, and for how much of it the job has run. Pure."""
    queued_s, duration_s = job.queued_s, job.duration_s
    if "queued_s" not in job.model_fields_set:  # an older service
        return "" if duration_s is None else f" after {duration_s:.1f} s"
    if duration_s is None:
        return f" after {queued_s:.1f} s without a start"
    return f" after {queued_s + duration_s:.1f} s ({queued_s:.1f} s queued, {duration_s:.1f} s running)"


def show_end(job: JobView) -> None:
    """Print the final state of a job, its counts and its error."""
    state, counts = job.state.value, job.counts
    out.print(Text.assemble(f"{job.job_id} ", (state, STATE_STYLES.get(state, "")), describe_duration(job)))
    names = (
        *("listed", "new", "changed", "unchanged", "failed_before", "outside_filters", "done"),
        *("failed", "failed_again", "deleted"),
        "objects_with_warnings",
        *("verified", "different", "repaired", "foreign_points", "searches_failed", "chunks", "chunks_embedded"),
    )
    shown = [f"{name.replace('_', ' ')} {counts[name]}" for name in names if counts.get(name)]
    if shown:
        out.print(Text("  " + " · ".join(shown)))
    points = describe_points(job)
    if points is not None:
        out.print(Text(f"  points: {points}"))
    if job.warnings:
        left_out = " · ".join(f"{code} {number}" for code, number in job.warnings.items())
        out.print(Text.assemble(("  warnings: ", "bold"), left_out))
        out.print(Text(f"  ingest objects {job.collection} --warnings"))
    if job.note:
        out.print(Text.assemble(("  note: ", "bold"), job.note))
    if any(counts.get(name) for name in ("failed", "different", "foreign_points", "searches_failed")):
        out.print(Text(f"  ingest failures {job.job_id}"))
    error = job.error
    if error and state == "failed":
        err.print(Text.assemble(("error: ", "bold red"), str(error["detail"]), (f" [{error['code']}]", "dim")))
        hint = choose_hint(str(error["code"]), error.get("hint"), {"job_id": job.job_id})
        if hint:
            err.print(Text.assemble(("hint:  ", "bold"), hint))
