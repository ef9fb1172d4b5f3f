"""S3: object source and state store. What does not belong: decisions, other adapters."""
