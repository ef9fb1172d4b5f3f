"""The bodies of requests and responses: what the HTTP API and its clients share.

What does not belong: how a body is made (api.views), what is stored (domain, services).
"""
