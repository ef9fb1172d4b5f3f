"""Request bodies in the API documentation; a test submits each of them."""

from __future__ import annotations

from typing import Any, Final

JOB_EXAMPLES: Final[dict[str, Any]] = {
    "smallest": {
        "summary": "Embed a whole bucket into both stores, with defaults",
        "value": {"source": {"bucket": "docs"}, "collection": "docs"},
    },
    "everything": {
        "summary": "All fields",
        "value": {
            "source": {"bucket": "docs", "prefix": "handbook/", "include": ["**/*.md", "**/*.pdf"], "exclude": []},
            "alias": "handbook_live",
            "collection": "handbook",
            "stores": ["qdrant", "weaviate"],
            "mode": "sync",
            "delete_missing": True,
            "allow_mass_delete": False,
            "retry_failed": False,
            "embedding": {"model": "all-minilm", "prefix": "", "query_prefix": ""},
            "chunking": {"max_chars": 1200, "overlap_chars": 150},
            "parallelism": 4,
            "priority": 5,
            "failure_budget": {"max_fraction": 0.1, "min_objects": 20},
            "max_runtime_s": 86400,
            "metadata": {"team": "docs"},
        },
    },
    "blue_green": {
        "summary": "Create a new version behind an alias, which moves when the job succeeds",
        "value": {
            "source": {"bucket": "docs", "prefix": "handbook/"},
            "alias": "handbook_live",
            "embedding": {"model": "all-minilm"},
        },
    },
    "plan": {
        "summary": "Plan a sync without running it",
        "value": {"source": {"bucket": "docs", "prefix": "handbook/"}, "collection": "handbook", "mode": "plan"},
    },
    "verify": {
        "summary": "Compare the stores with each other and with the record of what was written",
        "value": {"source": {"bucket": "docs"}, "collection": "handbook", "mode": "verify"},
    },
}

SEARCH_EXAMPLES: Final[dict[str, Any]] = {
    "smallest": {
        "summary": "Ten nearest passages of every store",
        "value": {"collection": "handbook", "query": "how do I reset my password?"},
    },
    "below": {
        "summary": "Passages of objects under a prefix",
        "value": {
            "collection": "handbook",
            "query": "how do I reset my password?",
            "filter": {"key_prefix": "handbook/it/"},
        },
    },
    "filtered": {
        "summary": "PDF files of one team, from one store",
        "value": {
            "collection": "handbook",
            "query": "how do I reset my password?",
            "limit": 3,
            "stores": ["qdrant"],
            "filter": {"bucket": "docs", "content_type": "application/pdf", "metadata": {"team": "docs"}},
        },
    },
}
