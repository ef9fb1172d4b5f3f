"""A stand-in for Kubernetes with the Spark operator, over real spark-submit. Product code does not belong here."""
