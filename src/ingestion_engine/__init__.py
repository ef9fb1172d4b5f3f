"""Keep Qdrant and Weaviate in sync with the documents under an S3 prefix, on Ray, Spark or one machine.

Every listed object is accounted for. Repeated runs leave the same points: ids are deterministic and writes idempotent.
Equality of both stores is checked by ``verify`` and restored by ``repair``; see docs/architecture.md for the one case
in which a late writer makes them necessary.
"""

__version__ = "0.2.0"
