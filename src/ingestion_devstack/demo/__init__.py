"""The end-to-end demo and its corpus. What does not belong: anything tests or the stack need."""
