"""Who a caller is, and what a caller may do.

What does not belong: HTTP (api, server), pages (console), what is done for a caller (services).
"""
