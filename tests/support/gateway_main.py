"""``ingest gateway`` in a process of its own, for which a gateway is dead after less silence than usual."""

from __future__ import annotations

import sys

from ingestion_engine.gateway.serve import serve
from ingestion_engine.runtime.settings import load_settings

if __name__ == "__main__":
    serve(load_settings(), dead_s=float(sys.argv[1]))
