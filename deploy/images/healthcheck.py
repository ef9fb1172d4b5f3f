"""Exit with 0 when the process that listens on a port of this container answers ``GET /livez``, otherwise with 1.

``healthcheck.py 8080 [PATH]``. Uses the standard library only, because the image has no curl, and no proxy of the
environment.
"""

import http.client
import sys

TIMEOUT_S = 4
"""Less than the time limit of the image's HEALTHCHECK, so that the reason is printed."""


def main(port: str, path: str = "/livez") -> int:
    """Return the exit status; print the reason of a failure, which `docker inspect` shows."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"No answer on port {port}: {error}\n")
        return 1
    if answer.status != http.HTTPStatus.OK:
        sys.stdout.write(f"GET {path} on port {port} answered {answer.status}.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
