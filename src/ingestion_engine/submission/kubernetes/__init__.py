"""SparkApplications on Kubernetes: the manifest and a typed client. What does not belong: decisions."""
