"""The HTTP client passes bytes and headers through where its owner asks for it."""

from __future__ import annotations

import gzip

from ingestion_engine.adapters.transport import HttpClient
from support.answering import serving

_BODY = gzip.compress(b'{"embeddings": []}')


async def test_an_encoded_response_stays_as_it_is() -> None:
    """Without ``decompress`` the bytes are those of the server, and the header names their encoding."""
    with serving({"*": lambda _: (200, _BODY, {"Content-Encoding": "gzip"})}) as url:
        for decompress, expected in ((True, gzip.decompress(_BODY)), (False, _BODY)):
            client = HttpClient("ollama", connect_timeout_s=5, decompress=decompress)
            response = await client.request("GET", url, "/", timeout_s=5, headers={"accept-encoding": "identity"})
            await client.close()
            assert (response.content, response.headers["content-encoding"]) == (expected, "gzip")
