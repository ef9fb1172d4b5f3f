"""The routes of the HTTP API, one module for each group.

What does not belong: what several routes use (api.dependencies, api.views), business logic (services).
"""
