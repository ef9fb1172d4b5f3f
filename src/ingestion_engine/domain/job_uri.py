"""The URI by which drivers and workers find a job: where its spec is, how to reach it, and the worker's slot.

``s3://bucket/prefix/jobs/JOB/spec.json?endpoint_url=http%3A%2F%2Fminio%3A9000&region=eu-west-1#3``
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlencode

from ingestion_engine.domain.errors import FatalError

_PATTERN = re.compile(r"(?P<state_url>.+)/jobs/(?P<job_id>[^/]+)/spec\.json(?:\?(?P<query>[^#]*))?(?:#(?P<slot>\d+))?")


@dataclass(frozen=True, slots=True)
class JobUri:
    """The parts of a job's URI; ``str`` joins them and ``parse`` is its inverse. Holds no secret."""

    state_url: str
    """URL of the state store."""
    job_id: str
    endpoint_url: str | None = None
    """Endpoint of the state store's S3; None means the process's own setting."""
    region: str | None = None
    """Region of the state store's S3; None means the process's own setting."""
    ca_file: str | None = None
    """Path of the file of authorities to trust, for a process without a setting of its own; None means the usual ones.
    """
    slot: int | None = None
    """Number of a place in the engine's window, which no two tasks have at the same time.

    A worker process embeds on a server of its own by the slot of its first partition; without a slot it takes turns.
    """

    @classmethod
    def parse(cls, text: str) -> JobUri:
        """Return the parts of a URI. Pure.

        Raises:
            FatalError: "spec_uri_invalid".
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise FatalError(
                "spec_uri_invalid",
                f"{text!r} is not the URI of a job's spec.",
                hint="Use a URI such as s3://bucket/prefix/jobs/job-.../spec.json.",
                uri=text,
            )
        query = parse_qs(match["query"] or "")
        return cls(
            state_url=match["state_url"],
            job_id=match["job_id"],
            endpoint_url=query.get("endpoint_url", [None])[0],
            region=query.get("region", [None])[0],
            ca_file=query.get("ca_file", [None])[0],
            slot=None if match["slot"] is None else int(match["slot"]),
        )

    def __str__(self) -> str:
        query = urlencode(self.location | ({} if self.ca_file is None else {"ca_file": self.ca_file}))
        mark = "" if self.slot is None else f"#{self.slot}"
        return f"{self.spec_uri}?{query}{mark}" if query else f"{self.spec_uri}{mark}"

    @property
    def spec_uri(self) -> str:
        """The URI of the spec alone."""
        return f"{self.state_url}/jobs/{self.job_id}/spec.json"

    @property
    def location(self) -> dict[str, str]:
        """The endpoint and region that the URI names, by the names of ``S3Settings``."""
        named = {"endpoint_url": self.endpoint_url, "region": self.region}
        return {name: value for name, value in named.items() if value is not None}

    def with_slot(self, slot: int) -> JobUri:
        """Return the URI for a worker in one of the engine's slots. Pure."""
        return replace(self, slot=slot)
