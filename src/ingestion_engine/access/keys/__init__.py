"""API keys: their form, their entries in a file or in the database, and how they are made, rotated and revoked.

What does not belong: what a caller may do (access.principal), tokens of a provider (access.oidc).
"""
