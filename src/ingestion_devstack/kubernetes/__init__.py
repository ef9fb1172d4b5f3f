"""A stand-in for Kubernetes with the Spark operator, over real spark-submit. What does not belong: product code."""
