"""What became of a request, for the audit log."""

from __future__ import annotations

from ingestion_engine.domain.names import OpenName


class Outcome(OpenName):
    """What became of a request."""

    BEGUN = "begun"
    """A change that was about to be made. Alone, without an entry of its end: it is still being made, or the process
    ended meanwhile, and whether the change was made is to be seen in the system itself."""
    DONE = "done"
    """The change was made, or ordered (202)."""
    REFUSED = "refused"
    """The caller, or the place it called from, may not do this (401, 403, 421), or not as often (429)."""
    FAILED = "failed"
    """Nothing refused the caller, but the change was not made, or not wholly: the code names the reason."""
