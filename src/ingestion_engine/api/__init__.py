"""The HTTP API: routes, their dependencies and views, problem+json, metrics, the composition of the services.

What does not belong: bodies (models), who a caller is (access), business logic (services), the server (server).
"""
