"""LlamaIndex as its documentation shows it: an IngestionPipeline of splitter and OllamaEmbedding into Qdrant."""

from __future__ import annotations

from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from task import BATCH_TEXTS, read_objects, read_task, say_done

CHUNK_TOKENS = 240
"""About 1,000 characters of the corpus; this splitter counts tokens."""


def main() -> None:
    task = read_task()
    documents = [Document(text=body.decode(), doc_id=key) for key, body in read_objects(task["s3"])]
    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=CHUNK_TOKENS, chunk_overlap=0),
            OllamaEmbedding(model_name=task["model"], base_url=task["ollama"], embed_batch_size=BATCH_TEXTS),
        ],
        vector_store=QdrantVectorStore(client=QdrantClient(url=task["qdrant"]), collection_name=task["collection"]),
    )
    say_done(len(pipeline.run(documents=documents)))


if __name__ == "__main__":
    main()
