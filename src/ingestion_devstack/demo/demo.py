"""``ingest demo``: the whole job once on the embedded stack, by one engine or by two, checked at every step."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ingestion_devstack.demo.compare import compare_collections
from ingestion_devstack.demo.corpus import BROKEN, make_corpus
from ingestion_devstack.demo.texts import QUESTIONS
from ingestion_devstack.kubernetes.find_spark import SparkMissingError, find_java
from ingestion_devstack.stack.service import StackError
from ingestion_devstack.stack.stack import SYSTEMS, Stack
from ingestion_devstack.stack.up import StopAsked, announced_stack, render_table, stop_on_signals
from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors
from ingestion_engine.client import FINAL_STATES, ApiError, ApiUnreachable, IngestClient
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import Settings

BUCKET, PREFIX, COLLECTION = "docs", "demo/", "demo"
ENGINES = {"ray": ("ray",), "spark": ("spark",), "both": ("ray", "spark")}
"""What ``--engine`` may say, and who works then."""
_JOB_TIMEOUT_S = 600.0
_SCORE_TOLERANCE = 1e-3
"""Between the two stores' scores of one passage: Qdrant normalises its vectors, Weaviate computes a distance."""
_PASSAGE_CHARS = 220
_POLL_S = 0.25
_LOG_CHARS = 3000


class DemoError(Exception):
    """Something is not as it must be; the message says what was expected and what was found."""


