"""The end-to-end demo and its corpus; nothing here is used by tests or by the stack."""
