"""``ingest demo``: one job from end to end on the embedded stack, by one engine or two, checked at every step."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ingestion_devstack.demo.compare import compare_collections
from ingestion_devstack.demo.corpus import BROKEN, make_corpus
from ingestion_devstack.demo.samples import BUCKET, PREFIX, upload_corpus
from ingestion_devstack.demo.texts import QUESTIONS
from ingestion_devstack.kubernetes.find_spark import SparkMissingError, find_java
from ingestion_devstack.stack.service import StackError
from ingestion_devstack.stack.stack import SYSTEMS, Stack
from ingestion_devstack.stack.up import StopRequested, announced_stack, render_table, stop_on_signals
from ingestion_engine.client import ApiError, ApiUnreachable, IngestClient
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.models.jobs import JobView
from ingestion_engine.runtime.settings import Settings

COLLECTION = "demo"
ENGINES = {"ray": ("ray",), "spark": ("spark",), "both": ("ray", "spark")}
"""Values of ``--engine``, and the engines that each of them uses."""
_JOB_TIMEOUT_S = 600.0
_SCORE_TOLERANCE = 1e-3
"""Allowed difference of one passage's scores: Qdrant normalises its vectors, Weaviate computes a distance."""
_PASSAGE_CHARS = 150
_POLL_S = 0.25
_LOG_CHARS = 3000
_INTRODUCTION = """\
[bold]Ingestion engine demo[/bold]: upload documents to S3, embed them into Qdrant and Weaviate, and search both stores.
Everything runs on this machine; a check mark is printed for each result that was verified.
"""
_NEXT_STEPS = """
Next steps:
  make up     Run the stack and the service until Ctrl-C; README.md, "First request", shows how to submit jobs.
  docs/       The documentation; docs/README.md is its index.
"""


class DemoError(Exception):
    """A check failed; the message names the expected and the found value."""


