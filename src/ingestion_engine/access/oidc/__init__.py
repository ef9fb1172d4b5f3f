"""OpenID Connect: the provider's documents and keys, its tokens, and what their holders may do.

What does not belong: API keys (access.keys), sessions (access.sessions), cookies and pages (console).
"""
