"""The ``ingest`` command. What does not belong: logic of the service, which commands call over HTTP.

Exit codes, for scripts:

==== ===============================================================
0    succeeded
1    unexpected error, a comparison found differences, or a check failed
2    wrong command line, or a required package is not installed
3    the job failed
4    the job partially succeeded: some objects failed
5    the service refused the request; the error names the reason
6    the job was canceled
7    the service, or a system that a command uses, is unreachable
==== ===============================================================
"""

from __future__ import annotations

import sys

from ingestion_engine.cli import aliases, audit, data, doctor, drain, jobs, keys, service, upload
from ingestion_engine.cli.output import run_app
from ingestion_engine.cli.root import app

__all__ = ["app", "main"]

for commands in (upload, jobs, data, aliases, service, drain, keys, audit, doctor):
    commands.register(app)


def main() -> None:
    """Run the command line of this process and exit with the command's exit code."""
    sys.exit(run_app(app))
