"""The filter form of the list of jobs: what its fields mean, and the URL of a filtered list."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from ingestion_engine.access.principal import Principal
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.job_store import JobFilter

ACTIVE: Final = "active"
ENDED: Final = "ended"

STATES: Final = {
    "": "Any state",
    ACTIVE: "Under way or waiting",
    ENDED: "Ended",
    **{state.value: state.value.replace("_", " ").capitalize() for state in JobState},
}
"""Choices of the field ``state``."""

PERIODS: Final = {
    "": "Any time",
    "1h": "Last hour",
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
}
"""Choices of the field ``since``."""

_UNITS: Final = {"h": 3_600, "d": 86_400}
_TEXT_MAX: Final = 128
"""Longest text of a field; as long as the longest name of a collection or an owner."""


@dataclass(frozen=True, slots=True)
class JobListForm:
    """The fields as texts; empty means any value. What no field can mean is taken as empty."""

    state: str = ""
    engine: str = ""
    collection: str = ""
    owner: str = ""
    since: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> JobListForm:
        """Return the fields of a URL. Pure."""
        texts = {name: query.get(name, "").replace("\x00", "").strip()[:_TEXT_MAX] for name in cls.__slots__}
        allowed = {"state": STATES, "engine": set(EngineName), "since": PERIODS}
        for name, choices in allowed.items():
            if texts[name] not in choices:
                texts[name] = ""
        return cls(**texts)

    @property
    def is_empty(self) -> bool:
        """True when every job is listed."""
        return self == JobListForm()

    def url(self, **more: str) -> str:
        """Return the URL of the list, with more parameters. Pure."""
        values = {name: getattr(self, name) for name in self.__slots__} | more
        query = urlencode({name: value for name, value in values.items() if value})
        return f"/?{query}" if query else "/"

    def condition(self, viewer: Principal, now: Moment) -> JobFilter:
        """Return the condition on the jobs that a viewer may see. Pure."""
        after = None
        if self.since:
            # On whole minutes, so that readers of the same list at about the same time share one query.
            seconds = int(self.since[:-1]) * _UNITS[self.since[-1]]
            after = now.replace(second=0, microsecond=0) - dt.timedelta(seconds=seconds)
        return JobFilter(
            engine=EngineName(self.engine) if self.engine else None,
            states=self._states(),
            collection=self.collection or None,
            owner=self.owner or None,
            created_after=after,
            seen_by=viewer.sees_jobs_of,
        )

    def _states(self) -> tuple[JobState, ...] | None:
        if not self.state:
            return None
        if self.state == ACTIVE:
            return tuple(state for state in JobState if state not in FINAL_STATES)
        return tuple(FINAL_STATES) if self.state == ENDED else (JobState(self.state),)
