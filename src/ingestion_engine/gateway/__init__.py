"""``ingest gateway``: Ollama's API in front of a pool of Ollama servers, with one fair queue.

What does not belong here: jobs, documents, stores and texts. A job is a flow of requests with a name, and a text is a
number of characters; bodies are passed through.
"""
