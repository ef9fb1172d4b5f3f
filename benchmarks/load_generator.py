"""Bare load generator: the rate of the embedder itself, measured by a client that does nothing else.

One body of 32 texts is sent repeatedly over two connections per endpoint, so that no endpoint waits for a client;
answers are read and discarded.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

TEXTS = 32
TEXT_CHARS = 1000
CONNECTIONS = 2
"""Connections per endpoint: one request is processed while the next waits."""


def measure_capacity(urls: list[str], model: str, seconds: float) -> float:
    """Return the texts per second of all endpoints together, measured over about ``seconds``."""
    body = json.dumps({"model": model, "input": ["x" * TEXT_CHARS] * TEXTS, "truncate": False}).encode()
    answered: list[int] = []
    deadline = time.monotonic() + seconds

    def ask_on(url: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        count = 0
        while time.monotonic() < deadline:
            connection.request("POST", "/api/embed", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the embedder answered {answer.status}")
            count += 1
        connection.close()
        answered.append(count)

    threads = [threading.Thread(target=ask_on, args=(url,)) for url in urls for _ in range(CONNECTIONS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answered) < len(threads):
        raise RuntimeError("a thread of the load generator failed")
    return sum(answered) * TEXTS / (time.monotonic() - started)
