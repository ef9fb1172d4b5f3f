"""The supervisor of the embedded stack and its servers. What does not belong: the stand-ins themselves."""
