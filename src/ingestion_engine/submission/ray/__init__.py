"""The typed client of the Ray Jobs API, and the package that is shipped to Ray. What does not belong: decisions."""
