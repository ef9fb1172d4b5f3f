"""``ingest gateway``: Ollama's API in front of a pool of Ollama servers, with one fair queue.

It passes bodies through and knows texts only by number and length. Jobs, documents and stores do not belong here: a job
is a flow of requests with a name.
"""
