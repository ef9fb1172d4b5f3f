"""What pages call the operations of the audit log.

A title says what was asked for, not what became of it, because the same operation is done, refused or fails.
"""

from __future__ import annotations

from typing import Final

CONSOLE: Final = "console."
"""Beginning of operations of the console."""

TITLES: Final = {
    # -- HTTP API: as in OpenAPI, and forms of the console with the same effect ----------------------------------------
    "submit_ray_job": "Submit a job to Ray",
    "submit_spark_job": "Submit a job to Spark",
    "show_spark_manifest": "Preview the SparkApplication of a request",
    "list_jobs": "List jobs",
    "get_job": "Get a job",
    "list_failures": "List the failed objects of a job",
    "read_logs": "Read the log of a job's driver",
    "cancel_job": "Cancel a job",
    "retry_job": "Retry the failed objects",
    "follow_job": "Follow a job",
    "search": "Search a collection",
    "list_aliases": "List aliases",
    "get_alias": "Get an alias",
    "roll_back_alias": "Roll back an alias",
    "prune_alias": "Drop former versions of an alias",
    "remove_alias": "Remove an alias",
    "list_collections": "List collections",
    "get_collection": "Get a collection",
    "delete_collection": "Delete a collection",
    "list_objects": "List the objects of a collection",
    "list_chunks": "List the chunks of an object as every store holds them",
    "delete_objects": "Remove objects from a collection",
    "get_drain": "Show whether the service is drained",
    "start_drain": "Drain the service",
    "end_drain": "End draining",
    "list_audit": "List the audit log",
    "livez": "Liveness probe",
    "readyz": "Readiness probe",
    "metrics": "Metrics for Prometheus",
    "describe_api": "Read the OpenAPI document",
    "show_documentation": "Open the documentation of the HTTP API",
    "start_documentation": "Load the script of the documentation",
    # -- forms of the console ------------------------------------------------------------------------------------------
    "console.send_form": "Submit or plan a job",
    "console.start_plan": "Start a planned job",
    "console.cancel_one": "Cancel a job",
    "console.retry_one": "Retry the failed objects",
    "console.submit_comparison": "Verify or repair a collection",
    "console.set_drain": "Drain the service, or end draining",
    "console.log_in": "Log in with an API key",
    "console.log_out": "Log out",
    "console.log_out_by_provider": "Log-out reported by the provider",
    # -- pages of the console ------------------------------------------------------------------------------------------
    "console.show_job": "Open a job",
    "console.show_failures_part": "Open the failures of a job",
    "console.follow_one": "Follow a job",
    "console.show_log": "Open the log of a job's driver",
    "console.show_job_form": "Open the form for a job",
    "console.show_plan": "Open the plan of a job",
    "console.show_collection": "Open a collection",
    "console.ask_comparison": "Ask to verify or repair a collection",
    "console.ask_delete": "Ask to delete a collection",
    "console.show_object": "Open an object",
    "console.ask_removal": "Ask to remove objects from a collection",
    "console.show_search": "Open the search",
    "console.show_alias": "Open an alias",
    "console.ask_rollback": "Ask to roll back an alias",
    "console.ask_prune": "Ask to drop former versions of an alias",
    "console.ask_remove": "Ask to remove an alias",
    "console.show_system": "Open the system",
    "console.ask_drain": "Ask to drain the service, or to end draining",
    "console.show_log_in": "Open the log-in",
    "console.begin_at_provider": "Begin a log-in at the provider",
    "console.complete_at_provider": "Log in at the provider",
    "console.begin_log_out_at_provider": "Begin a log-out at the provider",
    "console.show_logged_out": "Come back from the log-out at the provider",
    "console.show_asset": "Load a file of the console",
    "console.show_nothing": "Open a page that does not exist",
    # -- commands, and what the service does by itself -----------------------------------------------------------------
    "keys.create": "Create an API key",
    "keys.rotate": "Rotate an API key",
    "keys.revoke": "Revoke an API key",
    "audit.remove": "Remove old entries of the audit log",
    "unmatched": "Request without a known operation",
    "*": "Various operations",
}
"""Title of each operation. A form of the console without a title of its own has that of the API's operation."""


def title_of(operation: str) -> str:
    """Return what pages call an operation; one of another version is shown by its own name, as words. Pure."""
    plain = operation.removeprefix(CONSOLE)
    return TITLES.get(operation) or TITLES.get(plain) or plain.replace("_", " ").replace(".", " ").capitalize()
