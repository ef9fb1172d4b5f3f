"""The jobs that have not ended, kept in memory between the dispatcher's looks."""

from __future__ import annotations

from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_store import JobStore


class ActiveJobs:
    """All jobs that have not ended; of those known already only the rows that have changed are read again.

    The table alone is the truth: rows that another copy of the service wrote are read like all others, and after a
    restart everything is.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._held: dict[str, JobRecord] = {}

    async def read(self) -> list[JobRecord]:
        """Return them as they are now, oldest first: the order of admission.

        Cost: one query for ids and revisions; one more per ``READ_ROWS`` rows that have changed.
        """
        revisions = await self._store.list_revisions()
        held = self._held
        changed = [job_id for job_id, revision in revisions if job_id not in held or held[job_id].revision != revision]
        fresh = {job.id: job for job in await self._store.get_many(changed)} if changed else {}
        # A row that changed again between the two queries is newer than its revision here; it may have ended.
        found = {job_id: fresh.get(job_id) or held.get(job_id) for job_id, _ in revisions}
        self._held = {job_id: job for job_id, job in found.items() if job is not None and not job.state.is_final}
        return list(self._held.values())