def run_demo(data_dir: Path | None = None, *, engine: str = "ray", console: Console | None = None) -> int:
    """Do the whole job on a stack of its own; return the exit code: 0 when every check held.

    Nothing that ``INGEST_*`` configures is touched.

    Args:
        data_dir: Where the stack keeps its data, also afterwards; None means a directory that is removed in the end.
        engine: One of ``ENGINES``.
        console: Where to print; None means standard output.
    """
    console = console or Console()
    began = time.monotonic()
    try:
        with stop_on_signals(), _home(data_dir) as home:
            settings = Settings.model_construct(data_dir=home)
            engines = ENGINES[engine]
            if "spark" in engines:
                find_java()  # better now than after the start of everything else
            only = [name for name in SYSTEMS if name not in {"ray", "spark"} or name in engines]
            with announced_stack(settings, console, only=only) as stack:
                console.print(render_table(stack))
                if stack.missing:
                    raise DemoError("; ".join(f"{name}: {why}" for name, why in stack.missing.items()))
                with IngestClient(stack.services["api"].url) as api:
                    _Demo(stack, api, console, engines).run()
    except StopAsked:
        console.print("stopped")
        return 130
    except (DemoError, SparkMissingError, StackError, IngestionError, ApiError, ApiUnreachable) as error:
        console.print(f"ingest demo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    console.print(
        f"done: every check held, after {time.monotonic() - began:.0f} s",
        style="green",
        highlight=False,
        soft_wrap=True,
    )
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

    def __init__(self, stack: Stack, api: IngestClient, console: Console, engines: tuple[str, ...]) -> None:
        self._stack = stack
        self._api = api
        self._numbers = itertools.count(1)
        self._collections = {name: COLLECTION if name == engines[0] else f"{COLLECTION}_{name}" for name in engines}
        self._console = console

    def run(self) -> None:
        """Upload, submit, follow, submit again, compare, search.

        Raises:
            DemoError: a result is not what it must be.
        """
        corpus = make_corpus()
        self._title("upload", f"{len(corpus)} objects of {len(_endings(corpus))} kinds, {len(BROKEN)} of them broken")
        self._upload(corpus)
        first: dict[str, dict[str, Any]] = {}
        for engine, collection in self._collections.items():
            self._title("embed everything", f"POST /{engine}/jobs, collection {collection}")
            first[engine] = self._run_job(engine, collection)
            self._check_first(first[engine], corpus)
        # The last engine over the first one's collection: a collection does not belong to an engine.
        before, after = next(iter(first)), list(first)[-1]
        self._title("the same again", f"POST /{after}/jobs; nothing has changed, so nothing is embedded")
        self._check_second(self._run_job(after, self._collections[before]), first[before])
        self._title("both stores", "the same points in each")
        self._compare_stores(corpus)
        if len(first) > 1:
            self._title("both engines", "the same ids, payloads (but for the job's own fields) and vectors")
            self._compare_engines(first)
        self._title("search", "the best passage from each store")
        for question, key in QUESTIONS:
            self._search(question, key)

    def _title(self, name: str, detail: str) -> None:
        number = next(self._numbers)
        self._console.print(f"\n[bold]{number}. {name}[/bold]: {detail}", highlight=False, soft_wrap=True)

    def _upload(self, corpus: Mapping[str, bytes]) -> None:
        with contextlib.closing(make_client(self._stack.settings.s3)) as client:
            for key, body in corpus.items():
                with s3_errors(Place(BUCKET, PREFIX + key)):
                    client.put_object(Bucket=BUCKET, Key=PREFIX + key, Body=body)
        size = sum(len(body) for body in corpus.values())
        self._say(f"   s3://{BUCKET}/{PREFIX} holds {size / 1024:.0f} KiB")

    def _run_job(self, engine: str, collection: str) -> dict[str, Any]:
        """Submit and follow a job to its end."""
        began = time.monotonic()
        request = {"source": {"bucket": BUCKET, "prefix": PREFIX}, "collection": collection}
        job_id = self._api.submit(request, engine=engine)["job_id"]
        took_ms = (time.monotonic() - began) * 1000
        self._say(f"   202 after {took_ms:.0f} ms: {job_id}")
        job = self._follow(job_id)
        if job["state"] not in {"succeeded", "partially_succeeded"}:
            log = self._api.read_log(job_id)[-_LOG_CHARS:]
            raise DemoError(f"the job ended as {job['state']}: {job['error']}\n{log}")
        return job

    def _follow(self, job_id: str) -> dict[str, Any]:
        columns = (
            *(TextColumn("   {task.fields[phase]:<19}"), BarColumn(30), MofNCompleteColumn(), TextColumn("objects,")),
            *(TextColumn("{task.fields[chunks]} chunks"), TimeElapsedColumn()),
        )
        deadline = time.monotonic() + _JOB_TIMEOUT_S
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("job", total=None, phase="queued", chunks=0)
            # Looks instead of following the event stream: a stack that died must be noticed in silence too.
            while time.monotonic() < deadline:
                job = self._api.get_job(job_id)
                counts = job["counts"]
                ended = sum(counts.get(name, 0) for name in ("done", "failed", "skipped"))
                phase = (job["progress"] or {}).get("phase", job["state"])
                is_final = job["state"] in FINAL_STATES
                chunks, total = counts.get("chunks", 0), counts.get("listed") or None
                shown = job["state"] if is_final else phase
                progress.update(bar, completed=ended, total=total, phase=shown, chunks=chunks)
                if is_final:
                    return job
                self._stack.check()
                time.sleep(_POLL_S)
        raise DemoError(f"the job did not end within {_JOB_TIMEOUT_S:.0f} s")

    def _check_first(self, job: Mapping[str, Any], corpus: Mapping[str, bytes]) -> None:
        counts = job["counts"]
        _expect("objects listed", counts["listed"], len(corpus))
        _expect("done + failed + skipped", counts["done"] + counts["failed"] + counts["skipped"], counts["listed"])
        failures = list(self._api.iter_failures(job["job_id"]))
        if counts["unchanged"] == 0:  # in a kept directory the broken ones failed the last time already
            found = {item["key"].removeprefix(PREFIX): item["code"] for item in failures}
            _expect("failures", found, BROKEN)
        for item in failures:
            self._say(f"   recorded failure: {item['key']}  {item['code']}: {item['reason']}")
        self._say(f"   {_sum_up(job)}")

    def _check_second(self, job: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        counts = job["counts"]
        _expect("objects listed", counts["listed"], first["counts"]["listed"])
        _expect("objects done", counts["done"], 0)
        _expect("objects unchanged", counts["unchanged"], counts["listed"] - len(BROKEN))
        _expect("objects known to be broken, not tried again", counts["failed_before"], len(BROKEN))
        _expect("calls of the embedder", counts["embed_calls"], 0)
        self._say(f"   {_sum_up(job)}")

    def _compare_stores(self, corpus: Mapping[str, bytes]) -> None:
        table = Table()
        for column in ("collection", "qdrant", "weaviate", "chunks in the object table"):
            table.add_column(column)
        details = {name: self._api.get_collection(name) for name in self._collections.values()}
        for name, detail in details.items():
            points = {store: count["points"] for store, count in detail["stores"].items()}
            chunks = detail["objects"]["chunks"]
            table.add_row(name, str(points["qdrant"]), str(points["weaviate"]), str(chunks))
            _expect(f"points of {name} per store", points, dict.fromkeys(("qdrant", "weaviate"), chunks))
            _expect(f"objects present in {name}", detail["objects"]["present"], len(corpus) - len(BROKEN))
        self._console.print(table)

    def _compare_engines(self, first: Mapping[str, Mapping[str, Any]]) -> None:
        left, right = self._collections.values()
        table = Table()
        columns = ("store", left, right, "identical ids", "identical payloads", "identical vectors")
        for column in columns:
            table.add_column(column)
        found = compare_collections(self._stack.settings, left, right)
        for one in found:
            numbers = (*one.points, one.same_ids, one.same_payloads, one.same_vectors)
            table.add_row(one.store, *(str(number) for number in numbers))
        self._console.print(table)
        for one in found:
            if not one.identical:
                raise DemoError(f"the engines left different points in {one.store}: {one}")
        one, other = (job["counts"] for job in first.values())
        if one["unchanged"] == other["unchanged"] == 0:  # in a kept directory neither run embeds anything
            _expect(f"calls of the embedder on {list(first)[1]}", other["embed_calls"], one["embed_calls"])

    def _search(self, question: str, key: str | None) -> None:
        found = self._api.search(COLLECTION, question, limit=3)
        _expect("stores that could not be searched", found["errors"], {})
        best = {store: hits[0] for store, hits in found["results"].items()}
        self._console.print(f"\n   [bold]{question}[/bold]", highlight=False, soft_wrap=True)
        for store, hit in best.items():
            passage = " ".join(hit["text"].split())[:_PASSAGE_CHARS]
            self._console.print(
                f"   {store:<9} {hit['score']:.4f}  {hit['key']}", markup=False, highlight=False, soft_wrap=True
            )
            self._console.print(f"             {passage} …", markup=False, highlight=False, style="dim", soft_wrap=True)
            if key is not None:
                _expect(f"best answer of {store}", hit["key"], PREFIX + key)
        scores = [hit["score"] for hit in best.values()]
        if max(scores) - min(scores) > _SCORE_TOLERANCE:
            raise DemoError(f"the stores disagree about the best passage for {question!r}: scores {scores}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise DemoError(f"{what}: expected {wanted}, found {found}")


def _endings(corpus: Mapping[str, bytes]) -> set[str]:
    return {Path(key).suffix for key in corpus}


def _sum_up(job: Mapping[str, Any]) -> str:
    counts = job["counts"]
    return (
        f"{job['state']} after {job['duration_s'] or 0:.1f} s: {counts['listed']} listed, {counts['done']} done, "
        f"{counts['failed']} failed, {counts['unchanged']} unchanged, {counts['failed_before']} failed before; "
        f"{counts['chunks']} chunks, "
        f"{counts['chunks_embedded']} embedded in {counts['embed_calls']} calls"
    )
