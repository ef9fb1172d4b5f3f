"""Request bodies shown in the API's documentation; a test submits each of them."""

from __future__ import annotations

from typing import Any, Final

JOB_EXAMPLES: Final[dict[str, Any]] = {
    "smallest": {
        "summary": "A whole bucket into both stores, with defaults",
        "value": {"source": {"bucket": "docs"}, "collection": "docs"},
    },
    "everything": {
        "summary": "Every field",
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
            "failure_budget": {"max_fraction": 0.1, "min_objects": 20},
            "max_runtime_s": 86400,
            "metadata": {"team": "docs"},
        },
    },
    "blue_green": {
        "summary": "A new version with another model, behind an alias that moves when it is whole",
        "value": {
            "source": {"bucket": "docs", "prefix": "handbook/"},
            "alias": "handbook_live",
            "embedding": {"model": "all-minilm"},
        },
    },
    "plan": {
        "summary": "Only say what a sync would do",
        "value": {"source": {"bucket": "docs", "prefix": "handbook/"}, "collection": "handbook", "mode": "plan"},
    },
    "verify": {
        "summary": "Compare both stores with each other and with what was written; needs an existing collection",
        "value": {"source": {"bucket": "docs"}, "collection": "handbook", "mode": "verify"},
    },
}

SEARCH_EXAMPLES: Final[dict[str, Any]] = {
    "smallest": {
        "summary": "The ten nearest passages of every store",
        "value": {"collection": "handbook", "query": "how do I reset my password?"},
    },
    "below": {
        "summary": "Only passages of objects under a prefix",
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
