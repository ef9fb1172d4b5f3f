"""The Ray engine. What does not belong: the Ray Jobs client, which is in ``submission``."""
