"""The audit log: who has done what, from where, on what, with what outcome. Append-only.

What does not belong: what a request is (api.audit, server.audit).
"""
