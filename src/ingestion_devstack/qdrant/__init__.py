"""A stand-in for Qdrant over the real Qdrant engine. Product code does not belong here."""
