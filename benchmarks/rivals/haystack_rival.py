"""Haystack as its documentation shows it: a Pipeline of converter, splitter, OllamaDocumentEmbedder and writer."""

from __future__ import annotations

from haystack import Pipeline
from haystack.components.converters import TextFileToDocument
from haystack.components.preprocessors import RecursiveDocumentSplitter
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream
from haystack_integrations.components.embedders.ollama import OllamaDocumentEmbedder
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from task import BATCH_TEXTS, CHUNK_CHARS, read_objects, read_task, say_done


def main() -> None:
    task = read_task()
    pipeline = Pipeline()
    pipeline.add_component("convert", TextFileToDocument())
    pipeline.add_component(
        "split",
        RecursiveDocumentSplitter(
            split_length=CHUNK_CHARS, split_overlap=0, split_unit="char", separators=["\n\n", "\n", ". ", " "]
        ),
    )
    embedder = OllamaDocumentEmbedder(
        model=task["model"], url=task["ollama"], batch_size=BATCH_TEXTS, progress_bar=False
    )
    pipeline.add_component("embed", embedder)
    store = QdrantDocumentStore(
        url=task["qdrant"], index=task["collection"], embedding_dim=task["dimension"], progress_bar=False
    )
    pipeline.add_component("write", DocumentWriter(store))
    for sender, receiver in (("convert", "split"), ("split", "embed"), ("embed", "write")):
        pipeline.connect(sender, receiver)
    sources = [ByteStream(body, meta={"key": key}) for key, body in read_objects(task["s3"])]
    say_done(pipeline.run({"convert": {"sources": sources}})["write"]["documents_written"])


if __name__ == "__main__":
    main()
