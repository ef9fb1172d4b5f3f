"""Following a job: a progress bar on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from ingestion_engine.cli.hints import choose_hint
from ingestion_engine.cli.output import STATE_STYLES, err, out, write_json
from ingestion_engine.client import IngestClient
from ingestion_engine.domain.states import FINAL_STATES


def watch_job(client: IngestClient, job_id: str, *, json: bool) -> dict[str, Any]:
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


def _watch_json(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    job: dict[str, Any] = {}
    for job in events:
        write_json(job)
    return job


def _watch_lines(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    job: dict[str, Any] = {}
    last = ""
    for job in events:
        line = describe(job)
        if line != last:
            out.print(Text(line))
            last = line
    return job


def _watch_bars(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    job: dict[str, Any] = {}
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
            percent = (job["progress"] or {}).get("percent")
            progress.update(
                task,
                description=describe_phase(job),
                total=None if percent is None else 100,
                completed=percent or 0,
                facts=" · ".join(describe_facts(job)),
            )
    return job


def describe(job: Mapping[str, Any]) -> str:
    """Return a line with phase, progress and counts of a job. Pure."""
    percent = (job["progress"] or {}).get("percent")
    share = [] if percent is None else [f"{percent:.0f} %"]
    return "  ".join([describe_phase(job), *share, *describe_facts(job)])


def describe_phase(job: Mapping[str, Any]) -> str:
    """Return the phase of a job, with the reason when it waits. Pure."""
    state = str(job["state"])
    phase = (job["progress"] or {}).get("phase")
    if state == "running" and phase:
        state = str(phase)
    note = job.get("note")
    return f"{state} ({note})" if note and job["state"] not in FINAL_STATES else state


def describe_facts(job: Mapping[str, Any]) -> list[str]:
    """Return the progress of a job as texts: objects, chunks, rate, remaining time. Pure."""
    counts, progress = job["counts"], job["progress"] or {}
    facts = []
    if "planned" in counts:
        # The total still grows while the job is planned.
        open_end = "" if progress.get("planning_complete", True) else "+"
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
    if job["state"] not in FINAL_STATES:
        rate = progress.get("rates", {}).get("chunks_per_s")
        if rate and not (job.get("note") and progress.get("eta_s") is None):  # else nothing is done at the moment
            facts.append(f"{rate:.1f} chunks/s")
        embedding = job.get("embedding") or {}  # an older service has none
        if embedding.get("queued"):
            facts.append(f"{embedding['share']:.0%} of the embedder")
        if progress.get("eta_s") is not None:
            facts.append(f"{dt.timedelta(seconds=round(progress['eta_s']))} left")
    return facts


def describe_duration(job: Mapping[str, Any]) -> str:
    """Return how long the client of a job has waited, and for how much of it the job has run. Pure."""
    queued_s, duration_s = job.get("queued_s"), job["duration_s"]
    if queued_s is None:  # an older service
        return "" if duration_s is None else f" after {duration_s:.1f} s"
    if duration_s is None:
        return f" after {queued_s:.1f} s without a start"
    return f" after {queued_s + duration_s:.1f} s ({queued_s:.1f} s queued, {duration_s:.1f} s running)"


def show_end(job: Mapping[str, Any]) -> None:
    """Print the final state of a job, its counts and its error."""
    state, counts = str(job["state"]), job["counts"]
    out.print(Text.assemble(f"{job['job_id']} ", (state, STATE_STYLES.get(state, "")), describe_duration(job)))
    names = (
        *("listed", "new", "changed", "unchanged", "failed_before", "outside_filters", "done", "failed", "deleted"),
        "objects_with_warnings",
        *("verified", "different", "repaired", "foreign_points", "searches_failed", "chunks", "chunks_embedded"),
    )
    shown = [f"{name.replace('_', ' ')} {counts[name]}" for name in names if counts.get(name)]
    if shown:
        out.print(Text("  " + " · ".join(shown)))
    if job.get("warnings"):
        left_out = " · ".join(f"{code} {number}" for code, number in job["warnings"].items())
        out.print(Text.assemble(("  warnings: ", "bold"), left_out))
        out.print(Text(f"  ingest objects {job['collection']} --warnings"))
    if job.get("note"):
        out.print(Text.assemble(("  note: ", "bold"), str(job["note"])))
    if any(counts.get(name) for name in ("failed", "different", "foreign_points", "searches_failed")):
        out.print(Text(f"  ingest failures {job['job_id']}"))
    error = job.get("error")
    if error and state == "failed":
        err.print(Text.assemble(("error: ", "bold red"), str(error["detail"]), (f" [{error['code']}]", "dim")))
        hint = choose_hint(str(error["code"]), error.get("hint"), job)
        if hint:
            err.print(Text.assemble(("hint:  ", "bold"), hint))
