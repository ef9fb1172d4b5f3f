"""S3: the object source and the state store. What does not belong: decisions, other adapters."""
