"""One file per vendor: how a port is spoken in a vendor's words. What does not belong: decisions, other adapters."""
