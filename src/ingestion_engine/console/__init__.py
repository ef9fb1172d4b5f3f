"""The web console: pages over the same services as the HTTP API, without logic of its own.

What does not belong: what a page shows (services), bodies (models), who a caller is (access).
"""
