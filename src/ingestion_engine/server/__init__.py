"""The process that serves HTTP: the application, what every request passes through, and the server.

What does not belong: routes and their dependencies (api), pages (console).
"""
