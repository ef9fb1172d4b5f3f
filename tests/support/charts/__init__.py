"""The Helm chart under test: rendered by Helm itself, and checked without a cluster."""
