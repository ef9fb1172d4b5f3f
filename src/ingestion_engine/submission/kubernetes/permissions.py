"""What the client's account must be allowed to do, as data: the client, `ingest doctor`, the Role in the documentation
and the chart's Role are all compared with it.

Requests that every authenticated account may make by default are not listed: the version, discovery, and reviews of the
account's own access (the ClusterRoles ``system:public-info-viewer``, ``system:discovery`` and ``system:basic-user``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GROUP: Final = "sparkoperator.k8s.io"
VERSION: Final = "v1beta2"
PLURAL: Final = "sparkapplications"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """One verb on one resource in the namespace of the applications, as a rule of a Role grants it."""

    verb: str
    resource: str
    """Plural name; a subresource follows after a slash: ``pods/log``."""
    group: str = ""
    """API group; empty for the core group."""
    required: bool
    """False where the service works without it, and only explains less."""
    purpose: str
    """What the service does with it, as the end of a sentence that begins with "to"."""

    def __str__(self) -> str:
        """The permission in a few words: ``get pods/log``."""
        return f"{self.verb} {self.resource}"


CREATE_APPLICATION: Final = Permission(
    verb="create", resource=PLURAL, group=GROUP, required=True, purpose="start the driver of an attempt"
)
GET_APPLICATION: Final = Permission(
    verb="get", resource=PLURAL, group=GROUP, required=True, purpose="follow the state of an attempt"
)
DELETE_APPLICATION: Final = Permission(
    verb="delete", resource=PLURAL, group=GROUP, required=True, purpose="stop the driver of a canceled job"
)
READ_LOG: Final = Permission(verb="get", resource="pods/log", required=True, purpose="show the log of a driver")
GET_POD: Final = Permission(
    verb="get", resource="pods", required=False, purpose="tell why a driver does not start, or was ended"
)
LIST_EVENTS: Final = Permission(
    verb="list", resource="events", required=False, purpose="tell why a driver's pod does not start"
)

PERMISSIONS: Final = (CREATE_APPLICATION, GET_APPLICATION, DELETE_APPLICATION, READ_LOG, GET_POD, LIST_EVENTS)
"""Every permission that the client uses, the required ones first."""
