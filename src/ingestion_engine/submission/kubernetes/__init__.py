"""SparkApplications on Kubernetes: manifest and typed client. What does not belong: decisions."""
