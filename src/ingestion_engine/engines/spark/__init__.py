"""The Spark engine. What does not belong: the SparkApplication client, which is in ``submission``."""
