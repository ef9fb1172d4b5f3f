"""The Ray engine. Does not contain the Ray Jobs client, which is in ``submission``."""
