"""The web console: pages over the same services as the HTTP API, without logic of its own.

Pages are rendered on the server and work without JavaScript; htmx replaces parts of them while they are open. Nothing
is loaded from another server, and no script or style is inline.

What does not belong: what a page shows (services), bodies (models), who a caller is (access).
"""
