"""A corpus of difficult keys and documents, with the outcome of each."""
