"""A plain reverse proxy, as nginx or Olla without queues: each request goes to the next server at once.

    python benchmarks/pass_through.py http://127.0.0.1:11434 http://127.0.0.1:11435

It knows no flows, no caps and no state of a server. What a server answers is the answer; a server that does not answer
gives 502.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Sequence

from http_client import Connection, ConnectionLost
from http_server import Reply, Request, answer_json, make_answer, serve

KEPT = ("content-type", "retry-after")


class PassThrough:
    """Request handler of the proxy."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._turn = itertools.cycle(servers)
        self._free: dict[str, list[Connection]] = {url: [] for url in servers}
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request; ``GET /cpu`` is the proxy's own processor time."""
        if request.path == "/cpu":
            reply(answer_json({"cpu_s": time.process_time()}))
            return
        task = asyncio.get_running_loop().create_task(self._forward(request, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, request: Request, reply: Reply) -> None:
        url = next(self._turn)
        connection = self._free[url].pop() if self._free[url] else Connection(url)
        path = request.path + (f"?{request.query}" if request.query else "")
        try:
            answer = await connection.request(request.method, path, b"content-type: application/json\r\n", request.body)
        except ConnectionLost as error:
            reply(answer_json({"error": str(error)}, status="502 Bad Gateway"))
            return
        finally:
            self._free[url].append(connection)
        headers = "".join(f"{name}: {answer.headers[name]}\r\n" for name in KEPT[1:] if name in answer.headers)
        kind = answer.headers.get(KEPT[0], "application/json")
        reply(make_answer(answer.body, status=f"{answer.status} Passed", kind=kind, headers=headers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+")
    options = parser.parse_args()
    serve(PassThrough(options.servers).handle, 1)


if __name__ == "__main__":
    main()
