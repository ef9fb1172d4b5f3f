"""The HTTP API: routes, their dependencies and views, problem+json, authentication, the composition root.

What does not belong: business logic (services), engines, the pipeline.
"""
