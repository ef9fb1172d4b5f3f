"""The page at the root: plain HTML without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ingestion_engine import __version__
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.jobs import JobView

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:3rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}p{margin:.4rem 0 1.4rem}
a{color:#2563eb}nav a{margin-right:1.2rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.45rem .6rem;border-bottom:1px solid #8884}
th{font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums}
.w{font-size:.85em;max-width:26rem;overflow-wrap:anywhere}
.s{padding:.1rem .5rem;border-radius:1rem;background:#8883;white-space:nowrap}
.succeeded{background:#16a34a44}.failed{background:#dc262644}.running,.submitted{background:#2563eb44}
.partially_succeeded,.canceling{background:#d9770644}
pre{background:#8882;padding:.8rem 1rem;border-radius:.4rem;overflow:auto}
"""

_CURL = """curl -sS -H 'content-type: application/json' \\
  -d '{"source": {"bucket": "docs"}, "collection": "docs"}' \\
  %s/ray/jobs"""


def render_page(
    jobs: Sequence[JobView], *, locked: bool, fault: str | None = None, url: str = "http://127.0.0.1:8080"
) -> str:
    """Return the page. Pure.

    Args:
        jobs: The newest jobs.
        locked: API keys are required, so jobs are not shown.
        fault: Why the jobs cannot be shown now.
        url: URL of the service, for the example.
    """
    if locked:
        body = (
            "<p>API keys are required: send one with <code>GET /jobs</code>, "
            "or set INGEST_API_KEY and run <code>ingest jobs</code>.</p>"
        )
    elif fault is not None:
        body = f"<p>{escape(fault)}</p>"
    elif jobs:
        rows = "".join(_render_row(job) for job in jobs)
        names = ("Job", "Engine", "Collection", "State", "Done", "Failed", "Created")
        head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
        body = f"<h2>Newest jobs</h2><table>{head}{rows}</table>"
    else:
        body = f"<h2>No job yet</h2><pre>{escape(_CURL % url)}</pre>"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Ingestion engine</title>"
        f"<meta name='viewport' content='width=device-width,initial-scale=1'><style>{_STYLE}</style></head><body>"
        f"<h1>Ingestion engine <small>{escape(__version__)}</small></h1>"
        "<p>Embeds every object under an S3 prefix into Qdrant and Weaviate.</p>"
        "<nav><a href='/docs'>API</a><a href='/openapi.json'>OpenAPI</a><a href='/jobs'>Jobs</a>"
        "<a href='/collections'>Collections</a><a href='/readyz'>Health</a><a href='/metrics'>Metrics</a></nav>"
        f"{body}</body></html>"
    )


def _render_row(job: JobView) -> str:
    link = f"<a href='{escape(job.links.self)}'><code>{escape(job.job_id)}</code></a>"
    done, failed = job.counts.get("done", 0), job.counts.get("failed", 0)
    percent = job.progress.percent if job.progress is not None else None
    is_paused = job.progress is not None and job.progress.phase == "paused" and job.state is JobState.RUNNING
    state = ("paused" if is_paused else job.state.value) + (
        "" if percent is None or job.state.is_final else f" {percent:.0f} %"
    )
    reason = job.note or ((job.error or {}).get("detail"))
    note = f"<div class='w'>{escape(reason)}</div>" if reason else ""
    return (
        f"<tr><td>{link}</td><td>{escape(job.engine.value)}</td><td>{escape(job.collection)}</td>"
        f"<td><span class='s {escape(job.state.value)}'>{escape(state)}</span>{note}</td>"
        f"<td class='n'>{done}</td><td class='n'>{failed}</td><td>{escape(job.created_at)}</td></tr>"
    )
