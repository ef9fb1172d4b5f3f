"""The Spark engine. Does not contain the SparkApplication client, which is in ``submission``."""
