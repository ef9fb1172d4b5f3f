"""LangChain as its documentation shows it: splitter, OllamaEmbeddings, QdrantVectorStore.from_documents."""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_ollama import OllamaEmbeddings
from langchain_qdrant import QdrantVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from task import CHUNK_CHARS, read_objects, read_task, say_done


def main() -> None:
    task = read_task()
    documents = [Document(body.decode(), metadata={"source": key}) for key, body in read_objects(task["s3"])]
    splitter = RecursiveCharacterTextSplitter(chunk_size=CHUNK_CHARS, chunk_overlap=0)
    chunks = splitter.split_documents(documents)
    QdrantVectorStore.from_documents(
        chunks,
        OllamaEmbeddings(model=task["model"], base_url=task["ollama"]),
        url=task["qdrant"],
        collection_name=task["collection"],
    )
    say_done(len(chunks))


if __name__ == "__main__":
    main()
