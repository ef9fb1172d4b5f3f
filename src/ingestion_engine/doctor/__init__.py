"""``ingest doctor``: checks every system that this process would use, from where it runs, and says what to do.

What does not belong: the command line and its output, and repairing anything. Checks that only the service needs import
what they need when they run, so that a worker without a database driver or a Kubernetes client checks the rest.
"""
