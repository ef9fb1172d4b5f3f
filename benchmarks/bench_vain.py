"""Inference in vain: how many texts the embedder embeds in requests that it then refuses, by kind of text.

    python benchmarks/bench_vain.py --before PATH

PATH is a checkout of a former commit, measured by the same script.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import Report, Target, parse_options, repeat_command

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MOST_IN_VAIN = 0.01
"""Largest share of the embedded tokens that may be in vain."""
FORMER_BATCH = 32
"""Default of ``INGEST_EMBED__BATCH_TEXTS`` until November 2026."""
EXACT, ESTIMATED, BEFORE = "counted", "estimated", "before"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=24, help="documents of each kind")
    parser.add_argument("--chars", type=int, default=16_000, help="characters of a document")
    parser.add_argument("--batch", type=int, default=8, help="texts of a request")
    parser.add_argument("--before", type=Path, help="checkout of a former commit to compare with")
    parser.add_argument("--measure", choices=[EXACT, ESTIMATED, BEFORE], help=argparse.SUPPRESS)
    options = parse_options(parser, {"documents": 4})
    if options.measure:
        measure_here(options)
        return
    ways = {EXACT: ROOT, ESTIMATED: ROOT} | ({BEFORE: options.before} if options.before else {})
    results = {way: measure_in(root, way, options) for way, root in ways.items()}
    report = Report(
        "vain",
        "Inference in vain",
        repeat_command(__file__),
        "Jobs run in memory, through the product's driver and worker; the embedder counts and refuses as Ollama does "
        "and infers nothing: a request with a text over the context (all-MiniLM: 256 tokens) is refused after all its "
        "other texts have been embedded. The tokens are those of its runner's tokenizer. 'counted': the worker has "
        "the vocabulary from Ollama; 'estimated': it has not. In vain are the texts, and their tokens, of refused "
        "requests that were not refused themselves. A refusal of a text that is alone costs no inference.",
        ["ingestion-engine"],
        {"documents": options.documents, "chars": options.chars, "batch": options.batch, "context": 256},
        quick=options.quick,
    )
    add_results(report, results)
    report.write()


def measure_in(root: Path, way: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the counts of every kind of text, measured by the code of a checkout in a process of its own."""
    command = [sys.executable, str(HERE / "bench_vain.py"), "--measure", way, "--documents", str(options.documents)]
    command += ["--chars", str(options.chars), "--batch", str(FORMER_BATCH if way == BEFORE else options.batch)]
    path = f"{root / 'src'}:{root / 'tests'}"
    done = subprocess.run(
        command, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_here(options: argparse.Namespace) -> None:
    """Print the counts of every kind of text as JSON."""
    importlib.import_module("support.world")  # of the checkout that is measured: corpora prefers that of this one
    from many_texts import DEMO, MIXED, TEXTS

    found = {}
    for kind in (DEMO, *TEXTS, MIXED):
        found[kind] = measure_kind(
            kind, options.documents, options.chars, batch=options.batch, exact=options.measure == EXACT
        )
        print(kind, found[kind], file=sys.stderr)
    print(json.dumps(found))


def measure_kind(kind: str, documents: int, chars: int, *, batch: int, exact: bool) -> dict[str, float]:
    """Return what a job over documents of one kind asks of the embedder."""
    import dataclasses

    from counting_embedder import CountingEmbedder
    from many_texts import make_objects

    from ingestion_engine.domain.spec import FrozenLimits
    from support.world import World

    embedder = CountingEmbedder(load_counter(), shows_tokenizer=exact)
    limits = FrozenLimits(embed_batch_texts=batch, embed_in_flight=2)
    world = World(embedder=embedder, limits=limits)  # type: ignore[arg-type]  # also fits the former code's port
    for key, body in make_objects(kind, documents, chars):
        world.bucket.put(key, body)
    ledger = world.submit(chunking={})
    engine = world.engine
    make_context = engine.context

    def context(ledger: Any) -> Any:
        made = make_context(ledger)
        former = hasattr(made, "context_length")  # a former commit has a length instead of a limit
        return dataclasses.replace(made, context_length=embedder.context_length) if former else made

    engine.context = context  # type: ignore[method-assign]  # replaced for this run only
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    chunks = summary["counts"]["chunks"]
    return {
        "chunks": chunks,
        "calls": embedder.calls + embedder.refused,
        "refused": embedder.refused,
        "refused_alone": embedder.refused_alone,
        "texts_in_vain": embedder.in_vain,
        "share_in_vain": embedder.tokens_in_vain / embedder.tokens,
    }


def load_counter() -> Any:
    """Return the token counter of all-MiniLM's runner, by the code of this checkout whatever is measured."""
    import orjson

    from ingestion_devstack.ollama.minilm import find_model_files

    path = ROOT / "src/ingestion_engine/adapters/ollama/word_pieces.py"
    spec = importlib.util.spec_from_file_location("word_pieces_of_this_checkout", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pieces: dict[str, int] = orjson.loads(find_model_files()[1].read_bytes())["model"]["vocab"]
    ordered = sorted(pieces, key=pieces.__getitem__)
    words = module.WordPieces([module.from_tokenizer_json(piece) for piece in ordered])
    return lambda text: len(words.encode(text)) + module.SPECIAL_TOKENS


def add_results(report: Report, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Add the aims and a table per 1,000 chunks."""
    for way in (EXACT, ESTIMATED):
        worst = max(results[way], key=lambda kind: results[way][kind]["share_in_vain"])
        share = results[way][worst]["share_in_vain"]
        report.targets.append(
            Target(f"share of inference in vain, {way}, the worst kind ({worst})", MOST_IN_VAIN, share, "")
        )
    rows = []
    for kind in results[EXACT]:
        for way in results:
            found = results[way][kind]
            per_1000 = 1000 / found["chunks"]
            rows.append(
                (
                    f"{kind}, {way}",
                    f"{found['chunks']:.0f}",
                    *(
                        f"{found[name] * per_1000:.1f}"
                        for name in ("calls", "refused", "refused_alone", "texts_in_vain")
                    ),
                    f"{found['share_in_vain']:.2%}",
                )
            )
    heads = ("kind of text", "chunks", "calls", "refused", "refused alone", "texts in vain", "inference in vain")
    report.add_table(heads, rows, note="Per 1,000 chunks:")
    report.data = {"results": results}


if __name__ == "__main__":
    main()