def run_demo(data_dir: Path | None = None, *, engine: str = "ray", console: Console | None = None) -> int:
    """Run the demo on a stack of its own; return the exit code: 0 when every check passed.

    Systems that ``INGEST_*`` configures are not touched.

    Args:
        data_dir: Directory of the stack's data, which is kept; None means a temporary directory.
        engine: One of ``ENGINES``.
        console: Console to print to; None means standard output.
    """
    console = console or Console()
    began = time.monotonic()
    console.print(_INTRODUCTION, highlight=False, soft_wrap=True)
    try:
        with stop_on_signals(), _home(data_dir) as home:
            settings = Settings.model_construct(data_dir=home)
            engines = ENGINES[engine]
            if "spark" in engines:
                find_java()  # before everything else starts
            only = [name for name in SYSTEMS if name not in {"ray", "spark"} or name in engines]
            with announced_stack(settings, console, only=only) as stack:
                console.print(render_table(stack))
                if stack.missing:
                    raise DemoError(" ".join(f"{name.capitalize()}: {why}" for name, why in stack.missing.items()))
                with IngestClient(stack.services["api"].url) as api:
                    _Demo(stack, api, console=console, engines=engines).run()
    except StopRequested:
        console.print("Stopped.")
        return 130
    except (DemoError, SparkMissingError, StackError, IngestionError, ApiError, ApiUnreachable) as error:
        console.print(f"ingest demo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    console.print(f"[green]All checks passed in {time.monotonic() - began:.0f} s.[/green]", highlight=False)
    console.print(_NEXT_STEPS, end="", markup=False, highlight=False, soft_wrap=True)
    return 0


@contextlib.contextmanager
def _home(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="ingest-demo-", ignore_cleanup_errors=True) as made:
        yield Path(made)


class _Demo:
    """The steps, over a running stack. Each engine has a collection of its own."""

    def __init__(self, stack: Stack, api: IngestClient, *, console: Console, engines: tuple[str, ...]) -> None:
        self._stack = stack
        self._api = api
        self._numbers = itertools.count(1)
        self._collections = {name: COLLECTION if name == engines[0] else f"{COLLECTION}_{name}" for name in engines}
        self._console = console

    def run(self) -> None:
        """Upload, submit, follow, submit again, compare, search.

        Raises:
            DemoError: a check failed.
        """
        corpus = make_corpus()
        endings = {Path(key).suffix for key in corpus}
        self._title(f"Upload {len(corpus)} objects of {len(endings)} kinds, {len(BROKEN)} of them broken on purpose")
        self._upload(corpus)
        first: dict[str, JobView] = {}
        for engine, collection in self._collections.items():
            self._title(f"Embed them with {engine.capitalize()}: POST /{engine}/jobs, collection {collection!r}")
            first[engine] = self._run_job(engine, collection)
            self._check_first(first[engine], corpus)
        # The last engine over the first one's collection: a collection does not belong to an engine.
        before, after = next(iter(first)), list(first)[-1]
        self._title(f"Run the same job again with {after.capitalize()}: nothing has changed, so nothing is embedded")
        self._check_second(self._run_job(after, self._collections[before]), first[before])
        self._title("Compare the stores with the engine's own table of objects")
        self._compare_stores(corpus)
        if len(first) > 1:
            self._title("Compare the engines point by point")
            self._compare_engines(first)
        self._title("Search both stores: POST /search")
        for question, key in QUESTIONS:
            self._search(question, key)

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{next(self._numbers)}. {text}[/bold]", highlight=False, soft_wrap=True)

    def _upload(self, corpus: Mapping[str, bytes]) -> None:
        began = time.monotonic()
        upload_corpus(corpus, self._stack.settings.s3)
        size, took_s = sum(len(body) for body in corpus.values()), time.monotonic() - began
        self._confirm(f"s3://{BUCKET}/{PREFIX} holds {size / 1024:.0f} KiB ({took_s:.1f} s)")

    def _run_job(self, engine: str, collection: str) -> JobView:
        """Submit a job and follow it to its end."""
        began = time.monotonic()
        request = {"source": {"bucket": BUCKET, "prefix": PREFIX}, "collection": collection}
        job_id = self._api.submit(request, engine=engine).job_id
        took_ms = (time.monotonic() - began) * 1000
        self._confirm(f"accepted after {took_ms:.0f} ms: {job_id}")
        job = self._follow(job_id)
        if job.state not in {JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}:
            log = self._api.read_log(job_id)[-_LOG_CHARS:]
            raise DemoError(f"The job ended as {job.state}: {job.error}\n{log}")
        return job

    def _follow(self, job_id: str) -> JobView:
        columns = (
            *(TextColumn("   {task.fields[phase]:<19}"), BarColumn(30), MofNCompleteColumn(), TextColumn("objects,")),
            *(TextColumn("{task.fields[chunks]} chunks"), TimeElapsedColumn()),
        )
        deadline = time.monotonic() + _JOB_TIMEOUT_S
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("job", total=None, phase="queued", chunks=0)
            # Polls instead of following the event stream: a dead stack must be noticed while no event arrives.
            while time.monotonic() < deadline:
                job = self._api.get_job(job_id)
                counts = job.counts
                ended = sum(counts.get(name, 0) for name in ("done", "failed", "skipped"))
                phase = job.state.value if job.progress is None else job.progress.phase
                is_final = job.state in FINAL_STATES
                chunks, total = counts.get("chunks", 0), counts.get("listed") or None
                shown = job.state.value if is_final else phase
                progress.update(bar, completed=ended, total=total, phase=shown, chunks=chunks)
                if is_final:
                    return job
                self._stack.check()
                time.sleep(_POLL_S)
        raise DemoError(f"The job did not end within {_JOB_TIMEOUT_S:.0f} s.")

    def _check_first(self, job: JobView, corpus: Mapping[str, bytes]) -> None:
        counts = job.counts
        _expect("objects listed", counts["listed"], len(corpus))
        _expect("done + failed + skipped", counts["done"] + counts["failed"] + counts["skipped"], counts["listed"])
        failures = list(self._api.iter_failures(job.job_id))
        if counts["unchanged"] == 0:  # in a kept directory the broken objects failed the last time already
            found = {item.key.removeprefix(PREFIX): item.code for item in failures}
            _expect("failures", found, BROKEN)
        self._confirm(
            f"{counts['done']} objects done: {counts['chunks']} chunks, {counts['chunks_embedded']} embedded in "
            f"{counts['embed_calls']} requests to Ollama ({job.duration_s or 0:.1f} s)"
        )
        self._confirm(f"{len(failures)} broken objects failed with a code and a reason, hence partially_succeeded:")
        for item in failures:
            self._say(f"     {item.key}  {item.code}: {item.reason}")

    def _check_second(self, job: JobView, first: JobView) -> None:
        counts = job.counts
        _expect("objects listed", counts["listed"], first.counts["listed"])
        _expect("objects done", counts["done"], 0)
        _expect("objects unchanged", counts["unchanged"], counts["listed"] - len(BROKEN))
        _expect("objects known to be broken, not tried again", counts["failed_before"], len(BROKEN))
        _expect("requests to the embedder", counts["embed_calls"], 0)
        self._confirm(
            f"{counts['unchanged']} objects unchanged, {counts['failed_before']} known to be broken, "
            f"{counts['embed_calls']} requests to Ollama ({job.duration_s or 0:.1f} s)"
        )

    def _compare_stores(self, corpus: Mapping[str, bytes]) -> None:
        for name in self._collections.values():
            detail = self._api.get_collection(name)
            points = {store.value: count.points for store, count in detail.stores.items()}
            objects = detail.objects or {}
            chunks, present = objects["chunks"], objects["present"]
            _expect(f"points of {name} per store", points, dict.fromkeys(("qdrant", "weaviate"), chunks))
            _expect(f"objects present in {name}", present, len(corpus) - len(BROKEN))
            self._confirm(
                f"collection {name!r}: {points['qdrant']} points in Qdrant, {points['weaviate']} in Weaviate, "
                f"{chunks} chunks of {present} objects in the table"
            )

    def _compare_engines(self, first: Mapping[str, JobView]) -> None:
        left, right = self._collections.values()
        for one in compare_collections(self._stack.settings, left, right):
            if not one.identical:
                raise DemoError(f"The engines wrote different points to {one.store}: {one}")
            self._confirm(
                f"{one.store.capitalize()}: {one.same_ids} points in {left!r} and {right!r}, with the same ids, "
                "payloads (except for the job's own fields) and vectors"
            )
        former, latter = (job.counts for job in first.values())
        if former["unchanged"] == latter["unchanged"] == 0:  # in a kept directory neither run embeds anything
            _expect(f"requests to the embedder by {list(first)[1]}", latter["embed_calls"], former["embed_calls"])

    def _search(self, question: str, key: str | None) -> None:
        found = self._api.search(COLLECTION, question, limit=3)
        _expect("stores that could not be searched", found.errors, {})
        best = {store: hits[0] for store, hits in found.results.items()}
        if key is not None:
            for store, hit in best.items():
                _expect(f"best answer of {store}", hit.key, PREFIX + key)
        scores = {store: hit.score for store, hit in best.items()}
        if max(scores.values()) - min(scores.values()) > _SCORE_TOLERANCE:
            raise DemoError(f"The stores disagree about the best passage for {question!r}: scores {scores}.")
        hit = next(iter(best.values()))
        shown = ", ".join(f"{store.capitalize()} {score:.4f}" for store, score in scores.items())
        self._confirm(f"{question}")
        self._say(f"     {hit.key} (score: {shown})")
        self._say(f"     {' '.join(hit.text.split())[:_PASSAGE_CHARS]} …", style="dim")

    def _confirm(self, text: str) -> None:
        """Print the result of a check that passed."""
        self._say(f"   ✓ {text}")

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise DemoError(f"{what[0].upper()}{what[1:]}: expected {wanted}, found {found}.")
